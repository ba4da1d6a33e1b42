"""A container engine for the tests: the running one, or one that is started and stopped by the tests."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""Restrictions on each container: only /tmp is writable, no capabilities, no new privileges."""

_PATIENCE = 60.0  # seconds for an engine to start


class Unavailable(Exception):
    """No engine runs and none can be started; the message gives the reason."""


def docker(*words: str, **options: Any) -> str:
    """Run a Docker command and return its output.

    Raises:
        AssertionError: the command failed; the message holds its output.
    """
    process = subprocess.run(["docker", *words], capture_output=True, text=True, **options)
    assert process.returncode == 0, f"docker {' '.join(words)}\n{process.stdout}\n{process.stderr}"
    return process.stdout.strip()


def _answers() -> bool:
    try:
        return not subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def engine(*options: str) -> Iterator[None]:
    """Provide an engine within the block; an engine started for the block stops after it.

    Args:
        *options: Options of ``dockerd`` if it is started.

    Raises:
        Unavailable: no engine can be started.
    """
    if _answers():
        yield
        return
    if not shutil.which("docker") or not shutil.which("dockerd"):
        raise Unavailable("Docker is not installed")
    if os.geteuid():
        raise Unavailable("Docker does not run, and only root can start it")
    with tempfile.TemporaryDirectory(prefix="dockerd-", ignore_cleanup_errors=True) as run:
        # Own files: files of a killed engine may name process ids that other processes have now.
        own_files = ["--host", f"unix://{run}/socket", "--pidfile", f"{run}/pid", "--exec-root", f"{run}/exec"]
        with open(f"{run}/log", "wb") as log:
            daemon = subprocess.Popen(["dockerd", *own_files, *options], stdout=log, stderr=log)
        previous_host = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = own_files[1]
        try:
            _await(daemon, Path(run, "log"))
            yield
        finally:
            os.environ.pop("DOCKER_HOST") if previous_host is None else os.environ.update(DOCKER_HOST=previous_host)
            daemon.terminate()
            daemon.wait()


def _await(started: subprocess.Popen, log: Path) -> None:
    """Wait until the started engine answers."""
    end = time.monotonic() + _PATIENCE
    while not _answers():
        if started.poll() is not None or time.monotonic() > end:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"Docker could not be started: {' '.join(last)}")
        time.sleep(0.5)


def build(dockerfile: str, tag: str, *, target: str = "", cached: bool = False) -> float:
    """Build an image as ``make images`` does and return the seconds taken.

    Args:
        dockerfile: Path of the Dockerfile in the project.
        tag: Tag of the image.
        target: Build stage; "" builds the last one.
        cached: Whether to use layers of an earlier build.
    """
    words = ["build", "--network", "host", "--file", dockerfile, "--tag", tag, "--build-arg", f"REVISION={revision()}"]
    words += ["--target", target] if target else []
    words += [] if cached else ["--no-cache"]
    images_before, start = _unnamed(), time.monotonic()
    docker(*words, ".", cwd=ROOT)
    seconds = time.monotonic() - start
    if not cached and (new_images := _unnamed() - images_before):  # intermediate stages: gigabytes
        subprocess.run(["docker", "image", "rm", *new_images], capture_output=True)
    return seconds


def _unnamed() -> set[str]:
    """Return the ids of images without a name; only later builds use them."""
    return set(docker("images", "--quiet", "--no-trunc", "--filter", "dangling=true").split())


def revision() -> str:
    """Return the git revision of the code."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


@dataclass(frozen=True)
class Container:
    """A started container."""

    id: str

    @property
    def url(self) -> str:
        """URL of the container's port 8080 on loopback."""
        (address,) = re.findall(r"^127\.0\.0\.1:\d+$", docker("port", self.id, "8080/tcp"), re.MULTILINE)
        return f"http://{address}"

    @property
    def state(self) -> dict[str, Any]:
        """Docker's record of the state: ``Status``, ``ExitCode``, ``Health``."""
        return json.loads(docker("inspect", "--format", "{{json .State}}", self.id))

    def logs(self) -> str:
        """Return the container's standard output and standard error."""
        logs = subprocess.run(["docker", "logs", self.id], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return logs.stdout

    def wait(self) -> int:
        """Wait until the container ends and return its exit code."""
        return int(docker("wait", self.id))

    def stop(self, seconds: int = 120) -> int:
        """Send SIGTERM and return the exit code; after the time limit the container is killed (code 137)."""
        docker("stop", "--time", str(seconds), self.id)
        return self.wait()


@contextmanager
def container(
    image: str, *words: str, options: Sequence[str] = (), mounts: dict[Path, str] | None = None
) -> Iterator[Container]:
    """Run a confined container and remove it after the block.

    Args:
        image: Tag of the image.
        *words: Words of the command.
        options: Options of ``docker create``.
        mounts: Folders of this machine by path and mode in the container (``/models:ro``).
    """
    volumes = [word for folder, inside in (mounts or {}).items() for word in ("--volume", f"{folder}:{inside}")]
    running = Container(docker("create", *CONFINED, *volumes, *options, image, *words))
    try:
        docker("start", running.id)
        yield running
    finally:
        docker("rm", "--force", "--volumes", running.id)
