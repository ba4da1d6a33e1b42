"""The DAG: its compiled form for the cluster, and local runs with both gate outcomes, a skip and a failure."""

import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from google.protobuf import json_format
from kfp import dsl

from components.evaluation.component import evaluation
from components.ingestion.component import ingestion
from components.notification.component import SECRET
from components.pretraining.component import pretraining
from components.push.component import push
from components.scorer import parameters, settings
from components.scorer.run.accelerators import NODE_VARIABLE
from components.training.component import training
from components.validation.component import validation
from images import digests
from pipeline import resources
from pipeline.compiled import compiled_yaml
from pipeline.pipeline import portrait_scorer
from tests.builders import tiny
from tests.fakes import kubeflow_backend
from tests.fakes.webhook import said_to, webhook

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"ingestion", "validation", "pretraining", "training", "evaluation", "push", "notification"}
PIPELINE, PLATFORM = yaml.load_all(compiled_yaml(), yaml.CSafeLoader)
INPUTS = PIPELINE["root"]["inputDefinitions"]["parameters"]
PODS = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
CONTRACTS = [
    (settings.Ingestion, ingestion, ""),
    (settings.Pretraining, pretraining, "pretraining_"),
    (settings.Training, training, ""),
    (settings.Validation, validation, ""),
    (settings.Evaluation, evaluation, ""),
    (settings.Policy, validation, ""),
    (settings.Policy, evaluation, ""),
    (settings.Push, push, ""),
]


def dags() -> dict[str, dict[str, Any]]:
    """Return all DAGs by the name of their component."""
    inner = {name: content for name, content in PIPELINE["components"].items() if "dag" in content}
    return {"root": PIPELINE["root"]} | inner


def task(name: str) -> dict[str, Any]:
    """Return a step's task from the DAG that contains the step."""
    (step_task,) = [dag["dag"]["tasks"][name] for dag in dags().values() if name in dag["dag"]["tasks"]]
    return step_task


