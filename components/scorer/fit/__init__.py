"""Fitting: the training loop that can be resumed, checkpoints, averaged weights and distributed workers."""
