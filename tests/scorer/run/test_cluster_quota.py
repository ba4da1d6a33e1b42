"""The cluster's accelerator quota is checked before a run, with the real client and a server on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from components.scorer.run import cluster_quota, preflight
from pipeline.cli.main import main

GPU = "nvidia.com/gpu"


class Cluster:
    """Fake Kubernetes API for quotas and nodes: a list of items each, or a status code with a message."""

    def __init__(self, folder: Path) -> None:
        self.quotas: list[dict[str, Any]] | tuple[int, str] = []
        self.nodes: list[dict[str, Any]] | tuple[int, str] = []
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.kubeconfig = str(folder / "kubeconfig")

    def quota(self, hard: str, used: str = "0", key: str = f"requests.{GPU}") -> None:
        figures = {"hard": {key: hard, "requests.cpu": "9"}, "used": {key: used}}
        self.quotas.append({"metadata": {"name": "team"}, "spec": {"hard": figures["hard"]}, "status": figures})

    def node(self, gpus: str | None, **labels: str) -> None:
        resources = {"cpu": "8"} | ({GPU: gpus} if gpus else {})
        self.nodes.append(
            {"metadata": {"name": f"n{len(self.nodes)}", "labels": labels}, "status": {"allocatable": resources}}
        )

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        kinds = {
            "/api/v1/namespaces/team/resourcequotas": ("ResourceQuotaList", self.quotas, set()),
            "/api/v1/nodes": ("NodeList", self.nodes, {"labelSelector"}),
        }
        if path not in kinds or set(query) - kinds[path][2]:
            return 404, {"message": "the server could not find the requested resource"}
        kind, items, _ = kinds[path]
        if isinstance(items, tuple):
            return items[0], {"kind": "Status", "message": items[1]}
        labels = dict(pair.split("=") for selector in query.get("labelSelector", []) for pair in selector.split(","))
        matching = [item for item in items if labels.items() <= item["metadata"].get("labels", {}).items()]
        return 200, {"kind": kind, "apiVersion": "v1", "metadata": {}, "items": matching}


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    running = Cluster(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            running.asked.append(address.path)
            running.tokens.add(self.headers.get("Authorization", ""))
            status, answer = running.answer(address.path, parse_qs(address.query))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {"token": "t"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
    }  # fmt: skip
    Path(running.kubeconfig).write_text(yaml.safe_dump(kubeconfig))
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


def said(cluster: Cluster, count: int = 1, **labels: str) -> str:
    return cluster_quota.check_quota(GPU, count, labels, cluster.kubeconfig)


def test_the_free_quota_and_the_largest_node_are_reported(cluster):
    cluster.quota("4", used="1")
    cluster.node(None), cluster.node("2")
    assert said(cluster, 2) == "quota team of namespace team has 3 of 4 left; a node has 2"


def test_a_quota_below_the_request_is_an_error_with_a_remedy(cluster):
    cluster.quota("1")
    words = "quota team of namespace team allows 1, each step asks for 2: lower accelerator_count, or have the quota"
    with pytest.raises(ValueError, match=words):
        said(cluster, 2)


def test_a_used_up_quota_is_reported_and_is_not_an_error(cluster):
    cluster.quota("2", used="2")
    assert "has 0 of 2 left now, each step asks for 1 and fails until it is free" in said(cluster)


@pytest.mark.parametrize("key", ["requests.cpu", "requests.amd.com/gpu"])
def test_a_quota_of_another_resource_is_ignored(key, cluster):
    cluster.quota("0", key=key)
    cluster.node("1")
    assert said(cluster) == "a node has 1"


def test_only_nodes_that_match_the_selector_count(cluster):
    cluster.node("8", pool="others"), cluster.node("1", pool="ours")
    assert said(cluster, 2, pool="ours") == (
        "the largest of the nodes that may serve has 1: a step waits for 2 until its pool brings such a node up"
    )
    assert said(cluster, 2, pool="others") == "a node has 8"


def test_an_empty_node_pool_may_still_scale_up(cluster):
    assert said(cluster) == (
        "no node that may serve has any now: a step waits for 1 until its pool brings such a node up"
    )


def test_an_account_without_access_to_nodes_gets_its_quota(cluster):
    cluster.quota("1")
    cluster.nodes = (403, "nodes is forbidden")
    assert said(cluster) == "quota team of namespace team has 1 of 1 left; its nodes cannot be seen by this account"


def test_an_account_without_access_to_quotas_gets_a_message_and_no_error(cluster):
    cluster.quotas = (403, "resourcequotas is forbidden")
    assert said(cluster) == (
        "cannot be looked up: Kubernetes answers 403 resourcequotas is forbidden;"
        " whether there are 1 shows when pretraining starts"
    )


def test_an_unreachable_cluster_is_not_an_error(cluster):
    text = Path(cluster.kubeconfig).read_text()
    Path(cluster.kubeconfig).write_text(
        text[: text.index("http://")] + "http://127.0.0.1:9" + text[text.index("\n", text.index("http://")) :]
    )
    assert said(cluster).startswith("cannot be looked up: Kubernetes cannot be asked (MaxRetryError); whether")


def test_an_invalid_kubeconfig_is_not_an_error(tmp_path):
    (tmp_path / "config").write_text("")
    assert "cannot be asked (ConfigException)" in cluster_quota.check_quota(GPU, 1, {}, str(tmp_path / "config"))


def test_a_local_run_sends_no_request_to_a_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig)
    preflight.run_checks({"accelerator": GPU, "accelerator_count": "1", "node_selector": {}}, tmp_path)
    assert cluster.asked == []


def test_a_pod_queries_its_own_cluster_with_its_service_account(cluster, tmp_path, monkeypatch):
    from kubernetes import config
    from kubernetes.config import incluster_config

    for name, content in {"token": "of the pod", "namespace": "team", "ca.crt": "-"}.items():
        (tmp_path / name).write_text(content)
    server = yaml.safe_load(Path(cluster.kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    host, _, port = server.removeprefix("http://").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(cluster_quota, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    load_config = config.load_incluster_config

    def load_config_without_tls(client_configuration: Any) -> None:
        load_config(client_configuration=client_configuration, try_refresh_token=False)
        client_configuration.host = server  # the server on loopback has no certificate

    monkeypatch.setattr(config, "load_incluster_config", load_config_without_tls)
    cluster.quota("2"), cluster.node("1")
    lines = preflight.run_checks({"accelerator": GPU, "accelerator_count": "1", "node_selector": {}}, tmp_path)
    assert "accelerator nvidia.com/gpu quota team of namespace team has 2 of 2 left; a node has 1" in lines
    assert cluster.tokens == {"bearer of the pod"}


def test_the_check_command_queries_the_cluster_of_its_kubeconfig_option(cluster, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "ratings.csv").write_text("photo,mean_score\na.jpg,5\n")
    options = [f"--{name}={tmp_path / name}" for name in ("photos", "models", "workspace")]
    options.append(f"--ratings={tmp_path / 'ratings.csv'}")
    cluster.quota("1")
    assert main(["check", *options, "--kubeconfig", cluster.kubeconfig]) == 0
    assert "accelerator nvidia.com/gpu quota team of namespace team has 1 of 1 left" in capsys.readouterr().out
    assert main(["check", *options, "--kubeconfig", cluster.kubeconfig, "--set", "accelerator_count=4"]) == 2
    assert "1 thing is wrong; accelerator nvidia.com/gpu: quota team" in capsys.readouterr().err
