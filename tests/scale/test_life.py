"""Data sets over ten runs each: local and in clouds, with and without faces, on processes and on Beam."""

import pytest

from tests.builders.ingestions import BEAM
from tests.end_to_end.life import live, place


def test_ten_runs_on_this_machine(tmp_path):
    live(1, place(tmp_path, str(tmp_path / "workspace")))


def test_ten_runs_with_faces_and_a_workspace_on_s3(tmp_path, amazon):
    live(2, place(tmp_path, "s3://bucket/workspace", faces=True))


def test_ten_runs_with_faces_on_beam_and_a_workspace_on_google_cloud_storage(tmp_path, google):
    pytest.importorskip("apache_beam")
    live(3, place(tmp_path, "gs://bucket/workspace", faces=True, beam_options=BEAM))


def test_ten_runs_on_beam(tmp_path):
    pytest.importorskip("apache_beam")
    live(4, place(tmp_path, str(tmp_path / "workspace"), beam_options=BEAM))
