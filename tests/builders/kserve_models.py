"""Checks manifests of KServe with the models of its own package, unknown fields refused.

The package cannot be installed beside this project, so this file runs in an environment of its own, which
``make manifests`` makes:

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
    "ResourceQuantity": "str",  # also a number
    "object": "object",
}


def problems(value: Any, kind: str, place: str) -> Iterator[str]:
    """What is wrong with a value that should be of a kind, in the words of the generated models.

    Args:
        value: from YAML.
        kind: ``str``, ``list[V1Container]``, ``dict(str, str)``, ``V1Probe``, …
        place: of the value, for the message.
    """
    kind = ALIASES.get(kind, kind)
    if each := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place}: expected a list, got {value!r}"
            return
        for number, item in enumerate(value):
            yield from problems(item, each[1], f"{place}[{number}]")
    elif each := re.fullmatch(r"[dD]ict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            yield f"{place}: expected an object, got {value!r}"
            return
        for name, item in value.items():
            yield from problems(item, each[1], f"{place}.{name}")
    elif kind in PLAIN:
        wanted = PLAIN[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            yield f"{place}: expected {kind}, got {value!r}"
    elif kind != "object":
        yield from _of_model(value, kind, place)


def _of_model(value: Any, kind: str, place: str) -> Iterator[str]:
    """The same for one of the generated classes; made of the value, it checks what it requires itself."""
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
    """What is wrong with a file's documents; those of Kubernetes' own kinds are checked elsewhere."""
    found, kinds = [], 0
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        group = document["apiVersion"].split("/")[0]
        if not group.startswith("serving.kserve.io"):
            continue
        kinds += 1
        kind = document["apiVersion"].split("/")[1].capitalize() + document["kind"]
        wrong = list(problems(document, kind, f"{path.name}: {document['kind']}"))
        found += wrong or [f"{path.name}: {problem}" for problem in canaries(document)]
    return found if kinds else [f"{path.name}: there is nothing of KServe's in it"]


def canaries(service: dict) -> list[str]:
    """What KServe's webhook refuses of canaries, which its models do not know: a name each, 100 % at most, Standard."""
    listed = service["spec"].get("canary", [])
    names = [canary["predictor"].get("name") for canary in listed]
    mode = service["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
    scaling = {"maxReplicas", "scaleMetric", "scaleTarget", "scaleMetricType", "autoScaling"}
    found = []
    if listed and mode != "Standard":
        found.append(f"canary: expected the deployment mode Standard, got {mode}")
    if None in names or len(set(names)) < len(names):
        found.append(f"canary: expected a name of its own for each, got {names}")
    if (total := sum(canary["trafficPercent"] for canary in listed)) > 100:
        found.append(f"canary: expected at most 100 % of traffic, got {total}")
    for canary in listed:
        if own := scaling & canary["predictor"].keys():
            found.append(f"canary: autoscaling is the predictor's, got {sorted(own)}")
    return found


if __name__ == "__main__":
    wrong = [problem for name in sys.argv[1:] for problem in check(Path(name))]
    print("\n".join(wrong) or f"{len(sys.argv) - 1} files are as KServe {version('kserve')} wants them")
    sys.exit(1 if wrong else 0)
