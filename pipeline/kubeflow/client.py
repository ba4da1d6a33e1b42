"""Client of the Kubeflow Pipelines API: login, upload of pipeline versions, and start of runs."""

import hashlib
import ipaddress
import os
import re
import ssl
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV
from kfp.client.client import KF_PIPELINES_ENDPOINT_ENV
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp.client.token_credentials_base import TokenCredentialsBase

from pipeline import parameters
from pipeline.compiled import PATH, compiled_yaml
from pipeline.local_runner import git_revision
from pipeline.pipeline import NAME

EXPERIMENT = NAME

TIMEOUT = 20
"""Timeout of a request in seconds: Kubeflow's client has none by default."""

TOKEN, COOKIE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"
"""Environment variables with the login credentials: a token, or a browser session's cookie as NAME=VALUE."""

_LOG_IN = (
    f"log in to Kubeflow in a browser and give the session's cookie as {COOKIE}=NAME=VALUE, or a token as {TOKEN}, or"
    " go past the login: kubectl --namespace kubeflow port-forward service/ml-pipeline 8888:8888"
)
_HEALTH = "/healthz"
_IN_CLUSTER = re.compile(r"ml-pipeline(\.[a-z0-9-]+\.svc(\.cluster\.local)?)?")
_RETRY_DELAYS = (1.0, 2.0, 4.0)  # seconds before each retry of a GET request
_RETRY_STATUSES = (429, 502, 503, 504)


class PipelineVersion(NamedTuple):
    """Version of the pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str


@contextmanager
def clear_errors() -> Iterator[None]:
    """Convert exceptions of the Kubeflow client into an OSError with a clear message."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise OSError(_refusal_message(error)) from error
    except urllib3.exceptions.HTTPError as error:
        if isinstance(reason := getattr(error, "reason", error), urllib3.exceptions.SSLError):
            raise OSError(
                f"the Kubeflow server's certificate cannot be trusted: {reason}; name the file of the certificates that"
                " sign it as --ca or SSL_CERT_FILE"
            ) from error
        raise OSError(f"the Kubeflow server cannot be reached: {error}") from error


def _refusal_message(error: kfp_server_api.ApiException) -> str:
    return f"the Kubeflow server refused ({error.status}): {error.body or error.reason}"


class _RetryingRestClient(kfp_server_api.rest.RESTClientObject):
    """REST client with a timeout of ``TIMEOUT``, retries, and a check that the response is Kubeflow's.

    A login page has status 200 or is the target of a redirect: redirects are not followed, so no credentials are sent
    there. urllib3 retries lost connections three times. Only GET requests are retried after busy responses: after a
    lost response a change may have been made, and a retry would make it twice.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool_manager.urlopen = partial(self.pool_manager.urlopen, redirect=False)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request and return the server's response.

        Raises:
            OSError: The response is not Kubeflow's, or was lost.
            kfp_server_api.ApiException: The server refused the request.
        """
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT
        for pause in (*_RETRY_DELAYS, None):
            try:
                answer = super().request(method, url, **options)
                _check_kubeflow_response(url, answer.status, answer.getheaders())
                return answer
            except kfp_server_api.ApiException as error:
                _check_kubeflow_response(url, error.status, error.headers or {})
                if method != "GET" or pause is None or error.status not in _RETRY_STATUSES:
                    if url.endswith(_HEALTH):  # else kfp's client retries for half a minute
                        raise OSError(_refusal_message(error)) from error
                    raise
                time.sleep(pause)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError) as error:
                raise OSError(
                    f"the Kubeflow server gave no answer: {error}; what it was asked for may have been done all the"
                    " same, so look there before you ask again"
                ) from error
        raise AssertionError("unreachable")


def _check_kubeflow_response(url: str, status: int, headers: Any) -> None:
    """Raise OSError for a response that cannot be from Kubeflow's API, such as a login page.

    Raises:
        OSError: The response is not Kubeflow's. The message describes the response and the remedy.
    """
    host, is_json = "{0.scheme}://{0.netloc}".format(urlsplit(url)), "json" in headers.get("Content-Type", "")
    if status == 401 or 300 <= status < 400 or (status in (200, 403) and not is_json):
        page = urlsplit(headers.get("Location", ""))
        location = f", a way to {page.scheme}://{page.netloc}{page.path}" if page.netloc else ""
        response = f"{status}{location}" if status != 200 else "a page"
        raise OSError(f"not logged in: {host} answered with {response} instead of as Kubeflow's API; {_LOG_IN}")
    if status == 404 and (url.endswith(_HEALTH) or not is_json):
        raise OSError(
            f"there is no Kubeflow Pipelines API at {url.partition('/apis/')[0]} (404): expected its address, such as"
            " http://localhost:8888 or https://kubeflow.example/pipeline"
        )


