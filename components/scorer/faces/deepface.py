"""Face networks that the package ``deepface`` (MIT) builds and finds weights for: VGG-Face and its siblings.

The package is no part of any lock: it asks for another build of OpenCV, which would overwrite ours. Without what it
asks for it does all that is needed here. Its weights are other people's: those of VGG-Face are for research only.
Where the network is closed to it, they have to lie in ``$DEEPFACE_HOME/.deepface/weights`` before.
"""

import hashlib
import importlib.util
import os
from typing import Any

PREFIX = "deepface:"
INSTALL = (
    "pip install --no-deps deepface==0.0.103 gdown==6.5.1 beautifulsoup4==4.15.0 soupsieve==4.1.3 filelock==4.2.12"
)

_BACKEND = "tensorflow"  # of those that the package has, the one whose networks Keras can cut and export


def check(name: str) -> None:
    """Find out whether the package is here and knows a network, without loading TensorFlow.

    Raises:
        ValueError: it is not, or does not.
    """
    if importlib.util.find_spec("deepface") is None:
        raise ValueError(f"expected the package deepface, which is not installed: {INSTALL}")
    from deepface.modules.modeling import AVAILABLE_MODELS

    known = sorted(each for each, sources in AVAILABLE_MODELS["facial_recognition"].items() if _BACKEND in sources)
    if name not in known:
        raise ValueError(f"expected {PREFIX} and one of {', '.join(known)}, got {name!r}")


def build(name: str) -> Any:
    """The Keras network of a name, with its weights, which the package downloads where they are not in its folder.

    Raises:
        ValueError: the weights are not there and cannot be downloaded, or are those of another network.
    """
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", _BACKEND)
    try:
        from deepface.modules import modeling

        return modeling.build_model("facial_recognition", name).model
    except (ImportError, OSError) as error:
        raise ValueError(f"deepface cannot build its network: {error}; it needs: {INSTALL}") from error


def digest(network: Any) -> str:
    """SHA-256 of a network's weights, in their order: the package does not say which file they came from."""
    summed = hashlib.sha256()
    for values in network.get_weights():
        summed.update(values.tobytes())
    return summed.hexdigest()
