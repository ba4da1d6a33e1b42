"""Synthetic portraits with simulated ratings: the sample on which the pipeline runs without real data.

The sample demonstrates the pipeline and serves tests with a known truth. It is never evidence of accuracy: the people
are drawn, the raters are simulated, and the quality of a photo is a formula of this project.

* ``portrait``: the properties of a portrait (``Portrait``) and its quality (``latent_quality``);
* ``drawing``: its image (``draw_portrait``);
* ``raters``: the simulated raters;
* ``folder``: the files (``draw``).
"""

from components.ingestion.sample.drawing import draw_portrait
from components.ingestion.sample.folder import SampleFiles, draw_sample
from components.ingestion.sample.portrait import Portrait, latent_quality, random_portrait

__all__ = ["Portrait", "SampleFiles", "draw_portrait", "draw_sample", "latent_quality", "random_portrait"]