def connect(host: str = "", namespace: str = "", ca: str = "") -> kfp.Client:
    """Return a client of the Kubeflow Pipelines API.

    Credentials are taken from ``KF_PIPELINES_TOKEN`` or ``KF_PIPELINES_COOKIE``. These are sent only over TLS, within
    the cluster or to this machine. Otherwise, if ``KF_PIPELINES_SA_TOKEN_PATH`` names a token file, the pod's service
    account is used. That token is sent only to Kubeflow's service in the cluster or to ``KF_PIPELINES_ENDPOINT``.

    Args:
        host: URL of the API; "": as kfp finds it (environment, kubeconfig).
        namespace: Namespace, if several teams share the server; "": none.
        ca: Path of the CA certificates (PEM) of the server; "": the usual public authorities.

    Raises:
        OSError: The login is missing or refused, or there is no such API or file.
        ValueError: The file holds no certificate, or a login would be sent without encryption.
    """
    kfp_server_api.api_client.rest.RESTClientObject = _RetryingRestClient  # kfp's client has no setting for a timeout
    options: dict[str, Any] = {"namespace": namespace} if namespace else {}
    options |= _login_options(host or os.environ.get(KF_PIPELINES_ENDPOINT_ENV, ""))
    if ca:
        if not Path(ca).is_file():
            raise FileNotFoundError(f"expected a file of certificates at {ca}, found none")
        try:
            ssl.create_default_context(cafile=ca)
        except ssl.SSLError:
            raise ValueError(f"expected certificates (PEM) in {ca}, found none") from None
        options["ssl_ca_cert"] = ca
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # kfp warns that it supports version 2 only
        return kfp.Client(host=host or None, **options)


class _TokenCredentials(TokenCredentialsBase):
    """Credentials with a fixed token from the environment."""

    def __init__(self, token: str) -> None:
        self._token = token

    def refresh_api_key_hook(self, config: kfp_server_api.Configuration) -> None:
        """Set the token in the client's configuration."""
        config.api_key["authorization"] = self._token


def _login_options(host: str) -> dict[str, Any]:
    """Return kfp's keyword arguments for the login; credentials are never sent to a host they are not meant for.

    Raises:
        ValueError: The credentials would be sent without encryption.
    """
    token, cookie = os.environ.get(TOKEN, ""), os.environ.get(COOKIE, "")
    parts = urlsplit(host if "://" in host else f"https://{host}")
    name, in_cluster = parts.hostname or "", bool(_IN_CLUSTER.fullmatch(parts.hostname or ""))
    if (token or cookie) and host and parts.scheme == "http" and not in_cluster and not _is_loopback(name):
        raise ValueError(
            f"{TOKEN if token else COOKIE} is not sent in the clear: expected a host with https://, got {host}"
        )
    if token or cookie:
        return ({"credentials": _TokenCredentials(token)} if token else {}) | ({"cookies": cookie} if cookie else {})
    is_endpoint = host and host.rstrip("/") == os.environ.get(KF_PIPELINES_ENDPOINT_ENV, "").rstrip("/")
    if os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) and (
        in_cluster or is_endpoint
    ):  # kfp reads this variable only without a host
        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def version_name(package: str) -> str:
    """Return the git revision; if files differ from the revision, a digest of the package is appended."""
    name = git_revision()
    if name and not name.endswith("-dirty"):
        return name
    return f"{name or 'unversioned'}-{hashlib.sha256(package.encode()).hexdigest()[:8]}"


def find_version(client: kfp.Client, name: str) -> PipelineVersion:
    """Return the pipeline version with a name from the server.

    Raises:
        ValueError: There is no such version. The message lists the last three versions.
    """
    pipeline_id = client.get_pipeline_id(NAME)
    listed = (
        list_all(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id) if pipeline_id else ()
    )
    versions = {version.display_name: version.pipeline_version_id for version in listed}
    if name not in versions:
        last = ", ".join(list(versions)[-3:]) or "none"
        raise ValueError(f"expected a version {name!r} of {NAME} on the server, it has {last}: upload it first")
    return PipelineVersion(pipeline_id, versions[name], name)


def upload(client: kfp.Client, name: str = "") -> PipelineVersion:
    """Upload the compiled pipeline unless the server has a version of this name; return the version.

    Args:
        client: Client of the server.
        name: Name of the version; "": the result of `version_name`.
    """
    package = compiled_yaml()
    name = name or version_name(package)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PATH.name)
        path.write_text(package, encoding="utf-8")
        pipeline_id = client.get_pipeline_id(NAME)
        if not pipeline_id:  # this upload cannot name its version: a named upload follows
            pipeline_id = client.upload_pipeline(str(path), NAME).pipeline_id
        for version in list_all(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
            if version.display_name == name:
                return PipelineVersion(pipeline_id, version.pipeline_version_id, name)
        version = client.upload_pipeline_version(str(path), name, pipeline_id=pipeline_id)
        return PipelineVersion(pipeline_id, version.pipeline_version_id, name)


def submit(
    client: kfp.Client, values: dict[str, Any], experiment: str = EXPERIMENT, job: str = "", account: str = ""
) -> str:
    """Upload this code's version and start a run.

    Args:
        client: Client of the server.
        values: Parameters of the pipeline.
        experiment: Name of the experiment; created if it does not exist.
        job: Name of the run; "": the names of pipeline and version.
        account: Kubernetes service account of the steps; "": the server's default.

    Returns:
        The id of the run.

    Raises:
        ValueError: A parameter is wrong; nothing was uploaded.
    """
    values = parameters.check(values)
    version = upload(client)
    experiment_id = client.create_experiment(experiment).experiment_id
    run = client.run_pipeline(
        experiment_id, job or f"{NAME} {version.name}", params={"revision": version.name, **values},
        pipeline_id=version.pipeline_id, version_id=version.version_id, service_account=account or None,
    )  # fmt: skip
    return run.run_id


def list_all(list_page: Callable[..., Any], items: str, **filters: str) -> Iterator[Any]:
    """Yield all items of a paged list.

    Args:
        list_page: Method of the client that returns one page.
        items: Name of the page's attribute with the items.
        filters: Keyword arguments of ``list_page``.
    """
    token = ""
    while True:
        page = list_page(page_token=token, page_size=100, **filters)
        yield from getattr(page, items) or []
        token = page.next_page_token
        if not token:
            return
