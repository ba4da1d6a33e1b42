"""The exit handler: whatever happened to a run, people are told."""
