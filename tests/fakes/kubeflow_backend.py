"""Kubeflow's backend without a cluster: how it executes a compiled pipeline, rule by rule.

The API server reads the package (`read`). The driver resolves every task's inputs, evaluates its condition and creates
its pod. The launcher in the pod fills the command's placeholders (`pods`). Conditions are evaluated by Google's own CEL
against the protobuf message that the driver uses. `Refused` is raised where the backend would refuse or fail.

After ``backend/src`` of https://github.com/kubeflow/pipelines: ``apiserver/template/v2_template.go``,
``v2/expression/expression.go``, ``v2/driver/resolve.go``, ``v2/driver/driver.go``, ``v2/component/launcher_v2.go``.
Only what this pipeline uses is here. Everything else is refused, so that no test passes because a part was ignored.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

import yaml
from cel_expr_python import cel
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as spec

SCHEMA = "2.1.0"  # the only version that the API server accepts
_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_CHANNEL = re.compile(r"\$\.inputs\.parameters\['(.+?)'\]")
# Https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
_QUANTITY = r"[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?"
_KINDS = {
    spec.ParameterType.STRING: "string_value",
    spec.ParameterType.NUMBER_INTEGER: "number_value",
    spec.ParameterType.NUMBER_DOUBLE: "number_value",
    spec.ParameterType.BOOLEAN: "bool_value",
    spec.ParameterType.LIST: "list_value",
    spec.ParameterType.STRUCT: "struct_value",
    spec.ParameterType.TASK_FINAL_STATUS: "struct_value",
}
_MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
_FIELDS = spec.ExecutorInput.DESCRIPTOR.fields_by_name
_CONDITIONS = cel.NewEnv(variables={name: cel.Type(part.message_type.full_name) for name, part in _FIELDS.items()})


class Refused(ValueError):
    """Raised where the backend would refuse the pipeline or fail."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline as the API server reads it."""

    pipeline: spec.PipelineSpec
    executors: Mapping[str, spec.PipelineDeploymentConfig.ExecutorSpec]
    kubernetes: Mapping[str, KubernetesExecutorConfig]


@dataclass(frozen=True)
class Pod:
    """The pod of a task."""

    image: str
    command: list[str]  # with all placeholders filled
    input: dict[str, Any]  # the ExecutorInput in that command
    requests: dict[str, str]
    limits: dict[str, str]
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)


def read(package: str) -> Package:
    """Parse the package's two documents strictly: no unknown field, the supported schema version, a valid name."""
    documents = [document for document in yaml.load_all(package, yaml.CSafeLoader) if document is not None]
    pipelines = [document for document in documents if "pipelineInfo" in document]
    platforms = [document for document in documents if "platforms" in document]
    if (len(pipelines), len(platforms), len(documents)) != (1, 1, 2):
        raise Refused(f"expected a pipeline and a platform document, got {[list(document) for document in documents]}")
    pipeline = _parsed(pipelines[0], spec.PipelineSpec())
    if pipeline.schema_version != SCHEMA:
        raise Refused(f"expected schema version {SCHEMA}, got {pipeline.schema_version!r}")
    if not re.fullmatch(_NAME, pipeline.pipeline_info.name):
        raise Refused(f"expected a name of lower case letters, digits, '-', '.', got {pipeline.pipeline_info.name!r}")
    if not pipeline.HasField("root"):
        raise Refused("there is no root component")
    deployment = _parsed(_plain(pipeline.deployment_spec), spec.PipelineDeploymentConfig())
    kubernetes = _parsed(platforms[0], spec.PlatformSpec()).platforms["kubernetes"].deployment_spec.executors
    pods = {name: _parsed(_plain(content), KubernetesExecutorConfig()) for name, content in kubernetes.items()}
    return Package(pipeline, dict(deployment.executors), pods)


def holds(condition: str, inputs: spec.ExecutorInput) -> bool:
    """Return whether a trigger's condition lets its task run.

    Raises:
        Refused: The condition does not compile, fails (a parameter is missing), or is no truth value.
    """
    try:
        result = _CONDITIONS.compile(condition).eval(data={"inputs": inputs.inputs, "outputs": inputs.outputs})
    except RuntimeError as error:
        raise Refused(f"{condition}: {error}") from None
    if result.type() != cel.Type.BOOL:
        raise Refused(f"{condition}: expected a truth value, got {result.value()}")
    return result.value()


def pods(
    package: Package, given: Mapping[str, Any], returned: Mapping[str, Any], root: str = "gs://root/run"
) -> dict[str, Pod]:
    """Return the pods of a run in which every step succeeds, by task.

    Args:
        package: The pipeline.
        given: Parameters of the run.
        returned: Return value of each step; a step that is not named returns a text.
        root: Address of the artifacts.
    """
    definitions = package.pipeline.root.input_definitions.parameters
    if unknown := set(given) - set(definitions):
        raise Refused(f"the pipeline has no parameters {sorted(unknown)}")
    inputs = {name: _value(value) for name, value in given.items()}
    return dict(_Run(package, returned, root).dag(package.pipeline.root, _typed(package.pipeline.root, inputs), {}))


