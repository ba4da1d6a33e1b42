"""Names of the images of the steps and of the server.

A release (``make images PUSH=…``) writes digests here, ``name@sha256:…`` with the tag as a comment. Kubeflow's
execution cache uses this string as its key, and not the image's content. With a moving tag, the cache would return old
results for a new image.
"""

STEPS_CPU = "portrait-scorer/steps:0.1.0-cpu"
STEPS_GPU = "portrait-scorer/steps:0.1.0-gpu"
SERVING = "portrait-scorer/serving:0.1.0"
