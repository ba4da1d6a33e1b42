"""The whole DAG in containers, by Kubeflow's own local runner, as confined as a cluster may want them."""

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
"""The number that the images run as."""

CONFINED = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


def run_and_wait(client: docker.DockerClient, image: str, command: list[str], volumes: dict, **options: Any) -> int:
    """The exit code of a container, in the place of Kubeflow's function of this kind.

    That one has containers removed as they end, asks for the exit code afterwards, and takes a container that is gone
    by then for one that ended well: about every third failure was reported as a success.
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
    """A run that has ended.

    Attributes:
        green: what the runner says of it.
        log: what the steps and the runner have printed.
        account: what its own records say.
        folder: receives ``artifacts``, ``models`` and ``workspace``.
    """

    green: bool
    log: str
    account: step_status.RunSummary
    folder: Path
    id: str = field(default="")

    def tasks(self) -> set[str]:
        """The tasks that ended well."""
        return {path.parent.name for path in self.folder.glob(f"artifacts/{self.id}/*/*/executor_output.json")}


def run(image: str, folder: Path, id: str, **changed: Any) -> Ran:
    """Run the DAG on the tiny sample, every step in a container of this image.

    Args:
        image: tag of the image of the steps; it takes the place of the one for GPUs too.
        folder: that the containers see under its own path, and may write to; the runs within it share models.
        id: of the run.
        **changed: parameters other than the tiny run's.
    """
    os.chown(folder, USER, USER)
    package = compiled_yaml().replace(digests.STEPS_CPU, image).replace(digests.STEPS_GPU, image)
    pipeline = components.load_component_from_text(local_runner._without_retries(package))
    places = {name: str(folder / name) for name in ("models", "workspace")}
    settings = [f"{name}={value}" for name, value in (tiny.SETTINGS | changed).items()]
    given = parameters.check({"photos": tiny.SAMPLE, **places, **parameters.parse_assignments(settings)})
    runner = local.DockerRunner(
        environment={step_status.RUN_ID: id}, mounts=[Mount(str(folder), str(folder), type="bind")], **CONFINED
    )
    artifacts = folder / "artifacts" / id
    artifacts.mkdir(parents=True)
    os.chown(artifacts, USER, USER)
    local.init(runner, pipeline_root=str(artifacts))
    green, log = True, io.StringIO()
    waiting = mock.patch.object(docker_task_handler, "run_docker_container", run_and_wait)
    with waiting, warnings.catch_warnings(), redirect_stdout(log):
        warnings.simplefilter("ignore")
        try:
            pipeline(**given)
        except RuntimeError:
            green = False
    place = RunPaths(places["workspace"], id)
    text = re.sub(r"\x1b\[\d+m", "", log.getvalue())
    return Ran(green, text, step_status.summarize_run(place, "SUCCEEDED" if green else "FAILED"), folder, id)


def decision(ran: Ran) -> dict[str, Any]:
    """The run's ``decision.json``."""
    return json.loads((ran.folder / "workspace" / "runs" / ran.id / "decision.json").read_text())
