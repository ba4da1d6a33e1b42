"""The house: imports go one way, and compiling loads no TensorFlow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "images" / "steps" / "train.py"
FILES = sorted(path for part in ("pipeline", "components", "images") for path in (ROOT / part).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, with ``from a import b`` as ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """``pipeline``, ``images``, or the room of ``components`` that a module or file belongs to."""
    parts = re.split(r"[./]", name)
    return parts[1] if parts[0] == "components" and len(parts) > 1 else parts[0]


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("pipeline", "components", "images")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_from_the_pipeline_to_contracts_to_steps_to_the_scorer(path):
    here = room(str(path.relative_to(ROOT)))
    for name in own(path):
        there = room(name)
        if here == "pipeline":
            contract = re.match(r"components\.\w+\.component\b", name)
            assert there in ("pipeline", "images", "scorer") or contract, f"{path} imports {name}"
        elif path == TRAIN:  # stands where the pipeline stands, but for the contracts: SageMaker has its own
            assert there in (here, "scorer", "ingestion", "pretraining", "training"), f"{path} imports {name}"
            assert ".component" not in name, f"{path} imports {name}"
        elif path.name == "component.py":
            assert there in (here, "scorer", "images"), f"{path} imports {name}"
        else:
            assert there in (here, "scorer"), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_pipeline_and_the_contracts_know_kfp(path):
    if room(str(path.relative_to(ROOT))) != "pipeline" and path.name != "component.py":
        assert not [name for name in imports(path) if name.split(".")[0].startswith("kfp")]


def test_no_module_or_folder_is_named_for_being_a_heap():
    heaps = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
    assert not [path for path in FILES if heaps & {*path.relative_to(ROOT).with_suffix("").parts}]


def test_compiling_the_pipeline_loads_no_tensorflow():
    code = "import sys; import pipeline.__main__; print([m for m in sys.modules if m in ('tensorflow', 'keras')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
