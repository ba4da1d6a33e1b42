"""The DAG on a cluster: its versions uploaded, runs started."""

import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import kfp
import kfp_server_api
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from pipeline import parameters
from pipeline.package import PATH, compiled
from pipeline.pipeline import NAME
from pipeline.runs import revision

EXPERIMENT = NAME

TIMEOUT = 20
"""Seconds to wait for an answer of the server: left alone, Kubeflow's client waits for ever."""

_PAUSES = (1.0, 2.0, 4.0)  # seconds before a question is asked again
_BUSY = (429, 502, 503, 504)


class Version(NamedTuple):
    """A version of the pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what the client raises into one OSError that says what went wrong."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise OSError(f"the Kubeflow server refused ({error.status}): {error.body or error.reason}") from error
    except urllib3.exceptions.HTTPError as error:
        raise OSError(f"the Kubeflow server cannot be reached: {error}") from error


class _Patient(kfp_server_api.rest.RESTClientObject):
    """Asks a busy server again, and waits for no answer longer than ``TIMEOUT``.

    Lost connections are urllib3's matter, which asks three times more. Only questions are asked again: a change may
    have been made although its answer got lost, and the server would make it twice.
    """

    def request(self, method: str, url: str, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT
        for pause in (*_PAUSES, None):
            try:
                return super().request(method, url, **options)
            except kfp_server_api.ApiException as error:
                if method != "GET" or pause is None or error.status not in _BUSY:
                    raise
                time.sleep(pause)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError) as error:
                raise OSError(
                    f"the Kubeflow server gave no answer: {error}; what it was asked for may have been done all the"
                    " same, so look there before you ask again"
                ) from error
        raise AssertionError("unreachable")


def connect(host: str = "", namespace: str = "") -> kfp.Client:
    """A client of the Kubeflow Pipelines API; without a host, as kfp finds one (environment, kubeconfig).

    In a pod whose token for Kubeflow is named by ``KF_PIPELINES_SA_TOKEN_PATH`` it acts as the pod's account.
    """
    kfp_server_api.api_client.rest.RESTClientObject = _Patient  # kfp's client offers no other way to set a timeout
    own: dict[str, Any] = {"namespace": namespace} if namespace else {}
    if os.environ.get(KF_PIPELINES_SA_TOKEN_ENV):  # kfp itself looks for it only where no host is given
        own["credentials"] = ServiceAccountTokenVolumeCredentials()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # says that it speaks to version 2 only
        return kfp.Client(host=host or None, **own)


def version_name(package: str) -> str:
    """The git revision, with a digest of the package where files differ from the revision."""
    name = revision()
    if name and not name.endswith("-dirty"):
        return name
    return f"{name or 'unversioned'}-{hashlib.sha256(package.encode()).hexdigest()[:8]}"


def known(client: kfp.Client, name: str) -> Version:
    """The version that the server knows by a name.

    Raises:
        ValueError: there is none; names those that there are last.
    """
    pipeline_id = client.get_pipeline_id(NAME)
    there = every(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id) if pipeline_id else ()
    versions = {each.display_name: each.pipeline_version_id for each in there}
    if name not in versions:
        last = ", ".join(list(versions)[-3:]) or "none"
        raise ValueError(f"expected a version {name!r} of {NAME} on the server, it has {last}: upload it first")
    return Version(pipeline_id, versions[name], name)


def upload(client: kfp.Client, name: str = "") -> Version:
    """The version of the pipeline that this code compiles to, uploaded unless the server has it.

    Args:
        client: of the server.
        name: of the version; by default that of `version_name`.
    """
    package = compiled()
    name = name or version_name(package)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PATH.name)
        path.write_text(package, encoding="utf-8")
        pipeline_id = client.get_pipeline_id(NAME)
        if not pipeline_id:  # this upload cannot name its version, so that a named one follows
            pipeline_id = client.upload_pipeline(str(path), NAME).pipeline_id
        for version in every(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
            if version.display_name == name:
                return Version(pipeline_id, version.pipeline_version_id, name)
        version = client.upload_pipeline_version(str(path), name, pipeline_id=pipeline_id)
        return Version(pipeline_id, version.pipeline_version_id, name)


def submit(
    client: kfp.Client, values: dict[str, Any], experiment: str = EXPERIMENT, job: str = "", account: str = ""
) -> str:
    """Start a run of this code's version.

    Args:
        client: of the server.
        values: the pipeline's parameters.
        experiment: name of the experiment, made when it is not there.
        job: name of the run.
        account: Kubernetes service account of the steps; empty for the server's default.

    Returns:
        The run's id.

    Raises:
        ValueError: a parameter is wrong; nothing was uploaded.
    """
    values = parameters.check(values)
    version = upload(client)
    where = client.create_experiment(experiment).experiment_id
    run = client.run_pipeline(
        where, job or f"{NAME} {version.name}", params={"revision": version.name, **values},
        pipeline_id=version.pipeline_id, version_id=version.version_id, service_account=account or None,
    )  # fmt: skip
    return run.run_id


def every(list_page: Callable[..., Any], items: str, **which: str) -> Iterator[Any]:
    """Every item of a paged list."""
    token = ""
    while True:
        page = list_page(page_token=token, page_size=100, **which)
        yield from getattr(page, items) or []
        token = page.next_page_token
        if not token:
            return
