"""Validation of the pipeline's parameters before a run starts: names, types, choices, ranges."""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from components.scorer.parameters import (
    check_faces,
    check_policy,
    check_pretraining,
    from_parameters,
    select_parameters,
)
from components.scorer.quoting import quoted
from components.scorer.registry import kubeflow
from components.scorer.settings import Evaluation, Faces, Ingestion, Policy, Pretraining, Push, Training, Validation
from pipeline.pipeline import portrait_scorer

_SIGNATURE = inspect.signature(portrait_scorer.pipeline_func).parameters
_INPUTS = {name: portrait_scorer.pipeline_spec.root.input_definitions.parameters[name] for name in _SIGNATURE}

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_SECRET = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}
_PARSERS: dict[int, Callable[[str], Any]] = {
    ParameterType.STRING: str,
    ParameterType.NUMBER_INTEGER: int,
    ParameterType.NUMBER_DOUBLE: float,
    ParameterType.BOOLEAN: lambda text: {"true": True, "false": False}[text.lower()],
    ParameterType.LIST: json.loads,
    ParameterType.STRUCT: json.loads,
}
_TYPES = {
    ParameterType.STRING: (str, "a text"),
    ParameterType.NUMBER_INTEGER: (int, "a whole number"),
    ParameterType.NUMBER_DOUBLE: (float | int, "a number"),
    ParameterType.BOOLEAN: (bool, "true or false"),
    ParameterType.LIST: (list, "a JSON list"),
    ParameterType.STRUCT: (dict, "a JSON object"),
}


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Parse ``name=value`` texts into the types of the pipeline's parameters.

    Raises:
        ValueError: An assignment has no ``=``, its name is unknown, or its value is not of the parameter's type.
    """
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"expected name=value, got {quoted(assignment)}")
        kind = _parameter_type(name)
        try:
            values[name] = _PARSERS[kind](text)
        except (ValueError, KeyError):
            raise ValueError(f"{name} must be {_TYPES[kind][1]}, got {quoted(text)}") from None
    return values


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the values after checking all names, types, choices and ranges.

    Args:
        values: Parameters by name; a missing parameter keeps the pipeline's default.

    Raises:
        ValueError: A parameter is wrong. The message names the parameter, the expected value and the actual value.
    """
    for name, value in values.items():
        kind, expected = _TYPES[_parameter_type(name)]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name} must be {expected}, got {quoted(value)}")
        choices = [json_format.MessageToDict(choice) for choice in _INPUTS[name].literals]
        if choices and value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {quoted(value)}")
    for name, spec in _INPUTS.items():
        if not spec.is_optional and not values.get(name):
            raise ValueError(f"{name} is missing. {spec.description}")
    checked = {}
    for settings in (Ingestion, Faces, Pretraining, Training, Validation, Evaluation, Policy, Push):
        prefix = "pretraining_" if settings is Pretraining else ""
        try:
            checked[settings] = from_parameters(settings, **select_parameters(dict(values), settings, prefix))
        except ValueError as error:
            has_prefixed = f"{prefix}{str(error).split()[0]}" in values
            raise ValueError(f"{prefix}{error}" if prefix and has_prefixed else str(error)) from None
    _check_pool(values)
    _check_secret(values)
    check_pretraining(checked[Pretraining], checked[Training].scale)
    check_faces(checked[Faces])
    check_policy(checked[Policy])
    kubeflow.check_url(checked[Push].model_registry)
    return dict(values)


def default(name: str) -> Any:
    """Return the pipeline's default of a parameter that has a default."""
    return _SIGNATURE[name].default


def _check_pool(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a node pool that Kubernetes would refuse hours later, when the GPU steps start."""
    accelerator = values.get("accelerator", "")
    if accelerator and not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", accelerator):
        raise ValueError(f"accelerator must be a resource of Kubernetes such as nvidia.com/gpu, got {accelerator!r}")
    for label, value in values.get("node_selector", {}).items():
        if not isinstance(value, str):
            actual = f"{quoted(value)} for {quoted(label)}"
            raise ValueError(f'node_selector must hold texts, such as {{"pool": "gpu"}}, got {actual}')
    for toleration in values.get("tolerations", []):
        if not isinstance(toleration, dict) or not toleration or not set(toleration) <= _TOLERATION:
            expected = '{"key": "nvidia.com/gpu", "operator": "Exists"}'
            raise ValueError(f"tolerations must be those of Kubernetes, such as {expected}, got {toleration!r}")


def _check_secret(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a name that no Secret can have: the notification step would fail and notify nobody."""
    webhook = values.get("webhook", _SIGNATURE["webhook"].default)
    if len(webhook) > 253 or not re.fullmatch(_SECRET, webhook):
        raise ValueError(f"webhook must be the name of a Secret, which need not be there, got {webhook!r}")


def _parameter_type(name: str) -> int:
    """Return the parameter's type as a ``ParameterType``; raise ValueError for an unknown name."""
    if name not in _INPUTS:
        matches = difflib.get_close_matches(name, _INPUTS, n=1)
        hint = f"did you mean {matches[0]!r}?" if matches else f"expected one of {', '.join(sorted(_INPUTS))}"
        raise ValueError(f"the pipeline has no parameter {quoted(name)}: {hint}")
    return _INPUTS[name].parameter_type


def table() -> str:
    """Return one line for each parameter with its default and description, in the order of the signature."""
    lines = []
    for name, parameter in _SIGNATURE.items():
        default = "required" if parameter.default is parameter.empty else json.dumps(parameter.default)
        lines.append(f"{name:<28}{default:<27}{_INPUTS[name].description}")
    return "\n".join(lines)
