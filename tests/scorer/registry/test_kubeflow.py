"""Published versions are registered with the Kubeflow Model Registry over REST; its failures undo no publication."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from components.scorer import storage
from components.scorer.artifacts import promotion
from components.scorer.registry import channels, kubeflow, versions
from pipeline.cli.main import main
from tests.fakes.model_registry import PREFIX, Server

NAME = "portraits"
RECORD = {
    "date": "2026-05-01",
    "run": "run-1",
    "revision": "abc123",
    "scorer": "sha of the scorer",
    "data_fingerprint": "sha of the data",
    "decision": {
        "verdict": "published",
        "summary": "Published: the scorer passed all 28 gates.",
        "override": "",
        "gates": [{"key": "srcc", "value": 0.68}],
    },
    "metrics": {"srcc": 0.681, "lcc": 0.672, "krcc": None},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(kubeflow, "_PAUSE", 0.01)
    monkeypatch.setattr(kubeflow, "RETRY_SECONDS", 5.0)
    with Server() as running:
        yield running


@pytest.fixture
def models(tmp_path: Path) -> str:
    return str(tmp_path / "models")


def publish(models: str, version: int, serve: bool = True, **record: object) -> str:
    """Write the files of a published version that the registry client reads; return its address."""
    uri = channels.address(models, NAME, version)
    storage.write_json(f"{uri}/version.json", RECORD | {"version": version, "run": f"run-{version}"} | record)
    storage.write_bytes(f"{uri}/{channels.COMPLETE}", b"graph")
    if serve:
        channels.promote_pushed(models, NAME, version, who=f"run-{version}", why="passed")
    return uri


def tell(server: Server, models: str, pushed: int = 0) -> list[str]:
    return kubeflow.sync(server.url, models, NAME, pushed)


# Registration


def test_a_version_is_registered_with_its_run_commit_data_decision_metrics_and_address(server, models):
    uri = publish(models, 1)
    assert tell(server, models) == ["registered version 1 of portraits", "registered where version 1 of portraits lies"]
    (model,), (artifact,) = server.models, server.artifacts
    assert model["name"] == NAME
    assert server.version("1")["registeredModelId"] == model["id"]
    assert server.version("1")["description"] == RECORD["decision"]["summary"]
    assert server.properties("1") == {
        "run_id": "run-1",
        "git_commit": "abc123",
        "data_fingerprint": "sha of the data",
        "scorer_fingerprint": "sha of the scorer",
        "decision": "published",
        "published": "2026-05-01",
        "srcc": 0.681,
        "lcc": 0.672,
        "champion": "",
    }
    assert (artifact["parent"], artifact["uri"]) == (server.version("1")["id"], uri)
    assert (artifact["modelFormatName"], artifact["modelSourceId"]) == ("tensorflow", "run-1")


@pytest.mark.slow
def test_the_official_client_reads_the_registered_version(server, models):
    uri = publish(models, 1)
    tell(server, models)
    program = f"""
import asyncio, json, warnings
warnings.simplefilter("ignore")
from model_registry import ModelRegistry
client = ModelRegistry({server.url!r}, author="x", is_secure=False, async_runner=lambda work: asyncio.run(work))
version, artifact = client.get_model_version({NAME!r}, "1"), client.get_model_artifact({NAME!r}, "1")
print(json.dumps([version.custom_properties, version.state.value, artifact.uri, artifact.model_source_id]))
client.register_model("other", "s3://other", model_format_name="x", model_format_version="1", version="7",
                      metadata={{"accuracy": 0.5, "run": "theirs", "photos": 3}})
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == [server.properties("1") | {"champion": ""}, "LIVE", uri, "run-1"]
    # The fake server accepts the official client's requests.
    assert [model["name"] for model in server.models] == [NAME, "other"]


@pytest.mark.parametrize("api", ["v1", "v1alpha3"])
def test_the_client_uses_the_api_version_of_the_registry(api, server, models):
    server.apis = (api,)
    publish(models, 1)
    tell(server, models)
    assert server.labels() == {"1": {"champion"}}


def test_the_client_does_not_use_the_deprecated_api_if_the_registry_has_both(server, models):
    publish(models, 1)
    tell(server, models)
    assert server.spoken == {"v1"}


def test_an_address_without_a_registry_is_reported(server, models):
    server.apis = ()
    publish(models, 1)
    (line,) = tell(server, models)
    assert "it knows neither v1 nor v1alpha3 of the API: is this its URL?" in line


def test_a_second_sync_changes_nothing(server, models):
    publish(models, 1), publish(models, 2)
    tell(server, models)
    changes_before = list(server.changes)
    assert tell(server, models) == []
    assert server.changes == changes_before


