"""Kubeflow: client of its API, schedules, and the clean-up of runs and their checkpoints."""
