"""Check of a Kubernetes cluster's quota and nodes for the accelerators that a run requests.

A quota below the request of one step is an error, as the step could never start. A quota that is used up now is only
reported, and so are nodes that are too small: a node pool may still add a node when a step waits for it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder in which a pod finds its namespace, its token and the certificate of Kubernetes."""

_TIMEOUT = 10.0  # seconds for each response


def in_pod() -> bool:
    """Return True if this process runs in a pod with a service account, which can call Kubernetes."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()


def check_quota(accelerator: str, count: int, selector: Mapping[str, str], kubeconfig: str = "") -> str:
    """Compare the accelerators that each step requests with the namespace's quotas and the cluster's nodes.

    Args:
        accelerator: Kubernetes resource name, e.g. ``nvidia.com/gpu``.
        count: Number of accelerators that each step requests.
        selector: Labels of the eligible nodes.
        kubeconfig: Kubeconfig file with the cluster and the namespace; "" uses the pod's own service account.

    Returns:
        The result in a few words. If Kubernetes cannot be called, the words say why.

    Raises:
        ValueError: A quota of the namespace is below the request.
    """
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    fallback = f"whether there are {count} shows when pretraining starts"
    try:
        api, namespace = _connect(kubeconfig)
        quotas = api.list_namespaced_resource_quota(namespace, _request_timeout=_TIMEOUT).items
    except ApiException as error:
        return f"cannot be looked up: Kubernetes answers {error.status} {_error_message(error)}; {fallback}"
    except (HTTPError, ConfigException, OSError) as error:
        return f"cannot be looked up: Kubernetes cannot be asked ({type(error).__name__}); {fallback}"
    descriptions = [_describe_quota(quota, accelerator, count, namespace) for quota in quotas]
    try:
        nodes = api.list_node(
            _request_timeout=_TIMEOUT, label_selector=",".join(f"{k}={v}" for k, v in selector.items())
        )
        descriptions.append(
            _describe_nodes([node.status.allocatable or {} for node in nodes.items], accelerator, count)
        )
    except ApiException:  # a namespace's account is rarely allowed to list nodes
        descriptions.append("its nodes cannot be seen by this account")
    except HTTPError:
        descriptions.append("its nodes cannot be seen now")
    return "; ".join(filter(None, descriptions))


def _connect(kubeconfig: str) -> tuple[Any, str]:
    """Return the API client and the namespace of the run."""
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = 0  # a failed call is reported at once instead of being repeated
    if kubeconfig:
        config.load_kube_config(kubeconfig, client_configuration=configuration)
        _, context = config.list_kube_config_contexts(kubeconfig)
        namespace = context["context"].get("namespace", "default")
    else:
        config.load_incluster_config(client_configuration=configuration)
        namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    return client.CoreV1Api(client.ApiClient(configuration)), namespace


def _describe_quota(quota: Any, accelerator: str, count: int, namespace: str) -> str:
    """Describe a quota for the run; "" if the quota does not limit the accelerator."""
    key = f"requests.{accelerator}"  # the only quota key that Kubernetes has for an extended resource
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


def _describe_nodes(allocatable: list[Mapping[str, str]], accelerator: str, count: int) -> str:
    """Describe the accelerators of the eligible nodes."""
    largest = max((int(resources.get(accelerator, 0)) for resources in allocatable), default=0)
    if largest >= count:
        return f"a node has {largest}"
    summary = (
        f"the largest of the nodes that may serve has {largest}" if largest else "no node that may serve has any now"
    )
    return f"{summary}: a step waits for {count} until its pool brings such a node up"


def _error_message(error: Any) -> str:
    """Return the message of a Kubernetes API error, at most 200 characters."""
    try:
        return str(json.loads(error.body)["message"])[:200]
    except (KeyError, TypeError, ValueError):
        return str(error.reason)
