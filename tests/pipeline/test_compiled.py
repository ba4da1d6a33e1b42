"""The compiled pipeline as Kubeflow's backend reads it: its fields, branches, placeholders and commands.

test_pipeline.py tests what the steps do. The containers' tests run the steps in their images.
"""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp.dsl.executor import Executor
from kfp.pipeline_spec import pipeline_spec_pb2 as spec

from components.scorer.run.step_status import RUN_ID
from images import digests
from pipeline import parameters
from pipeline.compiled import PATH, compiled_yaml
from tests.fakes import kubeflow_backend
from tests.fakes.kubeflow_backend import Refused

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = kubeflow_backend.read(compiled_yaml())
GIVEN = {"photos": "gs://data/photos", "models": "gs://models", "workspace": "gs://runs"}
ALL = {"ingestion", "validation", "pretraining", "training", "evaluation", "push", "notification"}
YES = {"validation": True, "evaluation": True}
PODS = kubeflow_backend.pods(PACKAGE, GIVEN, YES)


def changed(old: str, new: str) -> str:
    """Return the compiled pipeline with one text replaced, which must occur once."""
    assert compiled_yaml().count(old) == 1
    return compiled_yaml().replace(old, new)


def program(name: str) -> str:
    """Return the Python program in a step's command."""
    command = PODS[name].command
    (source,) = [word for word in command if f"def {name}(" in word]
    return source


def test_the_committed_file_has_no_unknown_field():
    assert kubeflow_backend.read(PATH.read_text(encoding="utf-8")).pipeline == PACKAGE.pipeline


@pytest.mark.slow
def test_kfps_own_command_compiles_the_same_file(tmp_path):
    command = [Path(sys.executable).parent / "kfp", "dsl", "compile", "--py", "pipeline/pipeline.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, "--output", tmp_path / PATH.name], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / PATH.name).read_text(encoding="utf-8") == compiled_yaml()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schemaVersion: 2.1.0", "schemaVersion: 2.0.0", "expected schema version 2.1.0"),
        ("  name: portrait-scorer\n", "  name: Portrait_Scorer\n", "expected a name of lower case letters"),
        ("pipelineInfo:\n", "pipelineInfo:\n  owner: me\n", 'no field named "owner"'),
        ("\n    exec-push:\n", "\n    exec-push:\n      retries: 1\n", 'no field named "retries"'),
        ("\n        exec-push:\n", "\n        exec-push:\n          priority: 1\n", 'no field named "priority"'),
        ("\nplatforms:\n", "\nplatform:\n", "expected a pipeline and a platform document"),
    ],
)
def test_the_fake_backend_refuses_what_the_real_backend_refuses(old, new, words):
    with pytest.raises(Refused, match=re.escape(words)):
        kubeflow_backend.read(changed(old, new))


def test_every_executor_has_a_kubernetes_section_and_no_section_lacks_an_executor():
    assert set(PACKAGE.kubernetes) == set(PACKAGE.executors) == {f"exec-{name}" for name in ALL}


@pytest.mark.parametrize(
    ("returned", "without"),
    [
        (YES, set()),
        ({"validation": True, "evaluation": False}, {"push"}),
        ({"validation": False}, {"pretraining", "training", "evaluation", "push"}),
    ],
    ids=["both gates say yes", "evaluation says no", "validation says no"],
)
def test_the_conditions_run_the_steps_that_the_gate_outputs_allow(returned, without):
    assert set(kubeflow_backend.pods(PACKAGE, GIVEN, returned)) == ALL - without


@pytest.mark.parametrize("returned", ["true", 1.0])
def test_only_a_boolean_true_passes_a_gate(returned):
    """The runs of test_pipeline.py must therefore return the boolean ``true`` and not the string "true"."""
    assert set(kubeflow_backend.pods(PACKAGE, GIVEN, {"validation": returned})) == {
        "ingestion",
        "validation",
        "notification",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("inputs.parameter_values['gate'] == true", "Key not found"),
        ("inputs.values['gate'] == true", "undefined field"),
        ("inputs.parameters['gate'] == true", "no matching overload"),
        ("inputs.parameter_values['size']", "expected a truth value"),
        ("inputs.parameter_values['size'] = 1", "Syntax error"),
    ],
)
def test_a_condition_that_the_driver_cannot_evaluate_is_an_error_and_not_false(condition, words):
    executor_input = spec.ExecutorInput()
    executor_input.inputs.parameter_values["size"].number_value = 1
    with pytest.raises(Refused, match=words):
        kubeflow_backend.holds(condition, executor_input)


