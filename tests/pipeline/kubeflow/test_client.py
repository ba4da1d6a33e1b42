"""Submitting and scheduling, by the real ``kfp.Client`` against a strict server of the API on loopback."""

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

GIVEN = [f"--{name}={value}" for name, value in DATA.items()]


def submit(server, *arguments: str) -> int:
    return main(["submit", *GIVEN, "--host", server.url, *arguments])


def changed_revision(monkeypatch, name: str) -> None:
    monkeypatch.setattr(client, "git_revision", lambda: name)


def test_the_first_submit_uploads_the_pipeline_and_a_version_named_by_the_revision(server):
    assert submit(server) == 0
    assert [pipeline["display_name"] for pipeline in server.pipelines] == ["portrait-scorer"]
    assert [version["display_name"] for version in server.versions] == ["portrait-scorer", "abc123"]


def test_a_run_is_of_the_named_version_with_the_given_parameters_in_their_types(server):
    assert (
        submit(server, "--set", "epochs=3", "learning_rate=1", "show_photos=true", 'node_selector={"pool": "gpu"}') == 0
    )
    (run,) = server.runs
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[1]["pipeline_version_id"]
    assert run["runtime_config"]["parameters"] == DATA | {
        "epochs": 3, "learning_rate": 1.0, "show_photos": True, "node_selector": {"pool": "gpu"}, "revision": "abc123",
    }  # fmt: skip


def test_a_run_and_a_schedule_take_a_service_account_and_leave_the_servers_default_without(server, file):
    submit(server)
    submit(server, "--service-account", "trainer")
    schedule(server, file, weekly=WEEKLY | {"service_account": "trainer"}, daily=WEEKLY)
    asked = [entry.get("service_account") for entry in (*server.runs, *server.recurring)]
    assert asked == [None, "trainer", None, "trainer"]  # daily comes first


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


