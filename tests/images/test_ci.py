"""The users' own CI: a workflow that GitHub takes, whose commands are this project's, and that trusts no stranger."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from images import release
from pipeline.cli.main import build_parser
from tests.builders.manifests import ROOT

PATH = ROOT / ".github" / "workflows" / "ci.yaml"
TEXT = PATH.read_text(encoding="utf-8")
WORKFLOW = yaml.load(TEXT, yaml.BaseLoader)  # so that "on" stays a word
STEPS = [(job, step) for job, content in WORKFLOW["jobs"].items() for step in content["steps"]]
RUNS = [(job, step["run"]) for job, step in STEPS if "run" in step]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = {"$KUBEFLOW_HOST": "http://kubeflow", "$GITHUB_REF_NAME": "v1.0.0", "$REGISTRY": "ghcr.io",
             "${GITHUB_REPOSITORY,,}": "me/portraits"}  # fmt: skip


def commands() -> list[list[str]]:
    """Every command of the workflow, its words after the shell has filled in the variables."""
    lines = [line for _, run in RUNS for line in run.splitlines()]
    for variable, value in VARIABLES.items():
        lines = [line.replace(variable, value) for line in lines]
    return [shlex.split(line) for line in lines]


def checked(path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True)


def test_the_workflow_is_as_githubs_schema_has_it():
    done = checked(PATH)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("change", [("runs-on:", "run-on:"), ("timeout-minutes: 90", "timeout-minutes: long"),
                                    ("run: make lint", "run: [make, lint]")])  # fmt: skip
def test_the_schema_refuses_what_github_would(change, tmp_path):
    assert change[0] in TEXT
    (tmp_path / "ci.yaml").write_text(TEXT.replace(*change))
    assert checked(tmp_path / "ci.yaml").returncode == 1


@pytest.mark.parametrize("run", [run for _, run in RUNS])
def test_each_script_is_one_that_the_shell_can_read(run):
    done = subprocess.run(["bash", "-n"], input=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_target_of_make_is_there_and_takes_what_it_is_given():
    asked = [words[1:] for words in commands() if words[0] == "make"]
    assert {words[0] for words in asked} == {"lint", "manifests", "test", "images"} <= TARGETS
    ((_, push),) = [words for words in asked if words[0] == "images"]
    release.check_prefix(push.removeprefix("PUSH="))


def test_every_command_of_the_pipeline_is_one_that_the_command_line_takes():
    asked = [words[3:] for words in commands() if words[:3] == [".venv/bin/python", "-m", "pipeline"]]
    assert [build_parser().parse_args(words).command.__name__ for words in asked] == ["_upload"]


def test_every_change_is_linted_and_tested_and_its_compiled_pipeline_held_against_the_code():
    assert WORKFLOW["on"]["push"] == {"branches": ["main"], "tags": ["v*"]}
    assert "pull_request" in WORKFLOW["on"]
    assert [run for job, run in RUNS if job == "check"] == ["make lint", "make manifests", "make test"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "pipeline compile --check" in lint[1]


def test_only_a_tag_is_released_after_the_checks_and_images_come_before_the_version():
    job = WORKFLOW["jobs"]["release"]
    assert (job["if"], job["needs"]) == ("startsWith(github.ref, 'refs/tags/v')", "check")
    runs = " ".join(run for job, run in RUNS if job == "release")
    assert runs.index("docker login") < runs.index("make images") < runs.index("pipeline upload")


def test_what_a_release_has_written_is_kept():
    (kept,) = [step["with"]["path"].split() for _, step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert kept == ["pipeline.yaml", *(str(path.relative_to(ROOT)) for path in (release.DIGESTS, release.MANIFEST))]
    assert all((ROOT / path).is_file() for path in kept)


def test_actions_are_pinned_by_their_commit():
    for line in re.findall(r"uses: (.*)", TEXT):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_a_change_from_outside_gets_no_secret_and_no_right_to_write():
    assert "pull_request_target" not in WORKFLOW["on"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in WORKFLOW["jobs"]["check"]
    assert WORKFLOW["jobs"]["release"]["permissions"] == {"contents": "read", "packages": "write"}
    for job, step in STEPS:
        assert "secrets." not in str(step) or job == "release"
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


def test_no_script_is_made_of_what_others_may_name():
    for _, run in RUNS:
        assert "${{" not in run, "a branch's or tag's name would be run as code: hand it over in the environment"


def test_every_job_ends_in_bounded_time():
    assert all(int(job["timeout-minutes"]) <= 90 for job in WORKFLOW["jobs"].values())
