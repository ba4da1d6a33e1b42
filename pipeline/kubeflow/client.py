"""The DAG on a cluster: its versions uploaded, runs started."""

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
from pipeline.compiled import PATH, compiled
from pipeline.local_runner import revision
from pipeline.pipeline import NAME

EXPERIMENT = NAME

TIMEOUT = 20
"""Seconds to wait for an answer of the server: left alone, Kubeflow's client waits for ever."""

TOKEN, COOKIE = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"
"""Environment variables with what proves a login: a token, or a browser session's cookie as NAME=VALUE."""

_LOG_IN = (
    f"log in to Kubeflow in a browser and give the session's cookie as {COOKIE}=NAME=VALUE, or a token as {TOKEN}, or"
    " go past the login: kubectl --namespace kubeflow port-forward service/ml-pipeline 8888:8888"
)
_HEALTH = "/healthz"
_IN_CLUSTER = re.compile(r"ml-pipeline(\.[a-z0-9-]+\.svc(\.cluster\.local)?)?")
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
        raise OSError(_refusal(error)) from error
    except urllib3.exceptions.HTTPError as error:
        if isinstance(reason := getattr(error, "reason", error), urllib3.exceptions.SSLError):
            raise OSError(
                f"the Kubeflow server's certificate cannot be trusted: {reason}; name the file of the certificates that"
                " sign it as --ca or SSL_CERT_FILE"
            ) from error
        raise OSError(f"the Kubeflow server cannot be reached: {error}") from error


def _refusal(error: kfp_server_api.ApiException) -> str:
    return f"the Kubeflow server refused ({error.status}): {error.body or error.reason}"


class _Patient(kfp_server_api.rest.RESTClientObject):
    """Asks a busy server again, waits for no answer longer than ``TIMEOUT``, and takes none that is not Kubeflow's.

    A page to log in is answered with 200, or stands where a redirect leads: nothing is sent there. Lost connections are
    urllib3's matter, which asks three times more. Only questions are asked again: a change may have been made although
    its answer got lost, and the server would make it twice.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool_manager.urlopen = partial(self.pool_manager.urlopen, redirect=False)

    def request(self, method: str, url: str, **options: Any) -> Any:
        """The server's answer.

        Raises:
            OSError: it is not Kubeflow's, or was lost.
            kfp_server_api.ApiException: the server refused.
        """
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT
        for pause in (*_PAUSES, None):
            try:
                answer = super().request(method, url, **options)
                _expect_kubeflow(url, answer.status, answer.getheaders())
                return answer
            except kfp_server_api.ApiException as error:
                _expect_kubeflow(url, error.status, error.headers or {})
                if method != "GET" or pause is None or error.status not in _BUSY:
                    if url.endswith(_HEALTH):  # else kfp's client asks on for half a minute
                        raise OSError(_refusal(error)) from error
                    raise
                time.sleep(pause)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError) as error:
                raise OSError(
                    f"the Kubeflow server gave no answer: {error}; what it was asked for may have been done all the"
                    " same, so look there before you ask again"
                ) from error
        raise AssertionError("unreachable")


def _expect_kubeflow(url: str, status: int, headers: Any) -> None:
    """Refuse an answer that only something else than Kubeflow's API gives.

    Raises:
        OSError: says what it is, and what to do.
    """
    host, json = "{0.scheme}://{0.netloc}".format(urlsplit(url)), "json" in headers.get("Content-Type", "")
    if status == 401 or 300 <= status < 400 or (status in (200, 403) and not json):
        page = urlsplit(headers.get("Location", ""))
        where = f", a way to {page.scheme}://{page.netloc}{page.path}" if page.netloc else ""
        what = f"{status}{where}" if status != 200 else "a page"
        raise OSError(f"not logged in: {host} answered with {what} instead of as Kubeflow's API; {_LOG_IN}")
    if status == 404 and (url.endswith(_HEALTH) or not json):
        raise OSError(
            f"there is no Kubeflow Pipelines API at {url.partition('/apis/')[0]} (404): expected its address, such as"
            " http://localhost:8888 or https://kubeflow.example/pipeline"
        )


def connect(host: str = "", namespace: str = "", ca: str = "") -> kfp.Client:
    """A client of the Kubeflow Pipelines API; without a host, as kfp finds one (environment, kubeconfig).

    It is logged in by what ``KF_PIPELINES_TOKEN`` or ``KF_PIPELINES_COOKIE`` holds, which is sent over TLS, within the
    cluster or to this machine only. Else, in a pod whose token for Kubeflow is named by ``KF_PIPELINES_SA_TOKEN_PATH``,
    it acts as the pod's account: that token goes to Kubeflow's own service in the cluster, or to where
    ``KF_PIPELINES_ENDPOINT`` says, alone.

    Args:
        host: URL of the API.
        namespace: where several teams share the server.
        ca: file of the certificates (PEM) that sign the server's; empty: those of the usual authorities.

    Raises:
        OSError: nobody is logged in, or there is no such API or file.
        ValueError: the file holds no certificate, or a login would go in the clear.
    """
    kfp_server_api.api_client.rest.RESTClientObject = _Patient  # kfp's client offers no other way to set a timeout
    own: dict[str, Any] = {"namespace": namespace} if namespace else {}
    own |= _login(host or os.environ.get(KF_PIPELINES_ENDPOINT_ENV, ""))
    if ca:
        if not Path(ca).is_file():
            raise FileNotFoundError(f"expected a file of certificates at {ca}, found none")
        try:
            ssl.create_default_context(cafile=ca)
        except ssl.SSLError:
            raise ValueError(f"expected certificates (PEM) in {ca}, found none") from None
        own["ssl_ca_cert"] = ca
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # says that it speaks to version 2 only
        return kfp.Client(host=host or None, **own)


class _Token(TokenCredentialsBase):
    """A token as the environment holds it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def refresh_api_key_hook(self, config: kfp_server_api.Configuration) -> None:
        """Put the token where the client takes it from."""
        config.api_key["authorization"] = self._token


def _login(host: str) -> dict[str, Any]:
    """What kfp's client is given to prove who asks; nothing that was not made for the host.

    Raises:
        ValueError: it would go in the clear.
    """
    token, cookie = os.environ.get(TOKEN, ""), os.environ.get(COOKIE, "")
    parts = urlsplit(host if "://" in host else f"https://{host}")
    name, within = parts.hostname or "", bool(_IN_CLUSTER.fullmatch(parts.hostname or ""))
    if (token or cookie) and host and parts.scheme == "http" and not within and not _is_this_machine(name):
        raise ValueError(
            f"{TOKEN if token else COOKIE} is not sent in the clear: expected a host with https://, got {host}"
        )
    if token or cookie:
        return ({"credentials": _Token(token)} if token else {}) | ({"cookies": cookie} if cookie else {})
    named = host and host.rstrip("/") == os.environ.get(KF_PIPELINES_ENDPOINT_ENV, "").rstrip("/")
    if os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) and (within or named):  # kfp looks for it only where no host is given
        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


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
