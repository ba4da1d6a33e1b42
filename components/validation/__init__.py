"""Whether a data set is worth training on, before the GPUs are asked for."""
