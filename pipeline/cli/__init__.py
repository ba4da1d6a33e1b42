"""Command line of the pipeline: one module for each group of commands, put together in ``main``."""
