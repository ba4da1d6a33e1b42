"""``Literal`` parameters of a pipeline: Kubeflow's form offers the choices, and its server refuses other values.

Kubeflow's pipeline format and server support them; the compiler of kfp 2.17.0 does not yet, and takes ``str`` only.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from google.protobuf.struct_pb2 import Value
from kfp import dsl


def pipeline(**options: Any) -> Callable[[Callable], Any]:
    """Decorate a function as ``dsl.pipeline`` does; its parameters may be annotated with ``Literal`` of strings.

    Args:
        options: Keyword arguments of ``dsl.pipeline``.
    """

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