@dataclass(frozen=True)
class _Run:
    """A run's pass through the DAGs."""

    package: Package
    returned: Mapping[str, Any]
    root: str

    def dag(
        self, component: spec.ComponentSpec, inputs: Mapping[str, Value], artifacts: Mapping[str, spec.ArtifactList]
    ) -> Iterator[tuple[str, Pod]]:
        """Yield the pods of one DAG and of the DAGs in it."""
        tasks, outputs_by_task = component.dag.tasks, {}
        dependencies = {name: sorted(task.dependent_tasks) for name, task in sorted(tasks.items())}
        for name in TopologicalSorter(dependencies).static_order():
            task = tasks[name]
            component_spec = self.package.pipeline.components[task.component_ref.name]
            executor_input = spec.ExecutorInput()
            for key, source in task.inputs.parameters.items():
                executor_input.inputs.parameter_values[key].CopyFrom(_parameter(source, inputs, outputs_by_task, task))
            for key, source in task.inputs.artifacts.items():
                executor_input.inputs.artifacts[key].CopyFrom(_artifact(source, artifacts, outputs_by_task))
            if unknown := set(executor_input.inputs.artifacts) ^ set(component_spec.input_definitions.artifacts):
                raise Refused(f"{name}: artifacts {sorted(unknown)} are given and not taken, or taken and not given")
            if task.trigger_policy.condition and not holds(task.trigger_policy.condition, executor_input):
                continue
            typed = _typed(component_spec, executor_input.inputs.parameter_values)
            if component_spec.HasField("dag"):
                yield from self.dag(component_spec, typed, executor_input.inputs.artifacts)
                outputs_by_task[name] = None  # none of this pipeline's DAGs returns outputs
            else:
                self._provision(executor_input, name, component_spec)
                yield name, self._pod(name, component_spec.executor_label, executor_input, inputs)
                outputs_by_task[name] = (self.returned.get(name, "a text"), executor_input.outputs)

    def _provision(self, given: spec.ExecutorInput, name: str, component: spec.ComponentSpec) -> None:
        """Set the locations of the task's outputs."""
        for key, artifact_spec in component.output_definitions.artifacts.items():
            artifact = given.outputs.artifacts[key].artifacts.add(name=key, uri=f"{self.root}/{name}/{key}")
            artifact.type.CopyFrom(artifact_spec.artifact_type)
        for key in component.output_definitions.parameters:
            given.outputs.parameters[key].output_file = f"/tmp/kfp/outputs/{key}"
        given.outputs.output_file = f"{_path(self.root)}/{name}/executor_output.json"

    def _pod(self, name: str, executor: str, given: spec.ExecutorInput, inputs: Mapping[str, Value]) -> Pod:
        """Return the task's pod; parameters of its Kubernetes document come from the inputs of the surrounding DAG."""
        container, config = self.package.executors[executor].container, self.package.kubernetes[executor]
        command = [_filled(word, given) for word in (*container.command, *container.args)]
        if unfilled := [word for word in command if "{{" in word]:
            raise Refused(f"{name}: placeholders are left in {unfilled}")
        requests, limits = _resources(container.resources, given)
        selector = {}
        if config.HasField("node_selector"):
            selector = _plain(_kubernetes(config.node_selector.node_selector_json, inputs))
            if any(not isinstance(value, str) for value in selector.values()):
                raise Refused(f"{name}: expected texts in the node selector, got {selector}")
        tolerations = []
        for toleration in config.tolerations:
            is_constant = not toleration.HasField("toleration_json")
            resolved = _plain(toleration if is_constant else _kubernetes(toleration.toleration_json, inputs))
            tolerations += resolved if isinstance(resolved, list) else [resolved]
        secrets = [_plain(_kubernetes(source.secret_name_parameter, inputs)) for source in config.secret_as_env]
        if any(not isinstance(secret, str) or not secret for secret in secrets):
            raise Refused(f"{name}: expected a secret's name, a text that is not empty, got {secrets}")
        executor_input = json.loads(command[command.index("--executor_input") + 1])
        return Pod(container.image, command, executor_input, requests, limits, selector, tolerations, secrets)


def _parsed(document: Any, message: Message) -> Any:
    try:
        return json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        raise Refused(f"{message.DESCRIPTOR.name}: {error}") from None


def _plain(message: Message) -> Any:
    return json_format.MessageToDict(message)


def _value(value: Any) -> Value:
    return json_format.ParseDict(value, Value())


