"""Each row of the README's table of ratings forms, from the file to a published version, by the command line."""

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
def test_a_form_of_the_readme_ends_in_a_published_version(header, tmp_path):
    truth = np.linspace(2.5, 8.5, 48)
    names = rating_tables.photos(tmp_path / "photos", 48)
    path, _ = rating_tables.write(tmp_path, header, names, truth)
    command = [sys.executable, "-m", "pipeline", "run", "--photos", "photos", "--ratings", path.name, "--set", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "models" / "portraits" / "1" / "saved_model.pb").exists(), done.stdout
