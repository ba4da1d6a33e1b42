"""The client's upload norms: what a portrait must not be, checked photo by photo.

``policy`` reads the file of norms, ``detectors`` measures a photo, ``check`` applies the norms to it, ``accuracy``
compares the results with people's labels. Nothing here imports TensorFlow.
"""
