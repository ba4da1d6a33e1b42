"""Submitting and scheduling with the real ``kfp.Client`` against a strict server of the API on loopback."""

import re
import time
from pathlib import Path

import pytest
import yaml

from pipeline.cli.main import main
from pipeline.compiled import compiled_yaml
from pipeline.kubeflow import client, schedules
from tests.builders.schedules import DATA, WEEKLY, schedule
from tests.fakes import kubeflow, smtp

pytestmark = pytest.mark.slow

GIVEN = [f"--{name}={value}" for name, value in DATA.items()]


def submit(server, *arguments: str) -> int:
    return main(["submit", *GIVEN, "--host", server.url, *arguments])


def changed_revision(monkeypatch, name: str) -> None:
    monkeypatch.setattr(client, "git_revision", lambda: name)


def test_the_first_submit_uploads_the_pipeline_and_a_version_named_by_the_revision(server):
    assert submit(server) == 0
    assert [pipeline["display_name"] for pipeline in server.pipelines] == ["portrait-scorer"]
    assert [version["display_name"] for version in server.versions] == ["portrait-scorer", "abc123"]


def test_a_run_has_the_uploaded_version_and_the_given_parameters_in_their_types(server):
    assert (
        submit(server, "--set", "epochs=3", "learning_rate=1", "show_photos=true", 'node_selector={"pool": "gpu"}') == 0
    )
    (run,) = server.runs
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[1]["pipeline_version_id"]
    assert run["runtime_config"]["parameters"] == DATA | {
        "epochs": 3, "learning_rate": 1.0, "show_photos": True, "node_selector": {"pool": "gpu"}, "revision": "abc123",
    }  # fmt: skip


def test_runs_and_schedules_use_the_given_service_account_or_else_the_servers_default(server, file):
    submit(server)
    submit(server, "--service-account", "trainer")
    schedule(server, file, weekly=WEEKLY | {"service_account": "trainer"}, daily=WEEKLY)
    service_accounts = [entry.get("service_account") for entry in (*server.runs, *server.recurring)]
    assert service_accounts == [None, "trainer", None, "trainer"]  # daily comes first


def test_a_second_submit_of_the_same_revision_uploads_nothing(server):
    submit(server)
    submit(server)
    assert (len(server.pipelines), len(server.versions), len(server.experiments), len(server.runs)) == (1, 2, 1, 2)


def test_a_new_revision_becomes_a_new_version_of_the_same_pipeline(server, monkeypatch):
    for name in ("abc123", "def456", "fff789"):
        changed_revision(monkeypatch, name)
        submit(server)
    assert [version["display_name"] for version in server.versions[1:]] == ["abc123", "def456", "fff789"]
    assert {version["pipeline_id"] for version in server.versions} == {server.pipelines[0]["pipeline_id"]}


def test_uncommitted_changes_get_a_version_name_of_their_own(server, monkeypatch):
    changed_revision(monkeypatch, "abc123-dirty")
    submit(server)
    assert re.fullmatch(r"abc123-dirty-[0-9a-f]{8}", server.versions[1]["display_name"])


