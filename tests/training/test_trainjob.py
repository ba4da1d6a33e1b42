"""The manifests of distributed training follow the schemas of Kubeflow Trainer and Kubernetes."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.scorer.fit import distributed
from components.scorer.parameters import from_parameters
from components.scorer.settings import Training
from components.training.__main__ import _parse_settings, _parser
from images import digests

pytestmark = pytest.mark.slow

models = pytest.importorskip("kubeflow_trainer_api.models")

FOLDER = Path(__file__).resolve().parents[2] / "images" / "manifests" / "training"
KINDS = {
    "runtime.yaml": models.TrainerV1alpha1TrainingRuntime,
    "trainjob.yaml": models.TrainerV1alpha1TrainJob,
}


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """Return the paths of the fields that the model dropped because it does not know them."""
    if isinstance(given, dict):
        dropped = [f"{place}.{name}" for name in given if name not in (kept or {})]
        return dropped + [
            field
            for name in given
            if name in (kept or {})
            for field in lost(given[name], kept[name], f"{place}.{name}")
        ]
    if isinstance(given, list):
        return [
            field for item, kept_item in zip(given, kept, strict=True) for field in lost(item, kept_item, f"{place}[]")
        ]
    return []


@pytest.mark.parametrize("name", KINDS)
def test_a_manifest_follows_kubeflow_trainers_schema(name):
    manifest = document(name)
    assert lost(manifest, KINDS[name].from_dict(manifest).to_dict()) == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("spec", "mlPolicy", "tensorflow"), {}, ".spec.mlPolicy.tensorflow"),
        (("spec", "template", "spec", "network", "dns"), True, ".spec.template.spec.network.dns"),
    ],
)
def test_the_schema_check_finds_an_unknown_field(path, value, field):
    manifest = document("runtime.yaml")
    parent = manifest
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    assert lost(manifest, models.TrainerV1alpha1TrainingRuntime.from_dict(manifest).to_dict()) == [field]


def pod() -> dict[str, Any]:
    (job,) = document("runtime.yaml")["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_the_pod_of_a_worker_follows_kubernetes_schema(version):
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "spec": pod()}
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_worker_runs_without_privileges_and_on_a_read_only_disk():
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_the_environment_of_the_pods_makes_one_worker_group(monkeypatch):
    job, runtime = document("trainjob.yaml"), document("runtime.yaml")
    (container,) = pod()["containers"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    name = job["metadata"]["name"]
    variables = {
        variable["name"]: variable.get("value") for variable in [*container["env"], *job["spec"]["trainer"]["env"]]
    }
    # The address of a pod of a JobSet is <set>-<replicated job>-<job index>-<pod index>.<set>.
    address = variables["WORKER_ADDRESS"].replace("$(JOBSET_NAME)", name)
    assert address == f"{name}-{replicated['name']}-0-{{}}.{name}:{container['ports'][0]['containerPort']}"
    nodes = job["spec"]["trainer"]["numNodes"]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for index in range(nodes):
        environment = {"WORKERS": variables["WORKERS"], "WORKER_ADDRESS": address, "JOB_COMPLETION_INDEX": str(index)}
        config = json.loads(distributed._tf_config_of_jobset(environment))
        assert config["task"] == {"type": "worker", "index": index}
        assert len(config["cluster"]["worker"]) == nodes
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]


def test_the_training_accepts_the_command_of_the_manifest():
    trainer = document("trainjob.yaml")["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "components.training"]
    options = _parser().parse_args(trainer["args"])
    settings = from_parameters(Training, **_parse_settings(options.set))
    assert settings.devices == "workers"
    assert settings.batch_size % trainer["numNodes"] == 0
    assert trainer["image"] == digests.STEPS_GPU or re.fullmatch(r".+@sha256:[0-9a-f]{64}", digests.STEPS_GPU)
