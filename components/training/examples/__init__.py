"""What training learns from: targets with label noise, face inputs, and degraded copies of photos."""
