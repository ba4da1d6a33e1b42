"""A step that asked for GPUs goes on only where it sees them; this machine has none."""

import pytest
import tensorflow as tf

from components.scorer.run.accelerators import NODE_VARIABLE, require_accelerators


@pytest.fixture
def on_a_cluster(monkeypatch):
    monkeypatch.setenv(NODE_VARIABLE, "gpu-pool-7")


def cards(monkeypatch, number: int) -> None:
    """Let TensorFlow see so many GPUs."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * number)


@pytest.mark.usefixtures("on_a_cluster")
@pytest.mark.parametrize("accelerator", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_a_step_that_asked_for_a_gpu_and_sees_none_fails_and_says_where_and_what_to_do(monkeypatch, accelerator):
    cards(monkeypatch, 0)
    with pytest.raises(
        RuntimeError, match=r"expected 1 GPU, .* TensorFlow sees 0 on the node gpu-pool-7: .* set accel"
    ):
        require_accelerators(accelerator, "1")


@pytest.mark.usefixtures("on_a_cluster")
def test_fewer_than_were_asked_for_are_too_few(monkeypatch):
    cards(monkeypatch, 2)
    with pytest.raises(RuntimeError, match=r"expected 4 GPUs, .* sees 2"):
        require_accelerators("nvidia.com/gpu", "4")


@pytest.mark.usefixtures("on_a_cluster")
def test_a_step_that_sees_its_gpus_goes_on_and_says_so(monkeypatch, capsys):
    cards(monkeypatch, 2)
    require_accelerators("nvidia.com/gpu", "2")
    require_accelerators("nvidia.com/mig-1g.10gb", "4")  # a process sees one slice
    assert "2 GPUs on the node gpu-pool-7" in capsys.readouterr().out


@pytest.mark.usefixtures("on_a_cluster")
@pytest.mark.parametrize("accelerator", ["", "google.com/tpu"])
def test_a_step_that_asked_for_no_gpu_is_not_held_up(monkeypatch, accelerator):
    cards(monkeypatch, 0)
    require_accelerators(accelerator, "1")


def test_a_run_on_this_machine_asked_for_nothing_whatever_the_parameter_says(monkeypatch):
    cards(monkeypatch, 0)
    monkeypatch.delenv(NODE_VARIABLE, raising=False)
    require_accelerators("nvidia.com/gpu", "1")
