"""Synthetic portraits with simulated ratings: the sample that the pipeline runs on before it has data.

The sample is for seeing the pipeline work and for tests with a known truth. It is never evidence of accuracy:
the people are drawn, the raters are simulated, and what makes a photo good is a formula of this project.

* ``portrait``: what can be seen on a portrait (``Portrait``) and how good it is (``latent_quality``);
* ``drawing``: the picture of it (``draw_portrait``);
* ``raters``: who rates it;
* ``folder``: the files (``draw``).
"""

from components.ingestion.sample.drawing import draw_portrait
from components.ingestion.sample.folder import Sample, draw
from components.ingestion.sample.portrait import Portrait, latent_quality, random_portrait

__all__ = ["Portrait", "Sample", "draw", "draw_portrait", "latent_quality", "random_portrait"]