def test_the_labels_follow_the_channels(server, models, monkeypatch):
    monkeypatch.setattr(promotion, "verify", lambda *_: None)
    publish(models, 1), publish(models, 2), publish(models, 3)
    tell(server, models)
    assert server.labels() == {"1": set(), "2": {"previous"}, "3": {"champion"}}
    promotion.rollback(models, NAME, why="worse on children")
    promotion.promote(models, NAME, 1, channel="challenger", why="to compare")
    assert tell(server, models) == [
        "labelled version 1 of portraits: challenger",
        "labelled version 2 of portraits: champion",
        "labelled version 3 of portraits: previous",
    ]
    assert server.labels() == {"1": {"challenger"}, "2": {"champion"}, "3": {"previous"}}
    promotion.promote(models, NAME, 3, channel="challenger", why="to compare")
    tell(server, models)
    assert server.labels() == {"1": set(), "2": {"champion"}, "3": {"previous", "challenger"}}


def test_properties_and_descriptions_written_by_people_stay(server, models):
    publish(models, 1)
    tell(server, models)
    properties = {"owner": {"metadataType": "MetadataStringValue", "string_value": "ann"}}
    server.version("1")["customProperties"] |= properties
    server.version("1")["description"] = "the first"
    publish(models, 2)
    tell(server, models)
    assert server.properties("1")["owner"] == "ann"
    assert server.labels()["1"] == {"previous"}
    assert server.version("1")["description"] == "the first"


def test_a_removed_version_is_archived(server, models):
    for version in (1, 2, 3):
        publish(models, version)
    tell(server, models)
    assert [removed.version for removed in versions.collect_garbage(models, NAME, keep=0)] == [1]
    assert tell(server, models) == ["archived version 1 of portraits, which was removed"]
    assert {entry["name"]: entry["state"] for entry in server.versions} == {"1": "ARCHIVED", "2": "LIVE", "3": "LIVE"}
    assert tell(server, models) == []


def test_a_running_push_is_not_registered_and_an_overtaken_push_is(server, models):
    publish(models, 2), publish(models, 1, serve=False)
    tell(server, models)
    assert [version["name"] for version in server.versions] == ["2"]
    tell(server, models, pushed=1)
    assert {version["name"] for version in server.versions} == {"1", "2"}


def test_a_forced_version_is_registered_with_its_reason(server, models):
    forced = RECORD["decision"] | {"verdict": "forced", "override": "the champion is broken"}
    publish(models, 1, decision=forced)
    tell(server, models)
    assert (server.properties("1")["decision"], server.properties("1")["override"]) == ("forced", forced["override"])


# Failures


@pytest.mark.parametrize("trouble", [429, 500, 503, "reset", "lost"])
@pytest.mark.parametrize(
    "request_", ["POST registered_models", "POST model_versions", "POST model_versions/2/artifacts"]
)
def test_a_request_that_fails_once_is_repeated_and_registers_nothing_twice(trouble, request_, server, models):
    publish(models, 1)
    failures = [trouble]
    server.trouble = lambda request: failures.pop() if request == request_ and failures else None
    assert not [line for line in tell(server, models) if "not told" in line]
    assert not failures
    assert (len(server.models), len(server.versions), len(server.artifacts)) == (1, 1, 1)


def test_a_version_registered_by_another_process_at_the_same_time_is_kept(server, models):
    publish(models, 1)

    def overtaken(request: str) -> None:
        if request == "POST model_versions" and not server.versions:
            server.answer("POST", "model_versions", {}, {"name": "1", "registeredModelId": "1"})

    server.trouble = overtaken
    tell(server, models)
    assert (len(server.versions), len(server.artifacts)) == (1, 1)


@pytest.mark.slow
def test_the_next_push_completes_a_push_killed_after_any_request(server, models):
    publish(models, 1)
    tell(server, models)
    n_requests = len(server.requests)
    for n_served in range(n_requests):
        with Server() as fresh:
            fresh.trouble = lambda _, fresh=fresh, n_served=n_served: (
                "reset" if len(fresh.requests) > n_served else None
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kubeflow, "RETRY_SECONDS", 0.0)
                patch.setattr(kubeflow, "_TIMEOUT", 5.0)
                tell(fresh, models)
            fresh.trouble = lambda _: None
            publish(models, 1)
            assert not [line for line in tell(fresh, models) if "not told" in line]
            assert (len(fresh.models), len(fresh.versions), len(fresh.artifacts)) == (1, 1, 1)


def test_retries_end_in_bounded_time_and_the_message_names_the_repair(models, monkeypatch):
    clock = SimpleNamespace(now=0.0, pauses=[], monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: (clock.pauses.append(seconds), setattr(clock, "now", clock.now + seconds))
    monkeypatch.setattr(kubeflow, "time", clock)
    publish(models, 1)
    (line,) = kubeflow.sync("http://127.0.0.1:9", models, NAME)
    assert clock.pauses == [2, 4, 8, 16]
    assert clock.now + 32 > kubeflow.RETRY_SECONDS
    assert line == (
        "the model registry was not told everything: RegistryUnavailable: it cannot be reached (ConnectionError);"
        " what is published stays, the next push, or python -m pipeline models register, makes it good"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (401, "it answered 401 to GET registered_models: trouble"),
        ("html", "something else than JSON: is this its URL?"),
    ],
)
def test_a_refusal_is_reported_at_once_in_the_registrys_words(trouble, words, server, models):
    publish(models, 1)
    server.trouble = lambda _: trouble
    (line,) = tell(server, models)
    assert words in line
    assert len(server.requests) == 1


