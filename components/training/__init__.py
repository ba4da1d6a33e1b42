"""Step that trains a scorer bundle from a data set and an encoder (NIMA)."""
