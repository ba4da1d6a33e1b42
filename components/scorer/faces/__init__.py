"""Faces: found, aligned and embedded the same in ingestion, training, evaluation and the server.

``weight_files`` prepares a folder of weights from the settings; ``detector`` and ``embedder`` load its networks;
``analyzer`` runs both on a photo; ``face_inputs`` states what a scorer takes of the result. No module here imports
TensorFlow or Keras, but ``weight_files`` and ``deepface`` while they export a Keras network.
"""