def test_two_models_folders_cannot_share_a_model_name(server, models, tmp_path):
    publish(models, 1), publish(str(tmp_path / "others"), 1)
    tell(server, models)
    changes_before = list(server.changes)
    (line,) = tell(server, str(tmp_path / "others"))
    assert f"it knows this version of portraits at {channels.address(models, NAME, 1)}, not at " in line
    assert "publish one of them under another name" in line
    assert server.changes == changes_before


@pytest.mark.parametrize(
    ("named", "asked", "sent"),
    [
        ("https://registry", "https://registry", True),
        ("https://registry/", "https://registry", True),
        ("http://registry", "http://registry", False),
        ("https://registry", "https://another", False),
        ("", "https://registry", False),
    ],
)
def test_the_token_is_sent_over_https_to_its_own_registry_only(named, asked, sent, models, monkeypatch):
    monkeypatch.setenv(kubeflow.TOKEN_VARIABLE, "secret")
    monkeypatch.setenv(kubeflow.URL_VARIABLE, named)
    publish(models, 1)
    headers = []
    monkeypatch.setattr(requests, "request", lambda *_, **options: headers.append(options["headers"]) or 1 / 0)
    kubeflow.sync(asked, models, NAME)
    assert headers == [{"Authorization": "Bearer secret"} if sent else {}]


def test_the_service_account_token_of_a_pod_is_sent_to_no_registry(server, models, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    publish(models, 1)
    tell(server, models)
    assert set(server.tokens) == {""}


# The fake server is as strict as the real one


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("registered_models", {"name": "x", "colour": "red"}, 400),
        ("registered_models", {"description": "no name"}, 422),
        ("registered_models", {"name": "twice"}, 409),
        ("registered_models", {"name": "x", "state": "ALIVE"}, 400),
        ("registered_models", {"name": "x", "customProperties": {"a": {"string_value": "b"}}}, 400),
        ("registered_models", {"name": "x", "customProperties": {"a": {"metadataType": "MetadataDoubleValue"}}}, 422),
        ("model_versions", {"name": "1"}, 422),
        ("model_versions", {"name": "1", "registeredModelId": "99"}, 404),
        ("model_versions/99/artifacts", {"artifactType": "model-artifact", "name": "x"}, 404),
    ],
)
def test_the_fake_server_refuses_the_requests_that_the_real_registry_refuses(path, body, status, server):
    requests.post(server.url + PREFIX + "v1/registered_models", json={"name": "twice"}).raise_for_status()
    assert requests.post(server.url + PREFIX + "v1/" + path, json=body).status_code == status


# The command line


def test_the_command_line_registers_earlier_versions(server, models, monkeypatch, capsys):
    publish(models, 1), publish(models, 2)
    assert main(["models", "register", f"{models}/{NAME}", "--model-registry", server.url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done"
    monkeypatch.setenv(kubeflow.URL_VARIABLE, server.url)
    assert main(["models", "register", f"{models}/{NAME}"]) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    assert len(server.versions) == 2


def test_promote_rollback_and_gc_commands_update_the_registry(server, models, monkeypatch, capsys):
    monkeypatch.setattr(promotion, "verify", lambda *_: None)
    monkeypatch.setenv(kubeflow.URL_VARIABLE, server.url)
    for version in (1, 2, 3):
        publish(models, version)
    folder = f"{models}/{NAME}"
    assert main(["models", "promote", folder, "1", "--why", "better"]) == 0
    assert server.labels() == {"1": {"champion"}, "2": set(), "3": {"previous"}}
    assert main(["models", "rollback", folder, "--why", "it was not"]) == 0
    assert server.labels() == {"1": {"previous"}, "2": set(), "3": {"champion"}}
    assert main(["models", "gc", folder, "--keep", "0"]) == 0
    assert server.version("2")["state"] == "ARCHIVED"
    assert "labelled version 3 of portraits: champion" in capsys.readouterr().out


def test_a_promotion_succeeds_although_the_registry_is_down(models, monkeypatch, capsys):
    monkeypatch.setattr(promotion, "verify", lambda *_: None)
    monkeypatch.setattr(kubeflow, "RETRY_SECONDS", 0.0)
    publish(models, 1), publish(models, 2)
    command = ["models", "promote", f"{models}/{NAME}", "1", "--why", "better"]
    assert main([*command, "--model-registry", "http://127.0.0.1:9"]) == 0
    assert channels.read(models, NAME)["champion"] == 1
    assert "the model registry was not told everything" in capsys.readouterr().out


def test_a_registry_that_is_not_a_url_is_refused_before_a_channel_moves(models, monkeypatch, capsys):
    publish(models, 1), publish(models, 2)
    command = ["models", "promote", f"{models}/{NAME}", "1", "--why", "better", "--model-registry", "registry:8080"]
    assert main(command) == 2
    assert "model_registry must be a URL such as http://model-registry-service" in capsys.readouterr().err
    assert channels.read(models, NAME)["champion"] == 2
