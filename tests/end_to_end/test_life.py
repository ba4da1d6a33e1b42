"""The life of a data set in three runs; scale/ has ten runs of it, in clouds and on Beam."""

from tests.end_to_end.life import live, place


def test_a_life_of_a_data_set_breaks_no_rule(tmp_path):
    live(1, place(tmp_path, str(tmp_path / "workspace")), runs=3)
