"""Face detection, alignment and embedding, the same in ingestion, training, evaluation and the server.

``weight_files`` prepares a folder of weights from the settings. ``detector`` and ``embedder`` load its networks.
``analyzer`` runs both on a photo. ``face_inputs`` defines which results a scorer takes as inputs. No module imports
TensorFlow or Keras, except ``weight_files`` and ``deepface`` while they export a Keras network.
"""
