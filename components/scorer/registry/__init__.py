"""Published versions: their numbers, channels, files' digests, promotion, removal. Without TensorFlow."""
