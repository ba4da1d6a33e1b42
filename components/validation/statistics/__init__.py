"""Statistics of a data set: the measured features, and one pass that collects them."""
