"""The manifests of several workers are what Kubeflow Trainer takes, and tell the workers what they need."""

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

models = pytest.importorskip("kubeflow_trainer_api.models")

FOLDER = Path(__file__).resolve().parents[2] / "images" / "manifests" / "training"
KINDS = {
    "runtime.yaml": models.TrainerV1alpha1TrainingRuntime,
    "trainjob.yaml": models.TrainerV1alpha1TrainJob,
}


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """What a model left out of what it was given, because it has no such field."""
    if isinstance(given, dict):
        found = [f"{place}.{name}" for name in given if name not in (kept or {})]
        return found + [
            each for name in given if name in (kept or {}) for each in lost(given[name], kept[name], f"{place}.{name}")
        ]
    if isinstance(given, list):
        return [each for one, other in zip(given, kept, strict=True) for each in lost(one, other, f"{place}[]")]
    return []


@pytest.mark.parametrize("name", KINDS)
def test_a_manifest_is_as_kubeflow_trainer_defines_its_kind(name):
    given = document(name)
    assert lost(given, KINDS[name].from_dict(given).to_dict()) == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("spec", "mlPolicy", "tensorflow"), {}, ".spec.mlPolicy.tensorflow"),
        (("spec", "template", "spec", "network", "dns"), True, ".spec.template.spec.network.dns"),
    ],
)
def test_the_check_refuses_a_field_that_the_trainer_does_not_know(path, value, field):
    given = document("runtime.yaml")
    place = given
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert lost(given, models.TrainerV1alpha1TrainingRuntime.from_dict(given).to_dict()) == [field]


def pod() -> dict[str, Any]:
    (job,) = document("runtime.yaml")["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_the_pod_of_a_worker_is_as_kubernetes_defines_it(version):
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "spec": pod()}
    kubernetes_validate.validate(whole, version, strict=True)


def test_a_worker_is_confined():
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_what_the_pods_are_told_makes_them_workers_of_each_other(monkeypatch):
    job, runtime = document("trainjob.yaml"), document("runtime.yaml")
    (container,) = pod()["containers"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    name = job["metadata"]["name"]
    told = {each["name"]: each.get("value") for each in [*container["env"], *job["spec"]["trainer"]["env"]]}
    # A pod of a JobSet is reached as <set>-<replicated job>-<its index>-<the pod's index>.<set>.
    address = told["WORKER_ADDRESS"].replace("$(JOBSET_NAME)", name)
    assert address == f"{name}-{replicated['name']}-0-{{}}.{name}:{container['ports'][0]['containerPort']}"
    nodes = job["spec"]["trainer"]["numNodes"]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for index in range(nodes):
        environment = {"WORKERS": told["WORKERS"], "WORKER_ADDRESS": address, "JOB_COMPLETION_INDEX": str(index)}
        config = json.loads(distributed._tf_config_of_jobset(environment))
        assert config["task"] == {"type": "worker", "index": index}
        assert len(config["cluster"]["worker"]) == nodes
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]


def test_the_command_is_one_that_the_training_takes():
    trainer = document("trainjob.yaml")["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "components.training"]
    options = _parser().parse_args(trainer["args"])
    settings = from_parameters(Training, **_parse_settings(options.set))
    assert settings.devices == "workers"
    assert settings.batch_size % trainer["numNodes"] == 0
    assert trainer["image"] == digests.STEPS_GPU or re.fullmatch(r".+@sha256:[0-9a-f]{64}", digests.STEPS_GPU)
