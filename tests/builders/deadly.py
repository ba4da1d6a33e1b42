"""Gunicorn's settings for tests: photos that contain `DEADLY` kill the process that decodes them."""

import os
import signal
import sys

from components.scorer.imaging import decoding
from images.serving.process.gunicorn_settings import *  # noqa: F403
from images.serving.process.supervisor import main

DEADLY = b"this photo kills the process that decodes it"

_decode = decoding.decode


def _dying(data: bytes, *arguments: object) -> decoding.DecodedPhoto:
    if DEADLY in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode(data, *arguments)


decoding.decode = _dying

if __name__ == "__main__":
    sys.exit(main(gunicorn_config="python:tests.builders.deadly"))
