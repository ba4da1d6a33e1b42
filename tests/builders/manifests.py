"""Path of the manifests, and the Kubernetes versions that they are checked for."""

from pathlib import Path

import kubernetes_validate

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "images" / "manifests"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
