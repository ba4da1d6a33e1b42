"""Face networks that the package ``deepface`` (MIT) builds and downloads weights for: VGG-Face and others.

No lock file lists the package: it requires another build of OpenCV, which would overwrite the installed one. It is
installed without its dependencies and works so here. The weights have their own licences: VGG-Face is for research
only. Where the package cannot download weights, they must lie in ``$DEEPFACE_HOME/.deepface/weights`` beforehand.
"""

import hashlib
import importlib.util
import os
from typing import Any

PREFIX = "deepface:"
INSTALL = (
    "pip install --no-deps deepface==0.0.103 gdown==6.5.1 beautifulsoup4==4.15.0 soupsieve==4.1.3 filelock==4.2.12"
)

_BACKEND = "tensorflow"  # the package's backend whose networks Keras can cut and export


def check_available(name: str) -> None:
    """Check that the package is installed and knows a network, without loading TensorFlow.

    Raises:
        ValueError: The package is not installed or does not know the network.
    """
    if importlib.util.find_spec("deepface") is None:
        raise ValueError(f"expected the package deepface, which is not installed: {INSTALL}")
    from deepface.modules.modeling import AVAILABLE_MODELS

    known = sorted(
        network for network, sources in AVAILABLE_MODELS["facial_recognition"].items() if _BACKEND in sources
    )
    if name not in known:
        raise ValueError(f"expected {PREFIX} and one of {', '.join(known)}, got {name!r}")


def build(name: str) -> Any:
    """Return a Keras network by name, with its weights. The package downloads weights that its folder lacks.

    Raises:
        ValueError: The weights are missing and cannot be downloaded, or belong to another network.
    """
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", _BACKEND)
    try:
        from deepface.modules import modeling

        return modeling.build_model("facial_recognition", name).model
    except (ImportError, OSError) as error:
        raise ValueError(f"deepface cannot build its network: {error}; it needs: {INSTALL}") from error


def digest(network: Any) -> str:
    """Return the SHA-256 of a network's weights in their order, since the package does not tell the source file."""
    sha256 = hashlib.sha256()
    for values in network.get_weights():
        sha256.update(values.tobytes())
    return sha256.hexdigest()