def _parameter(wanted: Any, inputs: Mapping[str, Value], done: Mapping[str, Any], task: spec.PipelineTaskSpec) -> Value:
    """Resolve a task's input from its DAG, another task's output, or a constant (driver, resolveInputParameter)."""
    match wanted.WhichOneof("kind"):
        case "component_input_parameter":
            if wanted.component_input_parameter not in inputs:
                raise Refused(f"the DAG has no input {wanted.component_input_parameter}")
            return inputs[wanted.component_input_parameter]
        case "task_output_parameter":
            source = wanted.task_output_parameter
            returned, outputs = _done(done, source.producer_task)
            if source.output_parameter_key not in outputs.parameters:
                raise Refused(f"{source.producer_task} has no output {source.output_parameter_key}")
            return _value(returned)
        case "runtime_value":  # a parameter in a constant is left to the launcher
            text = wanted.runtime_value.constant.string_value
            return _value("a run's name") if text == "{{$.pipeline_job_name}}" else wanted.runtime_value.constant
        case "task_final_status":
            if wanted.task_final_status.producer_task not in task.dependent_tasks:
                raise Refused(f"{wanted.task_final_status.producer_task} is not waited for")
            return _value({"state": "COMPLETE", "pipelineTaskName": task.dependent_tasks[0], "error": {}})
    raise Refused(f"expected an input of this pipeline's kinds, got {wanted}")


def _artifact(wanted: Any, artifacts: Mapping[str, spec.ArtifactList], done: Mapping[str, Any]) -> spec.ArtifactList:
    """Resolve a task's artifact from its DAG or another task (driver, resolveInputArtifact)."""
    if wanted.WhichOneof("kind") == "component_input_artifact":
        if wanted.component_input_artifact not in artifacts:
            raise Refused(f"the DAG has no artifact {wanted.component_input_artifact}")
        return artifacts[wanted.component_input_artifact]
    source = wanted.task_output_artifact
    _, outputs = _done(done, source.producer_task)
    if source.output_artifact_key not in outputs.artifacts:
        raise Refused(f"{source.producer_task} has no artifact {source.output_artifact_key!r}")
    return outputs.artifacts[source.output_artifact_key]


def _done(done: Mapping[str, Any], producer: str) -> Any:
    if done.get(producer) is None:
        raise Refused(f"expected the outputs of a step that ran before, got those of {producer!r}")
    return done[producer]


def _typed(component: spec.ComponentSpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return a component's inputs with its defaults; check each against its declared type and choices."""
    result = dict(values)
    for name, parameter in component.input_definitions.parameters.items():
        if name not in result:
            if not parameter.is_optional or not parameter.HasField("default_value"):
                raise Refused(f"the parameter {name} has neither a value nor a default")
            result[name] = parameter.default_value
        kind = result[name].WhichOneof("kind")
        if kind != _KINDS[parameter.parameter_type]:
            raise Refused(f"the parameter {name} is a {kind}, expected a {_KINDS[parameter.parameter_type]}")
        if parameter.literals and result[name] not in list(parameter.literals):
            raise Refused(f"the parameter {name} is none of its choices: {_plain(result[name])!r}")
    return result


def _resources(wanted: Any, given: spec.ExecutorInput) -> tuple[dict[str, str], dict[str, str]]:
    """Return the pod's resource requests and limits (driver, initPodSpecPatch)."""
    limits = {"memory": wanted.resource_memory_limit, "cpu": wanted.resource_cpu_limit}
    requests = {"memory": wanted.resource_memory_request, "cpu": wanted.resource_cpu_request}
    if kind := _channel(wanted.accelerator.resource_type, given):
        limits[kind] = wanted.accelerator.resource_count
    requests, limits = (
        {name: amount for name, text in texts.items() if (amount := _channel(text, given))}
        for texts in (requests, limits)
    )
    for quantity in (*requests.values(), *limits.values()):
        if not re.fullmatch(_QUANTITY, quantity):
            raise Refused(f"expected a quantity of Kubernetes, got {quantity!r}")
    return requests, limits


def _channel(text: str, given: spec.ExecutorInput) -> str:
    """Resolve a text of the pod that may name a task's input (driver, resolvePodSpecInputRuntimeParameter)."""
    if not (match := _CHANNEL.search(text)):
        return text
    if match[1] not in given.inputs.parameter_values:
        raise Refused(f"the task has no input {match[1]}")
    return given.inputs.parameter_values[match[1]].string_value


def _kubernetes(wanted: Any, inputs: Mapping[str, Value]) -> Value:
    """Return a parameter of the Kubernetes document from the inputs of the surrounding DAG."""
    name = wanted.component_input_parameter
    if name not in inputs:
        raise Refused(f"the DAG around has no input {name!r}")
    return inputs[name]


def _filled(word: str, given: spec.ExecutorInput) -> str:
    """Fill the placeholders of a word of the command, also those in the inputs (launcher, compileCmdAndArgs)."""
    word = word.replace("{{$}}", json_format.MessageToJson(given, indent=None))
    for name, value in given.inputs.parameter_values.items():
        text = value.string_value if value.WhichOneof("kind") == "string_value" else json.dumps(_plain(value))
        word = word.replace(f"{{{{$.inputs.parameters['{name}']}}}}", text)
    for side, artifacts in (("inputs", given.inputs.artifacts), ("outputs", given.outputs.artifacts)):
        for name, entries in artifacts.items():
            for attribute, text in (("uri", entries.artifacts[0].uri), ("path", _path(entries.artifacts[0].uri))):
                word = word.replace(f"{{{{$.{side}.artifacts['{name}'].{attribute}}}}}", text)
    return word


def _path(uri: str) -> str:
    """Return the path at which the launcher puts an artifact in the pod."""
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri
