"""The users' CI workflow: valid for GitHub, made of this project's commands, and safe for pull requests from forks."""

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
WORKFLOW = yaml.load(TEXT, yaml.BaseLoader)  # so that "on" stays a string
STEPS = [(job, step) for job, content in WORKFLOW["jobs"].items() for step in content["steps"]]
RUNS = [(job, step["run"]) for job, step in STEPS if "run" in step]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VARIABLES = {"$KUBEFLOW_HOST": "http://kubeflow", "$GITHUB_REF_NAME": "v1.0.0", "$REGISTRY": "ghcr.io",
             "${GITHUB_REPOSITORY,,}": "me/portraits"}  # fmt: skip


def commands() -> list[list[str]]:
    """Return every command of the workflow, split as a shell does, with the variables filled in."""
    lines = [line for _, run in RUNS for line in run.splitlines()]
    for variable, value in VARIABLES.items():
        lines = [line.replace(variable, value) for line in lines]
    return [shlex.split(line) for line in lines]


def checked(path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True)


def test_the_workflow_fits_githubs_schema():
    process = checked(PATH)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("change", [("runs-on:", "run-on:"), ("timeout-minutes: 90", "timeout-minutes: long"),
                                    ("run: make lint", "run: [make, lint]")])  # fmt: skip
def test_the_schema_refuses_what_github_would_refuse(change, tmp_path):
    assert change[0] in TEXT
    (tmp_path / "ci.yaml").write_text(TEXT.replace(*change))
    assert checked(tmp_path / "ci.yaml").returncode == 1


@pytest.mark.parametrize("run", [run for _, run in RUNS])
def test_each_script_is_valid_shell(run):
    process = subprocess.run(["bash", "-n"], input=run, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_every_make_command_names_existing_targets_and_a_valid_push_prefix():
    targets = [words[1:] for words in commands() if words[0] == "make"]
    assert {words[0] for words in targets} == {"lint", "manifests", "test", "images"} <= TARGETS
    ((_, push),) = [words for words in targets if words[0] == "images"]
    release.check_prefix(push.removeprefix("PUSH="))


def test_every_pipeline_command_is_accepted_by_the_command_line():
    arguments = [words[3:] for words in commands() if words[:3] == [".venv/bin/python", "-m", "pipeline"]]
    assert [build_parser().parse_args(words).command.__name__ for words in arguments] == ["_upload"]


def test_every_change_is_linted_tested_and_its_compiled_pipeline_checked():
    assert WORKFLOW["on"]["push"] == {"branches": ["main"], "tags": ["v*"]}
    assert "pull_request" in WORKFLOW["on"]
    assert [run for job, run in RUNS if job == "check"] == ["make lint", "make manifests", "make test"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "pipeline compile --check" in lint[1]


def test_only_a_tag_is_released_after_the_checks_and_images_before_the_version():
    job = WORKFLOW["jobs"]["release"]
    assert (job["if"], job["needs"]) == ("startsWith(github.ref, 'refs/tags/v')", "check")
    runs = " ".join(run for job, run in RUNS if job == "release")
    assert runs.index("docker login") < runs.index("make images") < runs.index("pipeline upload")


def test_the_files_of_a_release_are_uploaded_as_artifacts():
    (uploaded,) = [step["with"]["path"].split() for _, step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert uploaded == ["pipeline.yaml", *(str(path.relative_to(ROOT)) for path in (release.DIGESTS, release.MANIFEST))]
    assert all((ROOT / path).is_file() for path in uploaded)


def test_actions_are_pinned_by_commit():
    for line in re.findall(r"uses: (.*)", TEXT):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_pull_requests_from_forks_get_no_secret_and_no_write_permission():
    assert "pull_request_target" not in WORKFLOW["on"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in WORKFLOW["jobs"]["check"]
    assert WORKFLOW["jobs"]["release"]["permissions"] == {"contents": "read", "packages": "write"}
    for job, step in STEPS:
        assert "secrets." not in str(step) or job == "release"
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


def test_no_script_contains_github_expressions():
    for _, run in RUNS:
        assert "${{" not in run, "a branch's or tag's name would be run as code: hand it over in the environment"


def test_every_job_has_a_time_limit():
    assert all(int(job["timeout-minutes"]) <= 90 for job in WORKFLOW["jobs"].values())