def container(name: str) -> dict[str, Any]:
    return PIPELINE["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def test_the_pipeline_has_exactly_the_seven_steps():
    names = {name for dag in dags().values() for name in dag["dag"]["tasks"] if f"exec-{name}" in PODS}
    assert names == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_each_parameter_is_described(name):
    assert len(INPUTS[name].get("description", "")) > 10


def test_only_photos_models_and_workspace_are_required_parameters():
    assert {name for name, spec in INPUTS.items() if not spec.get("isOptional")} == {"photos", "models", "workspace"}


@pytest.mark.parametrize(
    ("dataclass", "contract", "prefix"), CONTRACTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_setting_is_a_parameter_with_the_settings_default_and_choices(dataclass, contract, prefix):
    hints = get_type_hints(dataclass)
    defaults = parameters.as_parameters(dataclass())
    for field in fields(dataclass):
        name = prefix + field.name if prefix + field.name in INPUTS else field.name
        assert INPUTS[name].get("defaultValue") == defaults[field.name], name
        if get_args(hints[field.name]) and get_origin(hints[field.name]) not in (tuple, dict):
            assert INPUTS[name]["literals"] == list(get_args(hints[field.name]))


@pytest.mark.parametrize(
    ("dataclass", "contract", "prefix"), CONTRACTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_component_takes_each_setting_in_its_type(dataclass, contract, prefix):
    hints, component_parameters = get_type_hints(dataclass), inspect.signature(contract.python_func).parameters
    plain_types = {tuple: list, dict: dict}
    for field in fields(dataclass):
        hint = hints[field.name]
        expected = hint if hint in (str, int, float, bool) else plain_types.get(get_origin(hint), str)
        assert component_parameters[field.name].annotation is expected, field.name


def test_the_default_parameters_give_the_default_settings():
    for dataclass, _, _ in CONTRACTS:
        assert parameters.from_parameters(dataclass, **parameters.as_parameters(dataclass())) == dataclass()


@pytest.mark.slow
@pytest.mark.parametrize("name", dags())
def test_each_input_that_a_task_takes_from_its_dag_exists(name):
    dag = dags()[name]
    dag_inputs = dag.get("inputDefinitions", {})
    pods = {executor: json.dumps(pod) for executor, pod in PODS.items()}
    for step, content in dag["dag"]["tasks"].items():
        inputs = content.get("inputs", {})
        taken_inputs = [spec.get("componentInputParameter") for spec in inputs.get("parameters", {}).values()]
        taken_inputs += re.findall(r'"componentInputParameter": "([^"]+)"', pods.get(f"exec-{step}", ""))
        assert {name_taken for name_taken in taken_inputs if name_taken} <= set(dag_inputs.get("parameters", {}))
        taken_inputs = [spec.get("componentInputArtifact") for spec in inputs.get("artifacts", {}).values()]
        assert {name_taken for name_taken in taken_inputs if name_taken} <= set(dag_inputs.get("artifacts", {}))


@pytest.mark.parametrize(
    ("gate", "waiting"), [("validation", {"pretraining", "training", "evaluation"}), ("evaluation", {"push"})]
)
def test_a_gate_returns_one_bool_and_the_steps_behind_it_are_known(gate, waiting):
    (condition,) = [
        content for dag in dags().values() for content in dag["dag"]["tasks"].values()
        if f"{gate}-Output'] == true" in content.get("triggerPolicy", {}).get("condition", "")
    ]  # fmt: skip
    gated_tasks = PIPELINE["components"][condition["componentRef"]["name"]]["dag"]["tasks"]
    assert {name for name in gated_tasks if f"exec-{name}" in PODS} == waiting
    outputs = PIPELINE["components"][f"comp-{gate}"]["outputDefinitions"]["parameters"]
    assert outputs == {"Output": {"parameterType": "BOOLEAN"}}


def test_no_step_before_the_first_gate_asks_for_an_accelerator():
    for name in ("ingestion", "validation"):
        assert "accelerator" not in container(name)["resources"]


def test_the_notification_runs_even_if_a_step_fails():
    notification_task = PIPELINE["root"]["dag"]["tasks"]["notification"]
    assert notification_task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert notification_task["inputs"]["parameters"]["status"] == {
        "taskFinalStatus": {"producerTask": "exit-handler-1"}
    }


def test_only_pretraining_and_training_are_cached():
    assert {name for name in STEPS if task(name)["cachingOptions"].get("enableCache")} == {"pretraining", "training"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretraining", "training"])
def test_the_cache_key_of_a_cached_step_has_the_data_fingerprint_and_nothing_of_the_run(name):
    step_inputs = task(name)["inputs"]["parameters"]
    assert step_inputs["fingerprint"]["componentInputParameter"] == "pipelinechannel--ingestion-Output"
    assert "{{$.pipeline_job" not in json.dumps(step_inputs)


def test_the_cache_key_of_training_has_the_run_that_made_its_encoder():
    encoder_source = task("training")["inputs"]["parameters"]["encoder_run"]["taskOutputParameter"]
    assert encoder_source == {"producerTask": "pretraining", "outputParameterKey": "Output"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step_gets_its_run_id_from_a_label_of_its_pod(name):
    expected = {"name": "RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    assert expected in PODS[f"exec-{name}"]["fieldPathAsEnv"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS))
def test_each_step_has_memory_limits_retries_with_backoff_and_a_deadline(name):
    resources = container(name)["resources"]
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"]
    assert resources["resourceCpuRequest"]
    retry = task(name)["retryPolicy"]
    assert retry["maxRetryCount"] >= 2
    assert retry["backoffDuration"] == "60s"
    assert int(PODS[f"exec-{name}"]["activeDeadlineSeconds"]) > 0


def test_the_workflow_deadline_covers_all_step_deadlines_and_a_time_to_live_is_set():
    pipeline_config = PLATFORM["platforms"]["kubernetes"]["pipelineConfig"]
    assert pipeline_config["activeDeadlineSeconds"] >= sum(int(pod["activeDeadlineSeconds"]) for pod in PODS.values())
    assert pipeline_config["resourceTtlOnSuccess"] > 0
    assert pipeline_config["resourceTtlOnFailure"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretraining", "training"])
def test_pretraining_and_training_request_the_accelerator_and_node_pool_of_the_parameters(name):
    pod, resources = PODS[f"exec-{name}"], container(name)["resources"]
    assert resources["accelerator"] == {
        "resourceType": "{{$.inputs.parameters['pipelinechannel--accelerator']}}",
        "resourceCount": "{{$.inputs.parameters['pipelinechannel--accelerator_count']}}",
    }
    assert pod["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"] == "pipelinechannel--node_selector"
    *fixed_tolerations, toleration = pod["tolerations"]
    assert toleration["tolerationJson"]["componentInputParameter"] == "pipelinechannel--tolerations"
    assert [fixed_toleration["key"] for fixed_toleration in fixed_tolerations] == [
        "nvidia.com/gpu",
        "cloud.google.com/gke-spot",
    ]
    assert {"name": NODE_VARIABLE, "fieldPath": "spec.nodeName"} in pod["fieldPathAsEnv"]
    assert "nodeAffinity" not in pod
    (shared,) = pod["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"]) == ("/dev/shm", "Memory")
    assert container(name)["image"] == digests.STEPS_GPU


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS - {"pretraining", "training"}))
def test_all_other_steps_avoid_gpu_nodes_and_have_no_tolerations(name):
    pod = PODS[f"exec-{name}"]
    ((required),) = pod["nodeAffinity"]
    assert "weight" not in required
    assert {expression["operator"] for expression in required["matchExpressions"]} == {"DoesNotExist"}
    assert [expression["key"] for expression in required["matchExpressions"]] == [*resources.CLUSTER.gpu_labels]
    assert "tolerations" not in pod


def pods_of(cluster: resources.ClusterDefaults) -> dict[str, dict[str, Any]]:
    """Return the pod settings of a step with a GPU and of a step without, for these cluster defaults."""

    @dsl.component(base_image="image")
    def step():
        pass

    @dsl.pipeline
    def two_steps(accelerator: str, count: str, selector: dict, tolerations: list):
        gpu_step = resources.set_resources(step().set_display_name("fast"), resources.TRAINING, cluster)
        resources.add_accelerators(gpu_step, accelerator, count, selector, tolerations, cluster)
        resources.set_resources(step().set_display_name("plain"), resources.PUSH, cluster)

    executors = two_steps.platform_spec.platforms["kubernetes"].deployment_spec.executors
    pods = {"fast": executors["exec-step"], "plain": executors["exec-step-2"]}  # the map has no fixed order
    return {name: json_format.MessageToDict(pod) for name, pod in pods.items()}


@pytest.mark.slow
def test_the_queue_and_priority_of_kueue_are_labels_of_the_gpu_steps_only():
    pods = pods_of(resources.ClusterDefaults(queue="gpus", priority="training"))
    step_label = dict([resources.POD_LABEL])  # the network policy selects every step by this label
    queue_labels = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "training"}
    assert pods["fast"]["podMetadata"]["labels"] == step_label | queue_labels
    assert pods["plain"]["podMetadata"]["labels"] == step_label


@pytest.mark.slow
def test_every_step_gets_the_image_pull_secrets():
    for pod in pods_of(resources.ClusterDefaults(pull_secrets=("registry",))).values():
        assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["registry"]


@pytest.mark.slow
def test_without_gpu_labels_no_step_has_a_node_affinity():
    assert "nodeAffinity" not in pods_of(resources.ClusterDefaults(gpu_labels=()))["plain"]


@pytest.mark.slow
def test_compiling_gives_the_same_bytes_for_every_hash_seed(tmp_path):
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "pipeline", "compile", "--file", str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert (tmp_path / "1").read_text() == (tmp_path / "2").read_text() == compiled_yaml()


def test_the_accelerator_parameters_are_strings_as_the_driver_requires():
    assert {INPUTS[name]["parameterType"] for name in ("accelerator", "accelerator_count")} == {"STRING"}


def test_the_webhook_is_a_kubernetes_secret_and_not_a_parameter_of_a_step():
    (secret,) = PODS["exec-notification"]["secretAsEnv"]
    assert secret["secretNameParameter"] == {"componentInputParameter": "webhook"}
    assert {pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]} == SECRET
    assert SECRET["url"] == "WEBHOOK"
    assert secret["optional"] is True
    assert "webhook" not in json.dumps(PIPELINE["components"])


def test_the_steps_install_no_packages_when_they_run():
    assert "pip install" not in json.dumps(PIPELINE["deploymentSpec"])


# Four runs of the local runner, shared by the tests below because each starts TensorFlow in several processes.


class Run:
    """A run started by the command line: its exit code, output, summary and files."""

    def __init__(self, build: Path, name: str, *options: str, **parameters: Any) -> None:
        assignments = [f"{key}={value}" for key, value in (tiny.SETTINGS | parameters).items()]
        storage_options = ["--models", str(build / "models"), "--workspace", str(build / "workspace")]
        data_options = ["--photos", tiny.SAMPLE, "--build", str(build / name)]
        command = ["run", *data_options, *storage_options, *options, "--set", *assignments]
        with webhook([200]) as (url, self.told):
            process = subprocess.run(
                [sys.executable, "-m", "pipeline", *command], cwd=ROOT, env={**os.environ, "WEBHOOK": url},
                capture_output=True, text=True, check=False, timeout=3000,  # on a busy machine
            )  # fmt: skip
        self.code, self.output, self.errors, self.url = process.returncode, process.stdout, process.stderr, url
        self.folder = build / name
        self.summary = dict(re.findall(r"^(\w[\w ]*?)  +(\S.*)$", self.output.rpartition("\n\n")[2], re.MULTILINE))
        self.id = self.summary["Run"].split()[0]

    def tasks(self) -> set[str]:
        """Return the names of the tasks that succeeded."""
        return {path.parent.name for path in self.folder.glob("artifacts/*/*/executor_output.json")}

    def outputs(self) -> dict[str, dict[str, Any]]:
        """Return each task's outputs as the executor wrote them."""
        output_files = self.folder.glob("artifacts/*/*/executor_output.json")
        return {path.parent.name: json.loads(path.read_text()) for path in output_files}


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def weights(build) -> Path:
    return tiny.weights(build)


@pytest.fixture(scope="module")
def passed(build, weights) -> Run:
    return Run(build, "passed", minimum_srcc=-1, weights=weights)


@pytest.fixture(scope="module")
def refused(build, weights, passed) -> Run:
    """Run with a gate that no scorer passes, resumed from the first run's checkpoints."""
    return Run(build, "refused", "--resume", passed.id, minimum_srcc=1, weights=weights)


@pytest.fixture(scope="module")
def skipped(build, passed) -> Run:
    """Run without new ratings since the champion's training."""
    return Run(build, "skipped", minimum_new_labels=1)


@pytest.fixture(scope="module")
def failed(build) -> Run:
    """Run with a weights file that is not one, so that pretraining fails."""
    broken = build / "broken.weights.h5"
    broken.write_text("no weights")
    return Run(build, "failed", weights=broken)


@pytest.mark.slow
def test_a_run_that_passes_every_gate_runs_every_step(passed):
    assert passed.code == 0, passed.output + passed.errors
    assert passed.tasks() == STEPS


@pytest.mark.slow
def test_a_run_that_passes_every_gate_publishes_a_version_and_reports_its_path(passed, build):
    version = build / "models" / "portraits" / "1"
    assert (version / "saved_model.pb").is_file()
    assert passed.summary["Model"] == str(version)
    assert passed.summary["Gates"].startswith("Published")
    assert said_to(passed.told)["Published"] == str(version)


@pytest.mark.slow
def test_the_reports_of_the_steps_are_html_pages(passed):
    pages = sorted(path.name for path in passed.folder.glob("reports/*/*.html"))
    assert pages == [
        "evaluation.html", "ingestion.html", "pretraining.html", "training.html", "validation.html"
    ]  # fmt: skip
    assert Path(passed.summary["Report"]).name == "evaluation.html"
    assert Path(passed.summary["Report"]).read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.slow
def test_no_two_steps_log_a_metric_of_the_same_name(passed):
    metric_artifacts = [output.get("artifacts", {}).get("metrics") for output in passed.outputs().values()]
    names = [name for metrics in metric_artifacts if metrics for name in metrics["artifacts"][0]["metadata"]]
    assert len(names) > 10
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_output_has_the_lines_of_the_steps_and_none_of_their_libraries(passed):
    assert re.search(r"^training: done in", passed.output, re.MULTILINE)
    for library_text in ("KFP Executor", "executor_input", "oneDNN", "absl", "INFO", "\x1b[", "Warning"):
        assert library_text not in passed.output + passed.errors


@pytest.mark.slow
def test_a_refused_run_succeeds_and_runs_every_step_but_push(refused):
    assert refused.code == 0, refused.output + refused.errors
    assert refused.tasks() == STEPS - {"push"}


@pytest.mark.slow
def test_a_refused_run_publishes_nothing_and_reports_why(refused):
    assert "push: uploading" not in refused.output
    assert refused.summary["Model"] == "not published"
    assert refused.summary["Gates"].startswith("Refused")
    assert said_to(refused.told)["Published"] == "not published"
    assert said_to(refused.told)["Verdict"] == refused.summary["Gates"]


@pytest.mark.slow
def test_too_few_new_labels_skip_the_run_before_training_and_the_run_reports_it(skipped):
    assert skipped.code == 0, skipped.output + skipped.errors
    assert skipped.tasks() == {"ingestion", "validation", "notification"}
    assert skipped.summary["Gates"].startswith("Skipped")
    assert said_to(skipped.told)["Verdict"] == skipped.summary["Gates"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["passed", "refused", "skipped"])
def test_kubeflows_backend_runs_the_same_steps_for_the_same_gate_outputs(name, request):
    run = request.getfixturevalue(name)
    run_parameters = dict.fromkeys(("photos", "models", "workspace"), "gs://bucket/place")
    gate_outputs = {step: output.get("parameterValues", {}).get("Output", "") for step, output in run.outputs().items()}
    assert (
        set(kubeflow_backend.pods(kubeflow_backend.read(compiled_yaml()), run_parameters, gate_outputs)) == run.tasks()
    )


@pytest.mark.slow
def test_a_resumed_run_repeats_no_completed_epoch(passed, refused):
    epochs = re.compile(r"^.*: epoch \d+ of \d+, loss", re.MULTILINE)
    assert len(epochs.findall(passed.output)) == 1 + 4 + 1
    assert not epochs.search(refused.output)


@pytest.mark.slow
def test_a_failed_step_stops_the_later_steps_and_the_notification_names_it(failed):
    assert failed.code == 1
    assert failed.tasks() == {"ingestion", "validation", "notification"}
    assert failed.summary["Failed"] == "pretraining"
    assert said_to(failed.told)["Failed step"] == "pretraining"
    assert said_to(failed.told)["Reason"] == failed.summary["Reason"]


@pytest.mark.slow
def test_the_webhook_url_is_in_no_output(passed, refused, skipped, failed):
    for run in (passed, refused, skipped, failed):
        assert run.told
        assert run.url not in run.output + run.errors


def test_the_pipeline_function_is_shorter_than_60_lines():
    body = inspect.getsource(portrait_scorer.pipeline_func).split('"""')[2]
    assert len(body.splitlines()) < 60


def test_every_step_runs_as_the_images_nonroot_user_with_the_label_of_its_network_policy():
    (user,) = set(re.findall(r"^USER (\d+):\1$", (ROOT / "images/steps/Dockerfile").read_text(), re.MULTILINE))
    (policy,) = [
        document
        for document in yaml.safe_load_all((ROOT / "images/manifests/schedule/network.yaml").read_text())
        if document["metadata"]["name"] == "portrait-scorer-steps"
    ]
    assert len(PODS) == 7
    for name, pod in PODS.items():
        assert pod["securityContext"] == {"runAsUser": user, "runAsGroup": user, "runAsNonRoot": True}, name
        assert pod["podMetadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"], name
