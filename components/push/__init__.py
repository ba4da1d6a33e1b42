"""Step that publishes a scorer that passed its gates as a version."""
