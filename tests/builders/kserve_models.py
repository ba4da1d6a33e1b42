"""Check manifests of KServe with the models of its own package; unknown fields are refused.

The package conflicts with this project's packages, so this file runs in its own environment, which ``make manifests``
makes:

    .venv-kserve/bin/python tests/builders/kserve_models.py images/manifests/kserve/*.yaml
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kserve
import yaml
from kubernetes import client

PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}
ALIASES = {
    "K8sIoApiAppsV1DeploymentStrategy": "V1DeploymentStrategy",
    "ResourceQuantity": "str",  # may be a number, too
    "object": "object",
}


def problems(value: Any, kind: str, place: str) -> Iterator[str]:
    """Yield the faults of a value that should have a type of the generated models.

    Args:
        value: Value from YAML.
        kind: Type: ``str``, ``list[V1Container]``, ``dict(str, str)``, ``V1Probe``, …
        place: Path of the value, for the message.
    """
    kind = ALIASES.get(kind, kind)
    if match := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place}: expected a list, got {value!r}"
            return
        for number, item in enumerate(value):
            yield from problems(item, match[1], f"{place}[{number}]")
    elif match := re.fullmatch(r"[dD]ict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            yield f"{place}: expected an object, got {value!r}"
            return
        for name, item in value.items():
            yield from problems(item, match[1], f"{place}.{name}")
    elif kind in PLAIN:
        expected_type = PLAIN[kind]
        if not isinstance(value, expected_type) or (isinstance(value, bool) and kind != "bool"):
            yield f"{place}: expected {kind}, got {value!r}"
    elif kind != "object":
        yield from _of_model(value, kind, place)


def _of_model(value: Any, kind: str, place: str) -> Iterator[str]:
    """Yield the faults of a value of a generated class; its constructor checks required fields."""
    model = getattr(kserve, kind, None) or getattr(client, kind)
    if not isinstance(value, dict):
        yield f"{place}: expected {kind}, got {value!r}"
        return
    names = {key: name for name, key in model.attribute_map.items()}
    for key in value.keys() - names.keys():
        yield f"{place}: {kind} has no field {key!r}"
    known = {key: item for key, item in value.items() if key in names}
    for key, item in known.items():
        yield from problems(item, model.openapi_types[names[key]], f"{place}.{key}")
    try:
        model(**{names[key]: item for key, item in known.items()})
    except ValueError as error:
        yield f"{place}: {error}"


def check(path: Path) -> list[str]:
    """Return the faults of a file's KServe documents; other kinds are checked elsewhere."""
    faults, kserve_documents = [], 0
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        group = document["apiVersion"].split("/")[0]
        if not group.startswith("serving.kserve.io"):
            continue
        kserve_documents += 1
        kind = document["apiVersion"].split("/")[1].capitalize() + document["kind"]
        schema_faults = list(problems(document, kind, f"{path.name}: {document['kind']}"))
        faults += schema_faults or [f"{path.name}: {problem}" for problem in canaries(document)]
    return faults if kserve_documents else [f"{path.name}: there is nothing of KServe's in it"]


def canaries(service: dict) -> list[str]:
    """Return the canary faults that only the webhook refuses: duplicate names, over 100 %, modes but Standard."""
    canary_specs = service["spec"].get("canary", [])
    names = [canary["predictor"].get("name") for canary in canary_specs]
    mode = service["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
    scaling = {"maxReplicas", "scaleMetric", "scaleTarget", "scaleMetricType", "autoScaling"}
    faults = []
    if canary_specs and mode != "Standard":
        faults.append(f"canary: expected the deployment mode Standard, got {mode}")
    if None in names or len(set(names)) < len(names):
        faults.append(f"canary: expected a name of its own for each, got {names}")
    if (total := sum(canary["trafficPercent"] for canary in canary_specs)) > 100:
        faults.append(f"canary: expected at most 100 % of traffic, got {total}")
    for canary in canary_specs:
        if forbidden := scaling & canary["predictor"].keys():
            faults.append(f"canary: autoscaling is the predictor's, got {sorted(forbidden)}")
    return faults


if __name__ == "__main__":
    wrong = [problem for name in sys.argv[1:] for problem in check(Path(name))]
    print("\n".join(wrong) or f"{len(sys.argv) - 1} files are as KServe {version('kserve')} wants them")
    sys.exit(1 if wrong else 0)
