"""``Literal`` parameters of a pipeline: a choice in the form, and refused by the server when it is none of them.

Kubeflow's pipeline format and server know them; the compiler of kfp 2.17.0 does not yet, and takes ``str`` only.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from google.protobuf.struct_pb2 import Value
from kfp import dsl


def pipeline(**options: Any) -> Callable[[Callable], Any]:
    """``dsl.pipeline`` for a function whose signature may hold ``Literal`` of strings."""

    def decorate(function: Callable) -> Any:
        choices = {
            name: get_args(hint) for name, hint in get_type_hints(function).items() if get_origin(hint) is Literal
        }
        function.__annotations__ |= dict.fromkeys(choices, str)
        graph = dsl.pipeline(**options)(function)
        inputs = graph.pipeline_spec.root.input_definitions.parameters
        for name, values in choices.items():
            inputs[name].literals.extend(Value(string_value=value) for value in values)
        return graph

    return decorate
