"""A data set and an encoder become a scorer bundle (NIMA)."""
