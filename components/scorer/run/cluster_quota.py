"""Whether a cluster would give a run the accelerators that it asks for, as far as Kubernetes tells before it is asked.

What can never come is an error: a quota below what a step asks for. What may still come is told: a quota that is used
up now, or no node that has so many, for a pool may bring one up when a step waits for it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its namespace, its token and the certificate of Kubernetes."""

_TIMEOUT = 10.0  # seconds for each answer


def in_pod() -> bool:
    """Whether this process runs in a pod that may ask Kubernetes."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (ACCOUNT / "token").is_file()


def examine(accelerator: str, count: int, selector: Mapping[str, str], kubeconfig: str = "") -> str:
    """Ask Kubernetes for the namespace's quota and for nodes.

    Args:
        accelerator: the resource's name, e.g. ``nvidia.com/gpu``.
        count: how many each step asks for.
        selector: labels of the nodes that may serve.
        kubeconfig: the file that says where Kubernetes is and in which namespace; in a pod none is needed.

    Returns:
        What was found, in a few words; also that nothing could be asked, and why.

    Raises:
        ValueError: a quota of the namespace will never allow it.
    """
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    later = f"whether there are {count} shows when pretraining starts"
    try:
        api, namespace = _connected(kubeconfig)
        quotas = api.list_namespaced_resource_quota(namespace, _request_timeout=_TIMEOUT).items
    except ApiException as error:
        return f"cannot be looked up: Kubernetes answers {error.status} {_reason(error)}; {later}"
    except (HTTPError, ConfigException, OSError) as error:
        return f"cannot be looked up: Kubernetes cannot be asked ({type(error).__name__}); {later}"
    told = [_quota(quota, accelerator, count, namespace) for quota in quotas]
    try:
        nodes = api.list_node(
            _request_timeout=_TIMEOUT, label_selector=",".join(f"{k}={v}" for k, v in selector.items())
        )
        told.append(_nodes([node.status.allocatable or {} for node in nodes.items], accelerator, count))
    except ApiException:  # a namespace's account may rarely look at nodes
        told.append("its nodes cannot be seen by this account")
    except HTTPError:
        told.append("its nodes cannot be seen now")
    return "; ".join(filter(None, told))


def _connected(kubeconfig: str) -> tuple[Any, str]:
    """The API, and the namespace of the run."""
    from kubernetes import client, config

    own = client.Configuration()
    own.retries = 0  # what cannot be asked is said, not waited for
    if kubeconfig:
        config.load_kube_config(kubeconfig, client_configuration=own)
        _, context = config.list_kube_config_contexts(kubeconfig)
        namespace = context["context"].get("namespace", "default")
    else:
        config.load_incluster_config(client_configuration=own)
        namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return client.CoreV1Api(client.ApiClient(own)), namespace


def _quota(quota: Any, accelerator: str, count: int, namespace: str) -> str:
    """What a quota means for the run; empty where it is not of accelerators."""
    key = f"requests.{accelerator}"  # the only form that Kubernetes has for such a resource
    hard = (quota.status.hard if quota.status and quota.status.hard else quota.spec.hard or {}).get(key)
    if hard is None:
        return ""
    allowed, used = int(hard), int(((quota.status and quota.status.used) or {}).get(key, 0))
    name = f"quota {quota.metadata.name} of namespace {namespace}"
    if allowed < count:
        raise ValueError(
            f"{name} allows {allowed}, each step asks for {count}: lower accelerator_count, or have the quota raised"
        )
    if used + count > allowed:
        return (
            f"{name} has {allowed - used} of {allowed} left now, each step asks for {count} and fails until it is free"
        )
    return f"{name} has {allowed - used} of {allowed} left"


def _nodes(allocatable: list[Mapping[str, str]], accelerator: str, count: int) -> str:
    """What the nodes that may serve have."""
    most = max((int(each.get(accelerator, 0)) for each in allocatable), default=0)
    if most >= count:
        return f"a node has {most}"
    some = f"the largest of the nodes that may serve has {most}" if most else "no node that may serve has any now"
    return f"{some}: a step waits for {count} until its pool brings such a node up"


def _reason(error: Any) -> str:
    """What Kubernetes says of a refusal, in short."""
    try:
        return str(json.loads(error.body)["message"])[:200]
    except (KeyError, TypeError, ValueError):
        return str(error.reason)
