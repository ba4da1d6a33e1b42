"""Bundles load in a fresh process that imports only the loading module, and other formats are refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.scorer.artifacts import bundle
from components.scorer.model.network import FORMAT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
REGISTERED = re.compile(r"^@keras\.saving\.register_keras_serializable\(.*\)\n(?:class|def) (\w+)", re.MULTILINE)


def fresh(code: str) -> str:
    """Return what a new Python process prints."""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("module", ["artifacts.bundle", "fit.checkpoints"])
def test_every_registered_keras_class_is_imported_with_the_modules_that_load_networks(module):
    sources = (ROOT / "components" / "scorer" / "model").glob("*.py")
    expected = {name for path in sources for name in REGISTERED.findall(path.read_text())}
    code = f"import keras, components.scorer.{module}; print(*keras.saving.get_custom_objects())"
    assert expected
    assert not expected - {name.rpartition(">")[2] for name in fresh(code).split()}


def test_a_fresh_process_loads_a_bundle(small_scorer):
    code = f"from components.scorer.artifacts import bundle; print(bundle.load({str(small_scorer)!r}).model.name)"
    assert fresh(code).strip()


@pytest.mark.parametrize("number", [None, 1, FORMAT + 1])
def test_a_bundle_of_another_format_is_refused(small_scorer, tmp_path, number):
    shutil.copytree(small_scorer, tmp_path / "bundle")
    with_format(tmp_path / "bundle" / "bundle.json", number)
    with pytest.raises(ValueError, match=f"expected a scorer of format {FORMAT} .* got format {number or 1}: "):
        bundle.load(tmp_path / "bundle")


def test_an_encoder_of_another_format_is_refused(small_encoder, tmp_path):
    shutil.copytree(small_encoder, tmp_path / "encoder")
    with_format(tmp_path / "encoder" / "encoder.json", None)
    with pytest.raises(ValueError, match=f"expected an encoder of format {FORMAT} .* got format 1: "):
        bundle.load_encoder(tmp_path / "encoder")


def with_format(file: Path, number: int | None) -> None:
    metadata = json.loads(file.read_text())
    assert metadata.pop("format") == FORMAT
    file.write_text(json.dumps(metadata | ({} if number is None else {"format": number})))
