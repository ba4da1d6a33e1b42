"""Evaluation step: measures a scorer and the champion on the test split; gates decide on publication."""
