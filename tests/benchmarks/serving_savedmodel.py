"""The server with the SavedModel in place of the LiteRT network, as baseline for `serving_load`.

Everything else is the same: Nginx, Gunicorn, queue, ingestion's decoding. ``python -m`` takes the server's options.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

# Gunicorn reads this module as its settings: those of the server, except for the application.
from images.serving.process.gunicorn_settings import *  # noqa: F403
from images.serving.process.supervisor import main

wsgi_app = "tests.benchmarks.serving_savedmodel:create_app()"


def create_app() -> Any:
    """Return the server's application, with versions loaded by TensorFlow in the worker."""
    from components.scorer.artifacts import litert_model
    from images.serving.process import app

    litert_model.load = _load
    return app.create_app()


def _load(uri: str) -> Any:
    import tensorflow as tf

    from components.scorer.artifacts import litert_model, saved_model

    # Each core has a worker, so each gets one thread: more threads would only take turns.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    scorer = saved_model.load(uri)

    @dataclass(frozen=True)
    class OverTensorFlow(litert_model.LiteRTScorer):
        """A scorer that takes the encoded photo, as the signature does, which decodes, scales and crops it."""

        def build_inputs(self, photo: bytes, analysis: Any = None) -> dict[str, np.ndarray]:
            return {"pixels": np.array(photo, object)}

        def predict(self, inputs: dict[str, np.ndarray], jobs: Any = None) -> dict[str, np.ndarray]:
            return scorer.predict(list(inputs["pixels"]))

    return OverTensorFlow(**vars(_ORIGINAL(uri)))


def _original() -> Any:
    from components.scorer.artifacts import litert_model

    return litert_model.load


_ORIGINAL = _original()

if __name__ == "__main__":
    sys.exit(main(gunicorn_config="python:tests.benchmarks.serving_savedmodel"))
