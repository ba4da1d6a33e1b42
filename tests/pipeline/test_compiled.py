"""The compiled pipeline as Kubeflow's backend reads it: nothing unknown, every branch, every placeholder, each command.

What the steps then do is the matter of test_pipeline.py; that they do it in their images, of the containers' tests.
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
    """The compiled pipeline with one place changed."""
    assert compiled_yaml().count(old) == 1
    return compiled_yaml().replace(old, new)


def program(name: str) -> str:
    """The Python program of a step, as its command carries it."""
    command = PODS[name].command
    (found,) = [word for word in command if f"def {name}(" in word]
    return found


def test_the_committed_file_is_read_without_an_unknown_field():
    assert kubeflow_backend.read(PATH.read_text(encoding="utf-8")).pipeline == PACKAGE.pipeline


def test_kubeflows_own_command_compiles_the_same(tmp_path):
    command = [Path(sys.executable).parent / "kfp", "dsl", "compile", "--py", "pipeline/pipeline.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--output", tmp_path / PATH.name], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / PATH.name).read_text(encoding="utf-8") == compiled_yaml()


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
def test_the_strict_reading_refuses_what_the_backend_refuses(old, new, words):
    with pytest.raises(Refused, match=re.escape(words)):
        kubeflow_backend.read(changed(old, new))


def test_every_executor_has_its_kubernetes_document_and_no_other_has():
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
def test_the_conditions_let_run_what_the_gates_have_said(returned, without):
    assert set(kubeflow_backend.pods(PACKAGE, GIVEN, returned)) == ALL - without


@pytest.mark.parametrize("returned", ["true", 1.0])
def test_only_a_truth_value_is_a_yes(returned):
    """So that the runs of test_pipeline.py have to hand on ``true`` itself, and no text of it."""
    assert set(kubeflow_backend.pods(PACKAGE, GIVEN, {"validation": returned})) == {
        "ingestion",
        "validation",
        "notification",
    }


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
def test_a_condition_that_the_driver_cannot_evaluate_is_no_no(condition, words):
    given = spec.ExecutorInput()
    given.inputs.parameter_values["size"].number_value = 1
    with pytest.raises(Refused, match=words):
        kubeflow_backend.holds(condition, given)


def test_no_placeholder_is_left_in_any_command_nor_in_the_input_within_it():
    for name, pod in PODS.items():
        assert "{{" not in json.dumps(pod.command), name


def test_the_constant_that_only_the_launcher_fills_reaches_the_step_as_the_runs_value():
    pods = kubeflow_backend.pods(PACKAGE, GIVEN | {"accelerator": "amd.com/gpu", "accelerator_count": "4"}, YES)
    for name in ("pretraining", "training"):
        values = pods[name].input["inputs"]["parameterValues"]
        assert (values["accelerator"], values["accelerator_count"]) == ("amd.com/gpu", "4")


def test_the_pods_ask_for_the_runs_accelerator_and_pool_and_no_other_pod_does():
    toleration = {"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    asked = {"accelerator_count": "2", "node_selector": {"pool": "a100"}, "tolerations": [toleration]}
    for name, pod in kubeflow_backend.pods(PACKAGE, GIVEN | asked, YES).items():
        gpu = name in ("pretraining", "training")
        assert pod.limits.get("nvidia.com/gpu") == ("2" if gpu else None)
        assert pod.node_selector == ({"pool": "a100"} if gpu else {})
        assert (toleration in pod.tolerations) == gpu


def test_without_an_accelerator_none_is_asked_for():
    pod = kubeflow_backend.pods(PACKAGE, GIVEN | {"accelerator": ""}, YES)["training"]
    assert set(pod.limits) == {"memory"}


def test_a_secrets_name_that_is_empty_would_fail_the_notification_and_is_refused_before():
    with pytest.raises(ValueError, match="webhook must be the name of a Secret"):
        parameters.check(GIVEN | {"webhook": ""})
    with pytest.raises(Refused, match="notification: expected a secret's name"):
        kubeflow_backend.pods(PACKAGE, GIVEN | {"webhook": ""}, YES)


def test_each_parameter_of_the_form_reaches_a_step_or_a_pod():
    """A parameter that nothing reads is a promise that nobody keeps."""
    text = json.dumps([yaml.safe_load(yaml.safe_dump(each)) for each in yaml.safe_load_all(compiled_yaml())])
    for name in PACKAGE.pipeline.root.input_definitions.parameters:
        assert f'"componentInputParameter": "{name}"' in text, name


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_steps_program_takes_every_input_in_its_type_and_begins(name, tmp_path, monkeypatch):
    """Run by Kubeflow's own executor; it ends at its first line, for the environment does not say which run this is."""
    monkeypatch.delenv(RUN_ID, raising=False)
    pod = kubeflow_backend.pods(PACKAGE, GIVEN, YES, root=str(tmp_path))[name]
    module = {"__name__": "ephemeral_component"}
    exec(compile(program(name), name, "exec"), module)
    with pytest.raises(ValueError, match=f"expected the run's id in the environment variable {RUN_ID}"):
        Executor(executor_input=pod.input, function_to_execute=module[name]).execute()


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_a_steps_program_imports_is_there(name):
    for node in ast.walk(ast.parse(program(name))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("components", "images"):
            source = Path(importlib.util.find_spec(node.module).origin)
            defined = ast.parse(source.read_text(encoding="utf-8")).body
            imports = [each for each in defined if isinstance(each, ast.Import | ast.ImportFrom)]
            names = {getattr(each, "name", "") for each in defined}
            names |= {part.name for each in imports for part in each.names}
            names |= {path.stem for path in source.parent.glob("*.py") if source.name == "__init__.py"}
            assert {part.name for part in node.names} <= names, node.module


def test_a_command_runs_as_the_launcher_starts_it(tmp_path):
    pod = kubeflow_backend.pods(PACKAGE, GIVEN, YES, root=str(tmp_path))["push"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
    environment |= {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(pod.command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"environment variable {RUN_ID}" in done.stderr


def test_the_shell_takes_every_command():
    for name, pod in PODS.items():
        shell, options, script, *_ = pod.command
        assert (shell, options) == ("sh", "-ec"), name
        subprocess.run([shell, "-n", "-c", script], check=True)


def test_the_pods_run_in_the_projects_images():
    assert {pod.image for pod in PODS.values()} == {digests.STEPS_CPU, digests.STEPS_GPU}