def test_the_uploaded_version_is_the_compiled_pipeline(server):
    submit(server)
    assert server.versions[1]["pipeline_spec"] == next(yaml.safe_load_all(compiled_yaml()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epoch=3"], "no parameter 'epoch': did you mean 'epochs'"),
        (["--set", "epochs=many"], "epochs must be a whole number, got 'many'"),
        (["--set", "epochs=-1"], "epochs must be from 0"),
        (["--set", "start=magic"], "start must be one of ['autoencoder'"),
        (["--set", "accelerator=gpu"], "accelerator must be a resource of Kubernetes"),
        (["--set", 'node_selector={"gpus": 1}'], "node_selector must hold texts"),
        (["--set", 'tolerations=[{"kye": "x"}]'], "tolerations must be those of Kubernetes"),
    ],
)
def test_a_wrong_parameter_gives_a_one_line_error_and_nothing_reaches_the_server(server, capsys, arguments, words):
    assert submit(server, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert server.changes == []


def test_an_unreachable_server_gives_a_clear_error(capsys):
    assert main(["submit", *GIVEN, "--host", "http://127.0.0.1:1"]) == 2
    assert "error: the Kubeflow server cannot be reached" in capsys.readouterr().err


def test_the_error_quotes_the_status_of_a_server_that_refuses(server, capsys):
    server.down_after = 0
    assert submit(server) == 2
    assert "refused (503)" in capsys.readouterr().err


# Failures between client and server


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(client, "_RETRY_DELAYS", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("trouble", [503, 429, "reset", "lost"])
def test_every_failed_get_request_is_retried(server, trouble):
    server.fail(lambda method, path: method == "GET", *[trouble] * 2)
    assert submit(server) == 0
    assert (len(server.pipelines), len(server.versions), len(server.runs)) == (1, 2, 1)


@pytest.mark.parametrize("change", ["pipelines/upload", "pipelines/upload_version", "experiments", "runs"])
@pytest.mark.parametrize("trouble", [503, 429, "reset", "lost"])
def test_a_failed_change_gives_a_one_line_error_and_the_next_submit_repeats_nothing(server, capsys, trouble, change):
    server.fail(lambda method, path: method == "POST" and path.endswith(f"/{change}"), trouble)
    assert submit(server) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert (f"refused ({trouble})" if isinstance(trouble, int) else "may have been done") in error
    lost_runs = len(server.runs)  # the error has reported this run
    assert lost_runs == (change == "runs" and trouble == "lost")
    assert submit(server) == 0
    counts = (len(server.pipelines), len(server.versions), len(server.experiments), len(server.runs) - lost_runs)
    assert counts == (1, 2, 1, 1)


def test_a_slow_answer_ends_in_a_timeout_error(server, capsys, monkeypatch):
    submit(server)
    monkeypatch.setattr(client, "TIMEOUT", (kubeflow.SLOW / 2, kubeflow.SLOW / 2))
    server.fail(lambda method, path: method == "POST" and path.endswith("/runs"), "slow")
    assert submit(server) == 2
    assert "gave no answer" in capsys.readouterr().err


def test_a_server_that_never_answers_gives_a_clear_error(server, capsys, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", (0.1, 0.1))
    server.fail(lambda method, path: True, *["slow"] * 50)
    assert submit(server) == 2
    assert "the Kubeflow server cannot be reached" in capsys.readouterr().err


def test_no_call_waits_longer_than_two_minutes():
    """urllib3 sends each request at most four times."""
    assert 4 * client.TIMEOUT + sum(client._RETRY_DELAYS) < 120


@pytest.mark.parametrize("trouble", [429, "reset", "lost"])
def test_a_failed_schedule_command_is_completed_by_the_next_command(server, file, capsys, trouble):
    server.fail(lambda method, path: method == "POST" and "/recurringruns" in path, trouble)
    assert schedule(server, file, weekly=WEEKLY) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert "ENABLED" not in server.schedules().values()
    assert schedule(server, file, weekly=WEEKLY) == 0
    assert list(server.schedules().values()) == ["ENABLED"]


def test_a_new_schedule_is_created_paused_and_then_enabled(server, file):
    assert schedule(server, file, weekly=WEEKLY) == 0
    (run,) = server.recurring
    assert [change.split()[:2] for change in server.changes[-2:]] == [["create", "recurring_run"], ["enable", "weekly"]]
    assert run["mode"] == "DISABLE"
    assert run["status"] == "ENABLED"


def test_a_schedule_runs_one_at_a_time_without_catching_up_and_has_the_uploaded_version(server, file):
    schedule(server, file, weekly=WEEKLY)
    (run,) = server.recurring
    assert (int(run["max_concurrency"]), run["no_catchup"]) == (1, True)
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert run["runtime_config"]["parameters"] == DATA | {"revision": "abc123"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[1]["pipeline_version_id"]


def test_scheduling_an_unchanged_file_changes_nothing(server, file, capsys):
    schedule(server, file, weekly=WEEKLY)
    before = list(server.changes)
    assert schedule(server, file, weekly=WEEKLY) == 0
    assert server.changes == before
    assert "nothing to change" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["cron", "parameters", "revision"])
def test_a_changed_schedule_is_enabled_only_after_the_old_one_is_disabled(server, file, monkeypatch, change):
    schedule(server, file, weekly=WEEKLY)
    (old_title,) = server.schedules()
    if change == "revision":
        changed_revision(monkeypatch, "def456")
    changed = WEEKLY | {"cron": {"cron": "0 0 4 * * *"}, "parameters": {"parameters": DATA | {"epochs": 3}}}.get(
        change, {}
    )
    schedule(server, file, weekly=changed)
    statuses = server.schedules()
    assert statuses.pop(old_title) == "DISABLED"
    ((title, status),) = statuses.items()
    assert status == "ENABLED"
    assert server.changes[-2:] == [f"disable {old_title}", f"enable {title}"]


def test_only_the_newest_old_schedules_are_kept(server, file, monkeypatch):
    for number in range(6):
        changed_revision(monkeypatch, f"revision{number}")
        schedule(server, file, weekly=WEEKLY)
    assert len(server.recurring) == schedules.KEEP
    assert list(server.schedules().values()) == ["DISABLED", "DISABLED", "ENABLED"]
    assert server.recurring[-1]["runtime_config"]["parameters"]["revision"] == "revision5"


def test_a_schedule_removed_from_the_file_is_paused_and_not_deleted(server, file):
    schedule(server, file, weekly=WEEKLY, daily=WEEKLY | {"cron": "0 0 3 * * *"})
    schedule(server, file, weekly=WEEKLY)
    assert {name.split()[0]: status for name, status in server.schedules().items()} == {
        "weekly": "ENABLED", "daily": "DISABLED",
    }  # fmt: skip


def test_schedules_made_by_others_are_unchanged(server, file):
    schedule(server, file, weekly=WEEKLY)
    server.recurring.append(
        server.recurring[0] | {"display_name": "by hand", "description": "mine", "recurring_run_id": "x"}
    )
    schedule(server, file, weekly=WEEKLY | {"cron": "0 0 4 * * *"})
    schedule(server, file)
    assert server.schedules()["by hand"] == "ENABLED"


def test_the_file_pauses_and_resumes_a_schedule(server, file):
    schedule(server, file, weekly=WEEKLY | {"paused": True})
    assert list(server.schedules().values()) == ["DISABLED"]
    schedule(server, file, weekly=WEEKLY)
    assert list(server.schedules().values()) == ["ENABLED"]
    schedule(server, file, weekly=WEEKLY | {"paused": True})
    assert list(server.schedules().values()) == ["DISABLED"]


@pytest.mark.parametrize("done", range(3))
def test_an_interrupted_schedule_command_is_completed_by_the_next_command(server, file, done):
    schedule(server, file, weekly=WEEKLY)
    changed = WEEKLY | {"cron": "0 0 4 * * *"}
    server.down_after = len(server.changes) + done
    assert schedule(server, file, weekly=changed) == 2
    assert sum(status == "ENABLED" for status in server.schedules().values()) <= 1
    server.down_after = None
    assert schedule(server, file, weekly=changed) == 0
    enabled = [run for run in server.recurring if run["status"] == "ENABLED"]
    assert [run["trigger"]["cron_schedule"]["cron"] for run in enabled] == ["0 0 4 * * *"]
    assert len(server.recurring) == 2


def test_a_dry_run_prints_the_changes_and_makes_none(server, file, capsys):
    assert schedule(server, file, "--dry-run", weekly=WEEKLY) == 0
    assert server.changes == []
    printed = capsys.readouterr().out
    assert re.search(r"create weekly [0-9a-f]{8} \(0 0 3 \* \* 1\)\nenable weekly", printed)
    assert "nothing was changed" in printed


def test_a_dry_run_prints_what_the_real_run_then_does(server, file, capsys, monkeypatch):
    schedule(server, file, weekly=WEEKLY)
    changed_revision(monkeypatch, "def456")
    capsys.readouterr()
    outputs = []
    for arguments in (["--dry-run"], []):
        schedule(server, file, *arguments, weekly=WEEKLY)
        printed = capsys.readouterr().out.splitlines()
        outputs.append([line for line in printed if line.startswith(("create", "pause", "enable", "delete"))])
    assert outputs[0] == outputs[1]
    assert [line.split()[0] for line in outputs[0]] == ["create", "pause", "enable"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schedules: [", "expected YAML"),
        ("weekly: {}", 'expected one key "schedules"'),
        ("schedules: {weekly: {parameters: {}}}", "schedule 'weekly': expected cron"),
        ("schedules: {weekly: {cron: 0 3 * * 1, parameters: {}}}", "cron must have six fields"),
        ("schedules: {weekly: {cron: 0 0 24 * * 1, parameters: {}}}", "'24' is no hour"),
        ("schedules: {weekly: {cron: 0 0 3 * * 1, parameters: {}}}", "photos is missing"),
        ("schedules: {weekly: {cron: 0 0 3 * * 1, every: day}}", "every"),
        ("schedules: {weekly: 3}", "schedule 'weekly'"),
    ],
)
def test_a_wrong_schedule_file_gives_a_clear_error_and_nothing_reaches_the_server(server, file, capsys, text, words):
    file.write_text(text)
    assert main(["schedule", str(file), "--host", server.url]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert str(file) in printed
    assert server.changes == []


# Versions by name, as the cluster's own job uses them


def test_a_version_is_uploaded_once_under_its_name_and_no_run_is_started(server, capsys):
    assert main(["upload", "--version", "v1.2.0", "--host", server.url]) == 0
    assert main(["upload", "--version", "v1.2.0", "--host", server.url]) == 0
    assert [version["display_name"] for version in server.versions] == ["portrait-scorer", "v1.2.0"]
    assert server.runs == []
    assert capsys.readouterr().out.count("the server has version v1.2.0\n") == 2


def test_schedules_use_the_named_version_and_nothing_is_uploaded(server, file):
    main(["upload", "--version", "v1.2.0", "--host", server.url])
    before = len(server.versions)
    assert schedule(server, file, "--version", "v1.2.0", weekly=WEEKLY) == 0
    (run,) = server.recurring
    (version,) = [candidate for candidate in server.versions if candidate["display_name"] == "v1.2.0"]
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["runtime_config"]["parameters"]["revision"] == "v1.2.0"
    assert len(server.versions) == before


def test_another_version_makes_another_schedule_and_the_same_version_changes_nothing(server, file, capsys):
    for name in ("v1", "v2"):
        main(["upload", "--version", name, "--host", server.url])
    for name in ("v1", "v2", "v2"):
        assert schedule(server, file, "--version", name, weekly=WEEKLY) == 0
    assert capsys.readouterr().out.endswith("nothing to change\n")
    assert sorted(server.schedules().values()) == ["DISABLED", "ENABLED"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_version_unknown_to_the_server_is_refused_before_any_change(dry, server, file, capsys):
    main(["upload", "--version", "v1", "--host", server.url])
    changes = list(server.changes)
    assert schedule(server, file, "--version", "v2", *dry, weekly=WEEKLY) == 2
    assert "expected a version 'v2' of portrait-scorer on the server, it has portrait-scorer, v1" in (
        capsys.readouterr().err
    )
    assert server.changes == changes


# Logging in


PAGE = (200, {"Content-Type": "text/html; charset=utf-8"}, "<!DOCTYPE html><title>Log in</title>")
REDIRECT = (302, {"Location": "https://dex.example/auth?state=secret", "Content-Type": "text/html"}, "Found")
FRONTS = {"page": PAGE, "redirect": REDIRECT, "401": (401, {"Content-Type": "application/json"}, "{}"),
          "403 page": (403, {"Content-Type": "text/html"}, "Sign in")}  # fmt: skip


@pytest.fixture
def at_once(monkeypatch):
    """Fail the test if the client waits: kfp's own client polls the health for half a minute."""
    monkeypatch.setattr(client, "_RETRY_DELAYS", ())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waited for {seconds} s"))


@pytest.fixture(params=["submit", "upload", "schedule", "dry run", "list", "team"])
def command(request, file) -> list[str]:
    """Return a command that needs a server."""
    file.write_text(yaml.safe_dump({"schedules": {"weekly": WEEKLY}}))
    return {
        "submit": ["submit", *GIVEN], "upload": ["upload", "--version", "v1"], "schedule": ["schedule", str(file)],
        "dry run": ["schedule", str(file), "--dry-run"], "list": ["schedules", "list"],
        "team": ["submit", *GIVEN, "--namespace", "team"],
    }[request.param]  # fmt: skip


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("front", FRONTS)
def test_without_a_login_every_command_says_so_and_sends_nothing(server, capsys, front, command):
    server.front = FRONTS[front]
    assert main([*command, "--host", server.url]) == 2
    error = capsys.readouterr().err
    assert f"error: not logged in: {server.url} answered with " in error
    assert "KF_PIPELINES_COOKIE=NAME=VALUE" in error
    assert "secret" not in error
    assert len(server.asked) == 1
    assert server.asked[0].startswith("GET ")


def test_a_redirect_is_reported_and_not_followed(server, capsys):
    server.front = (302, {"Location": f"{server.url}/dex/auth?state=x"}, "")
    assert submit(server) == 2
    assert f"302, a way to {server.url}/dex/auth instead" in capsys.readouterr().err
    assert server.asked == ["GET /apis/v2beta1/healthz"]


def test_a_session_that_expires_during_a_command_is_an_error(server, capsys):
    server.fail(lambda method, path: method == "POST" and path.endswith("/runs"), "page")
    assert submit(server) == 2
    assert "not logged in" in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_a_wrong_path_is_reported_without_waiting(server, capsys, kind):
    server.front = (404, {"Content-Type": kind}, "{}")
    assert submit(server) == 2
    assert f"error: there is no Kubeflow Pipelines API at {server.url} (404): expected" in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
def test_a_refused_health_check_is_reported_without_waiting(server, capsys):
    server.front = (400, {"Content-Type": "application/json"}, '{"message": "no such team"}')
    assert submit(server) == 2
    assert "refused (400)" in capsys.readouterr().err


def test_a_session_cookie_logs_the_command_line_in(server, monkeypatch):
    server.front, server.cookie = PAGE, "authservice_session=abc"
    monkeypatch.setenv(client.COOKIE, server.cookie)
    assert submit(server) == 0
    assert len(server.runs) == 1


def test_a_token_is_sent_as_a_bearer_token(server, monkeypatch):
    monkeypatch.setenv(client.TOKEN, "of a person")
    assert submit(server) == 0
    assert server.tokens == {"Bearer of a person"}


@pytest.mark.parametrize("variable", [client.TOKEN, client.COOKIE])
def test_a_token_or_cookie_is_not_sent_unencrypted_to_another_machine(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "secret")
    assert main(["upload", "--host", "http://kubeflow.example"]) == 2
    assert capsys.readouterr().err == (
        f"error: {variable} is not sent in the clear: expected a host with https://, got http://kubeflow.example\n"
    )


@pytest.mark.parametrize("named", [True, False])
def test_a_pods_token_is_sent_only_to_the_endpoint_in_its_environment(server, tmp_path, monkeypatch, named):
    (tmp_path / "token").write_text("of the account")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    if named:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    assert main(["upload", "--version", "v1", "--host", server.url]) == 0
    assert server.tokens == {"Bearer of the account" if named else ""}


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("http://ml-pipeline.kubeflow.svc.cluster.local:8888", True), ("http://ml-pipeline.kubeflow.svc:8888", True),
        ("ml-pipeline:8888", True), ("https://ml-pipeline.app", False), ("", False),
        ("https://ml-pipeline.kubeflow.svc.evil", False), ("https://evil/ml-pipeline.kubeflow.svc", False),
        ("https://ml-pipeline.kubeflow.svc@evil", False),
    ],
)  # fmt: skip
def test_a_pods_token_is_sent_to_kubeflows_own_service(host, sent, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "token")
    assert ("credentials" in client._login_options(host)) is sent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    return smtp.certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def private(certificate, monkeypatch):
    """Start a server whose certificate is not signed by a public authority."""
    monkeypatch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving(certificate) as serving:
        yield serving


def test_a_private_certificate_authority_is_given_on_the_command_line(private, certificate):
    assert submit(private, "--ca", str(certificate)) == 0


def test_a_private_certificate_authority_is_given_by_the_environment(private, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert submit(private) == 0


def test_an_untrusted_certificate_gives_a_clear_error(private, capsys):
    assert submit(private) == 2
    error = capsys.readouterr().err
    assert "the Kubeflow server's certificate cannot be trusted" in error
    assert "as --ca or SSL_CERT_FILE" in error


@pytest.mark.parametrize(("content", "words"), [("none", "expected certificates (PEM) in "), (None, "found none")])
def test_a_missing_or_invalid_certificate_file_gives_a_clear_error(private, tmp_path, capsys, content, words):
    if content:
        (tmp_path / "ca.pem").write_text(content)
    assert submit(private, "--ca", str(tmp_path / "ca.pem")) == 2
    assert words in capsys.readouterr().err
    assert private.asked == []