def test_no_command_has_an_unresolved_placeholder():
    for name, pod in PODS.items():
        assert "{{" not in json.dumps(pod.command), name


def test_the_accelerator_parameters_of_the_run_reach_the_training_steps():
    pods = kubeflow_backend.pods(PACKAGE, GIVEN | {"accelerator": "amd.com/gpu", "accelerator_count": "4"}, YES)
    for name in ("pretraining", "training"):
        values = pods[name].input["inputs"]["parameterValues"]
        assert (values["accelerator"], values["accelerator_count"]) == ("amd.com/gpu", "4")


def test_only_the_training_pods_request_the_accelerator_and_the_node_pool_of_the_run():
    toleration = {"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    gpu_parameters = {"accelerator_count": "2", "node_selector": {"pool": "a100"}, "tolerations": [toleration]}
    for name, pod in kubeflow_backend.pods(PACKAGE, GIVEN | gpu_parameters, YES).items():
        needs_gpu = name in ("pretraining", "training")
        assert pod.limits.get("nvidia.com/gpu") == ("2" if needs_gpu else None)
        assert pod.node_selector == ({"pool": "a100"} if needs_gpu else {})
        assert (toleration in pod.tolerations) == needs_gpu


def test_without_an_accelerator_parameter_the_training_pod_requests_none():
    pod = kubeflow_backend.pods(PACKAGE, GIVEN | {"accelerator": ""}, YES)["training"]
    assert set(pod.limits) == {"memory"}


def test_an_empty_secret_name_is_refused_before_the_notification_could_fail():
    with pytest.raises(ValueError, match="webhook must be the name of a Secret"):
        parameters.check(GIVEN | {"webhook": ""})
    with pytest.raises(Refused, match="notification: expected a secret's name"):
        kubeflow_backend.pods(PACKAGE, GIVEN | {"webhook": ""}, YES)


@pytest.mark.slow
def test_each_pipeline_parameter_reaches_a_step_or_a_pod():
    """A parameter that no step or pod reads would have no effect."""
    text = json.dumps([yaml.safe_load(yaml.safe_dump(document)) for document in yaml.safe_load_all(compiled_yaml())])
    for name in PACKAGE.pipeline.root.input_definitions.parameters:
        assert f'"componentInputParameter": "{name}"' in text, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL))
def test_each_steps_program_accepts_every_input_and_starts(name, tmp_path, monkeypatch):
    """Kubeflow's own executor runs the program, which stops at its first line because RUN_ID is not set."""
    monkeypatch.delenv(RUN_ID, raising=False)
    pod = kubeflow_backend.pods(PACKAGE, GIVEN, YES, root=str(tmp_path))[name]
    module = {"__name__": "ephemeral_component"}
    exec(compile(program(name), name, "exec"), module)
    with pytest.raises(ValueError, match=f"expected the run's id in the environment variable {RUN_ID}"):
        Executor(executor_input=pod.input, function_to_execute=module[name]).execute()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL))
def test_each_import_of_a_steps_program_exists(name):
    for node in ast.walk(ast.parse(program(name))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("components", "images"):
            source = Path(importlib.util.find_spec(node.module).origin)
            statements = ast.parse(source.read_text(encoding="utf-8")).body
            imports = [statement for statement in statements if isinstance(statement, ast.Import | ast.ImportFrom)]
            names = {getattr(statement, "name", "") for statement in statements}
            names |= {alias.name for statement in imports for alias in statement.names}
            names |= {path.stem for path in source.parent.glob("*.py") if source.name == "__init__.py"}
            assert {alias.name for alias in node.names} <= names, node.module


def test_a_command_runs_when_started_like_the_launcher_does(tmp_path):
    pod = kubeflow_backend.pods(PACKAGE, GIVEN, YES, root=str(tmp_path))["push"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
    environment |= {"PATH": path, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(pod.command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert f"environment variable {RUN_ID}" in process.stderr


def test_the_shell_accepts_every_command():
    for name, pod in PODS.items():
        shell, options, script, *_ = pod.command
        assert (shell, options) == ("sh", "-ec"), name
        subprocess.run([shell, "-n", "-c", script], check=True)


def test_the_pods_run_in_the_projects_images():
    assert {pod.image for pod in PODS.values()} == {digests.STEPS_CPU, digests.STEPS_GPU}
