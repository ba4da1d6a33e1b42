"""Artifacts of training and publishing: the bundle, the SavedModel, the LiteRT version, the warm-up requests."""
