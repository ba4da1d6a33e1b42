"""Compiled pipeline, ``pipeline.yaml``, for Kubeflow; each compilation yields the same bytes."""

import difflib
import tempfile
from functools import cache
from pathlib import Path

from kfp import compiler

from pipeline.pipeline import portrait_scorer

PATH = Path(__file__).resolve().parents[1] / "pipeline.yaml"
_DIFF_LINES = 12  # lines of a diff that are shown


@cache
def compiled_yaml() -> str:
    """Return two YAML documents: the pipeline, and its Kubernetes platform settings (pools, timeouts, volumes)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PATH.name)
        compiler.Compiler().compile(portrait_scorer, str(path))
        return path.read_text(encoding="utf-8")


def difference(path: Path = PATH) -> str:
    """Return the first lines of a unified diff between a compiled file and the code; empty if the file is fresh."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = compiled_yaml()
    if old == new:
        return ""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), "compiled now", lineterm="", n=1)
    return "\n".join(line for _, line in zip(range(_DIFF_LINES), lines, strict=False))
