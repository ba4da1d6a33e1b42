"""A run of the pipeline: its paths, each step's status, the decision, and the checks before it begins."""