def test_changed_files_are_no_version_of_their_revision(server, monkeypatch):
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
def test_a_wrong_parameter_is_one_clear_error_and_nothing_reaches_the_server(server, capsys, arguments, words):
    assert submit(server, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert server.changes == []


def test_a_server_that_is_not_there_is_one_clear_error(capsys):
    assert main(["submit", *GIVEN, "--host", "http://127.0.0.1:1"]) == 2
    assert "error: the Kubeflow server cannot be reached" in capsys.readouterr().err


def test_a_server_that_refuses_is_quoted(server, capsys):
    server.down_after = 0
    assert submit(server) == 2
    assert "refused (503)" in capsys.readouterr().err


# Trouble on the way to the server


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(client, "_RETRY_DELAYS", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("trouble", [503, 429, "reset", "lost"])
def test_every_question_that_meets_trouble_is_asked_again(server, trouble):
    server.fail(lambda method, path: method == "GET", *[trouble] * 2)
    assert submit(server) == 0
    assert (len(server.pipelines), len(server.versions), len(server.runs)) == (1, 2, 1)


@pytest.mark.parametrize("change", ["pipelines/upload", "pipelines/upload_version", "experiments", "runs"])
@pytest.mark.parametrize("trouble", [503, 429, "reset", "lost"])
def test_a_change_that_meets_trouble_is_one_clear_error_and_the_next_submit_makes_nothing_twice(
    server, capsys, trouble, change
):
    server.fail(lambda method, path: method == "POST" and path.endswith(f"/{change}"), trouble)
    assert submit(server) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert (f"refused ({trouble})" if isinstance(trouble, int) else "may have been done") in told
    lost = len(server.runs)  # of which the error has told
    assert lost == (change == "runs" and trouble == "lost")
    assert submit(server) == 0
    made = (len(server.pipelines), len(server.versions), len(server.experiments), len(server.runs) - lost)
    assert made == (1, 2, 1, 1)


def test_an_answer_that_comes_too_late_is_not_waited_for(server, capsys, monkeypatch):
    submit(server)
    monkeypatch.setattr(client, "TIMEOUT", (kubeflow.SLOW / 2, kubeflow.SLOW / 2))
    server.fail(lambda method, path: method == "POST" and path.endswith("/runs"), "slow")
    assert submit(server) == 2
    assert "gave no answer" in capsys.readouterr().err


def test_a_server_that_never_answers_is_one_clear_error(server, capsys, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", (0.1, 0.1))
    server.fail(lambda method, path: True, *["slow"] * 50)
    assert submit(server) == 2
    assert "the Kubeflow server cannot be reached" in capsys.readouterr().err


def test_no_call_waits_longer_than_two_minutes():
    """urllib3 asks four times in all."""
    assert 4 * client.TIMEOUT + sum(client._RETRY_DELAYS) < 120


@pytest.mark.parametrize("trouble", [429, "reset", "lost"])
def test_a_schedule_that_met_trouble_is_taken_up_by_the_next(server, file, capsys, trouble):
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


def test_a_schedule_runs_alone_catches_nothing_up_and_runs_the_named_version(server, file):
    schedule(server, file, weekly=WEEKLY)
    (run,) = server.recurring
    assert (int(run["max_concurrency"]), run["no_catchup"]) == (1, True)
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert run["runtime_config"]["parameters"] == DATA | {"revision": "abc123"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[1]["pipeline_version_id"]


def test_scheduling_the_same_again_changes_nothing(server, file, capsys):
    schedule(server, file, weekly=WEEKLY)
    before = list(server.changes)
    assert schedule(server, file, weekly=WEEKLY) == 0
    assert server.changes == before
    assert "nothing to change" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["cron", "parameters", "revision"])
def test_a_changed_schedule_replaces_the_old_one_and_never_do_both_run(server, file, monkeypatch, change):
    schedule(server, file, weekly=WEEKLY)
    (old,) = server.schedules()
    if change == "revision":
        changed_revision(monkeypatch, "def456")
    new = WEEKLY | {"cron": {"cron": "0 0 4 * * *"}, "parameters": {"parameters": DATA | {"epochs": 3}}}.get(change, {})
    schedule(server, file, weekly=new)
    statuses = server.schedules()
    assert statuses.pop(old) == "DISABLED"
    ((title, status),) = statuses.items()
    assert status == "ENABLED"
    assert server.changes[-2:] == [f"disable {old}", f"enable {title}"]


def test_few_old_schedules_are_kept(server, file, monkeypatch):
    for number in range(6):
        changed_revision(monkeypatch, f"revision{number}")
        schedule(server, file, weekly=WEEKLY)
    assert len(server.recurring) == schedules.KEEP
    assert list(server.schedules().values()) == ["DISABLED", "DISABLED", "ENABLED"]
    assert server.recurring[-1]["runtime_config"]["parameters"]["revision"] == "revision5"


def test_a_schedule_that_left_the_file_is_paused_and_not_deleted(server, file):
    schedule(server, file, weekly=WEEKLY, daily=WEEKLY | {"cron": "0 0 3 * * *"})
    schedule(server, file, weekly=WEEKLY)
    assert {name.split()[0]: status for name, status in server.schedules().items()} == {
        "weekly": "ENABLED", "daily": "DISABLED",
    }  # fmt: skip


def test_schedules_of_others_are_left_alone(server, file):
    schedule(server, file, weekly=WEEKLY)
    server.recurring.append(
        server.recurring[0] | {"display_name": "by hand", "description": "mine", "recurring_run_id": "x"}
    )
    schedule(server, file, weekly=WEEKLY | {"cron": "0 0 4 * * *"})
    schedule(server, file)
    assert server.schedules()["by hand"] == "ENABLED"


def test_a_paused_schedule_stays_and_goes_on_when_the_file_says_so(server, file):
    schedule(server, file, weekly=WEEKLY | {"paused": True})
    assert list(server.schedules().values()) == ["DISABLED"]
    schedule(server, file, weekly=WEEKLY)
    assert list(server.schedules().values()) == ["ENABLED"]
    schedule(server, file, weekly=WEEKLY | {"paused": True})
    assert list(server.schedules().values()) == ["DISABLED"]


@pytest.mark.parametrize("done", range(3))
def test_a_schedule_cut_short_anywhere_is_taken_up_by_the_next(server, file, done):
    schedule(server, file, weekly=WEEKLY)
    new = WEEKLY | {"cron": "0 0 4 * * *"}
    server.down_after = len(server.changes) + done
    assert schedule(server, file, weekly=new) == 2
    assert sum(status == "ENABLED" for status in server.schedules().values()) <= 1
    server.down_after = None
    assert schedule(server, file, weekly=new) == 0
    enabled = [run for run in server.recurring if run["status"] == "ENABLED"]
    assert [run["trigger"]["cron_schedule"]["cron"] for run in enabled] == ["0 0 4 * * *"]
    assert len(server.recurring) == 2


def test_a_dry_run_prints_the_difference_and_changes_nothing(server, file, capsys):
    assert schedule(server, file, "--dry-run", weekly=WEEKLY) == 0
    assert server.changes == []
    printed = capsys.readouterr().out
    assert re.search(r"create weekly [0-9a-f]{8} \(0 0 3 \* \* 1\)\nenable weekly", printed)
    assert "nothing was changed" in printed


def test_a_dry_run_says_what_the_true_run_then_does(server, file, capsys, monkeypatch):
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
def test_a_schedule_file_that_is_wrong_is_one_clear_error_and_nothing_reaches_the_server(
    server, file, capsys, text, words
):
    file.write_text(text)
    assert main(["schedule", str(file), "--host", server.url]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert str(file) in printed
    assert server.changes == []


# Versions by name, as a cluster's own job runs them


def test_a_version_is_uploaded_under_a_name_and_nothing_is_started(server, capsys):
    assert main(["upload", "--version", "v1.2.0", "--host", server.url]) == 0
    assert main(["upload", "--version", "v1.2.0", "--host", server.url]) == 0
    assert [version["display_name"] for version in server.versions] == ["portrait-scorer", "v1.2.0"]
    assert server.runs == []
    assert capsys.readouterr().out.count("the server has version v1.2.0\n") == 2


def test_schedules_run_the_version_that_is_named_and_nothing_is_uploaded(server, file):
    main(["upload", "--version", "v1.2.0", "--host", server.url])
    before = len(server.versions)
    assert schedule(server, file, "--version", "v1.2.0", weekly=WEEKLY) == 0
    (run,) = server.recurring
    (version,) = [each for each in server.versions if each["display_name"] == "v1.2.0"]
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["runtime_config"]["parameters"]["revision"] == "v1.2.0"
    assert len(server.versions) == before


def test_another_version_is_another_schedule_and_the_same_one_changes_nothing(server, file, capsys):
    for name in ("v1", "v2"):
        main(["upload", "--version", name, "--host", server.url])
    for name in ("v1", "v2", "v2"):
        assert schedule(server, file, "--version", name, weekly=WEEKLY) == 0
    assert capsys.readouterr().out.endswith("nothing to change\n")
    assert sorted(server.schedules().values()) == ["DISABLED", "ENABLED"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_version_that_the_server_does_not_have_is_refused_before_anything_is_changed(dry, server, file, capsys):
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
    """Nobody waits: kfp's own client asks for its health for half a minute."""
    monkeypatch.setattr(client, "_RETRY_DELAYS", ())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waited for {seconds} s"))


@pytest.fixture(params=["submit", "upload", "schedule", "dry run", "list", "team"])
def command(request, file) -> list[str]:
    """A command that needs a server."""
    file.write_text(yaml.safe_dump({"schedules": {"weekly": WEEKLY}}))
    return {
        "submit": ["submit", *GIVEN], "upload": ["upload", "--version", "v1"], "schedule": ["schedule", str(file)],
        "dry run": ["schedule", str(file), "--dry-run"], "list": ["schedules", "list"],
        "team": ["submit", *GIVEN, "--namespace", "team"],
    }[request.param]  # fmt: skip


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("front", FRONTS)
def test_where_nobody_is_logged_in_every_command_says_so_and_sends_nothing(server, capsys, front, command):
    server.front = FRONTS[front]
    assert main([*command, "--host", server.url]) == 2
    told = capsys.readouterr().err
    assert f"error: not logged in: {server.url} answered with " in told
    assert "KF_PIPELINES_COOKIE=NAME=VALUE" in told
    assert "secret" not in told
    assert len(server.asked) == 1
    assert server.asked[0].startswith("GET ")


def test_a_redirect_is_told_and_not_followed(server, capsys):
    server.front = (302, {"Location": f"{server.url}/dex/auth?state=x"}, "")
    assert submit(server) == 2
    assert f"302, a way to {server.url}/dex/auth instead" in capsys.readouterr().err
    assert server.asked == ["GET /apis/v2beta1/healthz"]


def test_a_session_that_ends_meanwhile_is_no_success(server, capsys):
    server.fail(lambda method, path: method == "POST" and path.endswith("/runs"), "page")
    assert submit(server) == 2
    assert "not logged in" in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_a_wrong_path_is_told_at_once(server, capsys, kind):
    server.front = (404, {"Content-Type": kind}, "{}")
    assert submit(server) == 2
    assert f"error: there is no Kubeflow Pipelines API at {server.url} (404): expected" in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
def test_a_server_that_will_not_say_how_it_is_is_quoted_at_once(server, capsys):
    server.front = (400, {"Content-Type": "application/json"}, '{"message": "no such team"}')
    assert submit(server) == 2
    assert "refused (400)" in capsys.readouterr().err


def test_a_sessions_cookie_lets_the_command_line_in(server, monkeypatch):
    server.front, server.cookie = PAGE, "authservice_session=abc"
    monkeypatch.setenv(client.COOKIE, server.cookie)
    assert submit(server) == 0
    assert len(server.runs) == 1


def test_a_token_is_sent_as_such(server, monkeypatch):
    monkeypatch.setenv(client.TOKEN, "of a person")
    assert submit(server) == 0
    assert server.tokens == {"Bearer of a person"}


@pytest.mark.parametrize("variable", [client.TOKEN, client.COOKIE])
def test_a_login_is_not_sent_in_the_clear_to_another_machine(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "secret")
    assert main(["upload", "--host", "http://kubeflow.example"]) == 2
    assert capsys.readouterr().err == (
        f"error: {variable} is not sent in the clear: expected a host with https://, got http://kubeflow.example\n"
    )


@pytest.mark.parametrize("named", [True, False])
def test_the_token_of_a_pod_goes_to_where_its_environment_says_alone(server, tmp_path, monkeypatch, named):
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
def test_the_token_of_a_pod_goes_to_kubeflows_own_service(host, sent, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "token")
    assert ("credentials" in client._login_options(host)) is sent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    return smtp.certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def private(certificate, monkeypatch):
    """A server whose certificate no usual authority has signed."""
    monkeypatch.setattr(client, "git_revision", lambda: "abc123")
    with kubeflow.serving(certificate) as serving:
        yield serving


def test_a_private_authority_is_named_on_the_command_line(private, certificate):
    assert submit(private, "--ca", str(certificate)) == 0


def test_a_private_authority_is_named_by_the_environment(private, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert submit(private) == 0


def test_a_certificate_that_is_not_trusted_is_said_in_words(private, capsys):
    assert submit(private) == 2
    told = capsys.readouterr().err
    assert "the Kubeflow server's certificate cannot be trusted" in told
    assert "as --ca or SSL_CERT_FILE" in told


@pytest.mark.parametrize(("content", "words"), [("none", "expected certificates (PEM) in "), (None, "found none")])
def test_a_file_of_no_certificates_is_one_clear_error(private, tmp_path, capsys, content, words):
    if content:
        (tmp_path / "ca.pem").write_text(content)
    assert submit(private, "--ca", str(tmp_path / "ca.pem")) == 2
    assert words in capsys.readouterr().err
    assert private.asked == []
