"""Run the whole DAG in confined containers with Kubeflow's local runner."""

import io
import json
import os
import re
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import docker
from docker.types import Mount
from kfp import components, local
from kfp.local import docker_task_handler

from components.scorer.run import step_status
from components.scorer.run.paths import RunPaths
from images import digests
from pipeline import local_runner, parameters
from pipeline.compiled import compiled_yaml
from tests.builders import tiny

USER = 10001
"""User id that the images run as."""

CONFINED = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


def run_and_wait(client: docker.DockerClient, image: str, command: list[str], volumes: dict, **options: Any) -> int:
    """Run a container and return its exit code. Replaces the function of this name in Kubeflow.

    Kubeflow's function removes each container as it ends and asks for the exit code afterwards. If the container is
    gone by then, the function reports a success. About every third failure was reported as a success.
    """
    container = client.containers.create(image, command, volumes=volumes, **options)
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            print(line.decode(errors="replace"), end="")
        return container.wait()["StatusCode"]
    finally:
        container.remove(force=True, v=True)


@dataclass(frozen=True)
class Ran:
    """A finished run.

    Attributes:
        green: Whether the runner reports success.
        log: Output of the steps and of the runner.
        summary: Summary of the run's own records.
        folder: Folder with ``artifacts``, ``models`` and ``workspace``.
        id: Id of the run.
    """

    green: bool
    log: str
    summary: step_status.RunSummary
    folder: Path
    id: str = field(default="")

    def tasks(self) -> set[str]:
        """Return the names of the tasks that succeeded."""
        return {path.parent.name for path in self.folder.glob(f"artifacts/{self.id}/*/*/executor_output.json")}


def run(image: str, folder: Path, id: str, **changed: Any) -> Ran:
    """Run the DAG on the tiny sample, each step in a container of this image.

    Args:
        image: Tag of the steps image; it replaces the GPU image too.
        folder: Writable folder, mounted under the same path; runs in one folder share their models.
        id: Id of the run.
        **changed: Parameters that differ from the tiny run's.
    """
    os.chown(folder, USER, USER)
    pipeline_text = compiled_yaml().replace(digests.STEPS_CPU, image).replace(digests.STEPS_GPU, image)
    pipeline = components.load_component_from_text(local_runner._without_retries(pipeline_text))
    folders = {name: str(folder / name) for name in ("models", "workspace")}
    settings = [f"{name}={value}" for name, value in (tiny.SETTINGS | changed).items()]
    arguments = parameters.check({"photos": tiny.SAMPLE, **folders, **parameters.parse_assignments(settings)})
    runner = local.DockerRunner(
        environment={step_status.RUN_ID: id}, mounts=[Mount(str(folder), str(folder), type="bind")], **CONFINED
    )
    artifacts = folder / "artifacts" / id
    artifacts.mkdir(parents=True)
    os.chown(artifacts, USER, USER)
    local.init(runner, pipeline_root=str(artifacts))
    green, log = True, io.StringIO()
    patched_runner = mock.patch.object(docker_task_handler, "run_docker_container", run_and_wait)
    with patched_runner, warnings.catch_warnings(), redirect_stdout(log):
        warnings.simplefilter("ignore")
        try:
            pipeline(**arguments)
        except RuntimeError:
            green = False
    run_paths = RunPaths(folders["workspace"], id)
    plain_log = re.sub(r"\x1b\[\d+m", "", log.getvalue())
    return Ran(green, plain_log, step_status.summarize_run(run_paths, "SUCCEEDED" if green else "FAILED"), folder, id)


def decision(ran: Ran) -> dict[str, Any]:
    """Return the content of the run's ``decision.json``."""
    return json.loads((ran.folder / "workspace" / "runs" / ran.id / "decision.json").read_text())
