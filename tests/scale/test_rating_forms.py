"""Each rating form in the README's table goes from its file to a published version on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from components.scorer.settings import GateKey
from tests.builders import rating_tables

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "start=none", 'backbone_options={"alpha":0.25}', "crop=32", "scale=36", "head_epochs=1", "epochs=1", "bootstrap=20",
    "behaviour_photos=8", "perturbation_photos=1", f"warn_only={json.dumps(get_args(GateKey))}",
    "validation_share=0.3", "test_share=0.3", "minimum_side=32", "duplicate_distance=0",
]  # fmt: skip


@pytest.mark.parametrize("header", rating_tables.headers())
def test_each_rating_form_of_the_readme_ends_in_a_published_version(header, tmp_path):
    truth = np.linspace(2.5, 8.5, 48)
    names = rating_tables.photos(tmp_path / "photos", 48)
    path, _ = rating_tables.write(tmp_path, header, names, truth)
    command = [sys.executable, "-m", "pipeline", "run", "--photos", "photos", "--ratings", path.name, "--set", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert (tmp_path / "build" / "models" / "portraits" / "1" / "saved_model.pb").exists(), process.stdout
