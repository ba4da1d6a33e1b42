"""What training and publishing write: the bundle, the SavedModel, the LiteRT version, the warm-up requests."""
