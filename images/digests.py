"""The images that the steps and the server run in.

A release (``make images PUSH=…``) writes digests here, ``name@sha256:…`` with the tag as a comment: the execution cache
of Kubeflow keys on this string and not on what it points at, so under a tag that moves, old results would pass for new
ones.
"""

STEPS_CPU = "portrait-scorer/steps:0.1.0-cpu"
STEPS_GPU = "portrait-scorer/steps:0.1.0-gpu"
SERVING = "portrait-scorer/serving:0.1.0"
