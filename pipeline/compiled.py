"""The compiled pipeline, ``pipeline.yaml``: what Kubeflow is given, the same bytes at each compilation."""

import difflib
import tempfile
from functools import cache
from pathlib import Path

from kfp import compiler

from pipeline.pipeline import portrait_scorer

PATH = Path(__file__).resolve().parents[1] / "pipeline.yaml"
_HINT = 12  # lines of the difference that show what is stale


@cache
def compiled() -> str:
    """Two YAML documents: the pipeline, and what Kubernetes is asked for beyond it (pools, timeouts, volumes)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PATH.name)
        compiler.Compiler().compile(portrait_scorer, str(path))
        return path.read_text(encoding="utf-8")


def difference(path: Path = PATH) -> str:
    """The first lines in which a compiled file differs from the code; empty when it is fresh."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = compiled()
    if old == new:
        return ""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), "compiled now", lineterm="", n=1)
    return "\n".join(line for _, line in zip(range(_HINT), lines, strict=False))
