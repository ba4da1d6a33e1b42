"""Step that decides if a data set is worth training on, before GPUs are requested."""
