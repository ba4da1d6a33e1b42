"""How well predicted votes agree with people's, how sure that is, and how well people agree with each other.

Agreement is measured on photos' mean scores, but for EMD, which compares whole distributions. Every metric reduces the
last axis, so that a matrix of resamples costs one call. A metric that the data do not define, such as a correlation
with constant predictions, is NaN: never 0, never an error. Nothing here imports more than NumPy and SciPy.
"""
