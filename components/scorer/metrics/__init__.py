"""Metrics of predicted votes against people's votes, with bootstrap intervals, and agreement among raters.

Agreement is measured on photos' mean scores. EMD alone compares whole vote distributions. Every metric reduces the
last axis, so a matrix of resamples costs one call. A metric that the data do not define, such as a correlation with
constant predictions, is NaN: never 0, never an error. The modules import NumPy and SciPy only.
"""
