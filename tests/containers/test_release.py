"""A release to a real registry on loopback: ``make images PUSH=…`` with images that build in no time."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.builders.git_trees import git
from tests.containers.engine import ROOT, Unavailable, docker, engine
from tests.fakes import kubeflow

TINY = """FROM scratch AS {name}
COPY images/{folder} /images
ARG REVISION=unknown
LABEL org.opencontainers.image.revision=$REVISION
"""
DIGEST = r"sha256:[0-9a-f]{64}"
VERSION = "0.0.0"  # not a version of this project, so no image of the project is replaced


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a registry that runs, with the engine, for the whole module."""
    if not shutil.which("docker-registry"):
        pytest.skip("there is no registry to push to: install Debian's docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder)}}, "http": {"addr": address}}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    try:
        with engine(), open(folder / "log", "wb") as log:
            command = ["docker-registry", "serve", str(folder / "config.yml")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                for _ in range(100):
                    with socket.socket() as probe:
                        if not probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                            break
                    time.sleep(0.1)
                yield address
            finally:
                images = docker("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
                images = [image for image in images if image.startswith(address) or image.endswith(VERSION)
                        or f":{VERSION}-" in image]  # fmt: skip
                subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True)
                process.terminate()
                process.wait()
    except Unavailable as error:
        pytest.skip(f"no image can be pushed here: {error}")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed project with Dockerfiles that build in no time and with this environment."""
    tree = tmp_path_factory.mktemp("tree")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    project = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(re.sub(r'^version = ".*"$', f'version = "{VERSION}"', project, flags=re.M))
    steps = "".join(TINY.format(name=name, folder=folder) for name, folder in (("cpu", "steps"), ("gpu", "locks")))
    (tree / "images/steps/Dockerfile").write_text(steps)
    (tree / "images/serving/Dockerfile").write_text(TINY.format(name="server", folder="serving"))
    git(tree, "init"), git(tree, "add", "."), git(tree, "commit", "-m", "all")
    environment = tree / ".venv" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (environment / "python").chmod(0o755)
    (environment / ".cpu").touch()
    return tree


def make(tree: Path, push: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "images", f"PUSH={push}"], cwd=tree, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pushed(registry: str, tree: Path) -> subprocess.CompletedProcess[str]:
    process = make(tree, f"{registry}/team")
    assert process.returncode == 0, process.stdout + process.stderr
    return process


def named(tree: Path) -> dict[str, str]:
    values: dict = {}
    exec((tree / "images" / "digests.py").read_text(), values)
    return {name: value for name, value in values.items() if name.isupper()}


def test_every_image_is_in_the_registry_under_its_written_digest(pushed, registry, tree):
    images = named(tree)
    assert set(images) == {"STEPS_CPU", "STEPS_GPU", "SERVING"}
    types = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    for image in images.values():
        repository, _, digest = image.partition("@")
        assert re.fullmatch(DIGEST, digest)
        name = repository.removeprefix(f"{registry}/")
        request = urllib.request.Request(f"http://{registry}/v2/{name}/manifests/{digest}", headers={"Accept": types})
        with urllib.request.urlopen(request) as response:
            assert response.headers["Docker-Content-Digest"] == digest


def test_an_image_pulled_by_digest_names_the_committed_revision(pushed, tree):
    revision = git(tree, "rev-parse", "HEAD").strip()
    for image in named(tree).values():
        docker("pull", "--quiet", image)
        labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
        assert labels["org.opencontainers.image.revision"] == revision


def test_a_comment_gives_each_tag_with_version_and_revision(pushed, tree):
    revision = git(tree, "rev-parse", "--short=12", "HEAD").strip()
    text = (tree / "images" / "digests.py").read_text()
    assert re.findall(r"  # (.*)$", text, re.MULTILINE) == [
        f"{VERSION}-{revision}-cpu",
        f"{VERSION}-{revision}-gpu",
        f"{VERSION}-{revision}",
    ]


def test_the_compiled_pipeline_names_the_digests_and_no_tag(pushed, tree):
    text, images = (tree / "pipeline.yaml").read_text(), named(tree)
    used = set(re.findall(r"^ +image: (\S+)$", text, re.MULTILINE))
    assert used == {images["STEPS_CPU"], images["STEPS_GPU"]}


def test_the_output_names_the_pushed_images_and_the_files_to_commit(pushed, tree):
    for image in named(tree).values():
        assert image in pushed.stdout
    sentence = "images/digests.py and images/manifests/release/kustomization.yaml name these"
    assert f"{sentence}: commit them together with pipeline.yaml" in pushed.stdout


def test_a_second_push_is_refused_until_the_first_is_committed(pushed, registry, tree):
    first_images = named(tree)
    second_push = make(tree, f"{registry}/team")
    assert second_push.returncode != 0
    assert "the tree differs from the revision that its images would name, in images/digests.py" in second_push.stderr
    assert "docker build" not in second_push.stdout
    git(tree, "add", "."), git(tree, "commit", "-m", "released")
    assert make(tree, f"{registry}/team").returncode == 0
    assert not set(first_images.values()) & set(named(tree).values())  # their label names another revision


def test_the_release_workflow_pushes_compiles_by_digest_and_uploads_a_version_named_by_the_tag(
    pushed, registry, tree, tmp_path
):
    git(tree, "add", "."), git(tree, "commit", "--allow-empty", "-m", "to be tagged")
    job = yaml.load((ROOT / ".github/workflows/ci.yaml").read_text(), yaml.BaseLoader)["jobs"]["release"]
    with kubeflow.serving() as server:
        variables = {
            "REGISTRY": registry, "GITHUB_REPOSITORY": "Me/Portraits", "GITHUB_REF_NAME": "v1.2.3", "NAME": "me",
            "PASSWORD": "secret", "KUBEFLOW_HOST": server.url, "KF_PIPELINES_TOKEN": "of the CI",
            "DOCKER_CONFIG": str(tmp_path / "docker"),
        }  # fmt: skip
        for script in [step["run"] for step in job["steps"] if "run" in step]:
            process = subprocess.run(
                ["bash", "-e", "-c", script], cwd=tree, env={**os.environ, **variables}, capture_output=True, text=True
            )
            assert process.returncode == 0, f"{script}\n{process.stdout}\n{process.stderr}"
        assert [version["display_name"] for version in server.versions] == ["portrait-scorer", "v1.2.3"]
        compiled_images = set(re.findall(r"'image': '([^']+)'", str(server.versions[-1]["pipeline_spec"])))
        assert server.tokens == {"Bearer of the CI"}
    images = named(tree)
    assert compiled_images == {images["STEPS_CPU"], images["STEPS_GPU"]}
    assert all(image.startswith(f"{registry}/me/portraits/") for image in images.values())


def test_a_registry_that_refuses_leaves_the_digests_unchanged(pushed, tree):
    git(tree, "add", "."), git(tree, "commit", "--allow-empty", "-m", "again")
    digests_before = (tree / "images" / "digests.py").read_text()
    process = make(tree, "127.0.0.1:9/team")
    assert process.returncode != 0
    assert "error: docker push 127.0.0.1:9/team/steps:" in process.stderr
    assert (tree / "images" / "digests.py").read_text() == digests_before
