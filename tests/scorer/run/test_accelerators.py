"""A step that requested GPUs continues only if TensorFlow sees them; this machine has none."""

import pytest
import tensorflow as tf

from components.scorer.run.accelerators import NODE_VARIABLE, require_accelerators


@pytest.fixture
def on_a_cluster(monkeypatch):
    monkeypatch.setenv(NODE_VARIABLE, "gpu-pool-7")


def cards(monkeypatch, number: int) -> None:
    """Make TensorFlow report this number of GPUs."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * number)


@pytest.mark.usefixtures("on_a_cluster")
@pytest.mark.parametrize("accelerator", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_a_step_that_sees_no_requested_gpu_fails_and_names_node_and_remedy(monkeypatch, accelerator):
    cards(monkeypatch, 0)
    with pytest.raises(
        RuntimeError, match=r"expected 1 GPU, .* TensorFlow sees 0 on the node gpu-pool-7: .* set accel"
    ):
        require_accelerators(accelerator, "1")


@pytest.mark.usefixtures("on_a_cluster")
def test_a_step_that_sees_fewer_gpus_than_requested_fails(monkeypatch):
    cards(monkeypatch, 2)
    with pytest.raises(RuntimeError, match=r"expected 4 GPUs, .* sees 2"):
        require_accelerators("nvidia.com/gpu", "4")


@pytest.mark.usefixtures("on_a_cluster")
def test_a_step_that_sees_its_gpus_continues_and_logs_them(monkeypatch, capsys):
    cards(monkeypatch, 2)
    require_accelerators("nvidia.com/gpu", "2")
    require_accelerators("nvidia.com/mig-1g.10gb", "4")  # a process sees one slice
    assert "2 GPUs on the node gpu-pool-7" in capsys.readouterr().out


@pytest.mark.usefixtures("on_a_cluster")
@pytest.mark.parametrize("accelerator", ["", "google.com/tpu"])
def test_a_step_that_requested_no_gpu_continues(monkeypatch, accelerator):
    cards(monkeypatch, 0)
    require_accelerators(accelerator, "1")


def test_a_local_run_ignores_the_accelerator_parameter(monkeypatch):
    cards(monkeypatch, 0)
    monkeypatch.delenv(NODE_VARIABLE, raising=False)
    require_accelerators("nvidia.com/gpu", "1")
