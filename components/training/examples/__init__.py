"""Training examples: targets with label noise, face inputs, and degraded copies of photos."""
