"""Upload norms: the client's rules for acceptable portraits, checked photo by photo.

``policy`` reads the norms file, ``detectors`` measures a photo, ``check`` applies the norms to it, and ``accuracy``
compares the results with people's labels. Nothing here imports TensorFlow.
"""
