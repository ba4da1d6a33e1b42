"""Photos and human ratings become a checked, grouped, split TFDS data set."""
