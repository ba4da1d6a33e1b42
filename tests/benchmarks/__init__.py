"""Measurements of performance, printed as ratios within one run; not part of the tests."""
