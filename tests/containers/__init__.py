"""Tests of the images, in a container engine: ``make test-containers``."""
