"""Statistics of a data set: the features that are measured, and one pass that collects them."""
