"""A data set's life cycle in three runs; scale/ has ten runs of it, in clouds and on Beam."""

import pytest

from tests.end_to_end.life import live, place

pytestmark = pytest.mark.slow


def test_three_runs_of_a_data_sets_life_cycle_keep_every_invariant(tmp_path):
    live(1, place(tmp_path, str(tmp_path / "workspace")), runs=3)
