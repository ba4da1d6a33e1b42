"""A container engine for the tests: the one that runs, or one that is started for them and ended with them."""

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
"""What the images have to live with: nothing to write but /tmp, no capabilities, no way to more of them."""

_PATIENCE = 60.0  # seconds for an engine to start


class Unavailable(Exception):
    """There is no engine, and none can be started; the message says why."""


def docker(*words: str, **options: Any) -> str:
    """What a command of Docker's prints.

    Raises:
        AssertionError: it failed; with all that it said.
    """
    done = subprocess.run(["docker", *words], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def _answers() -> bool:
    try:
        return not subprocess.run(["docker", "info"], capture_output=True, timeout=20).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def engine(*options: str) -> Iterator[None]:
    """An engine that answers within the block; one that is started for it ends with it.

    Args:
        *options: for ``dockerd``, where it is started.

    Raises:
        Unavailable: there is none.
    """
    if _answers():
        yield
        return
    if not shutil.which("docker") or not shutil.which("dockerd"):
        raise Unavailable("Docker is not installed")
    if os.geteuid():
        raise Unavailable("Docker does not run, and only root can start it")
    with tempfile.TemporaryDirectory(prefix="dockerd-", ignore_cleanup_errors=True) as run:
        # Files of its own: those of an engine that was killed may name processes that are others' by now.
        places = ["--host", f"unix://{run}/socket", "--pidfile", f"{run}/pid", "--exec-root", f"{run}/exec"]
        with open(f"{run}/log", "wb") as log:
            started = subprocess.Popen(["dockerd", *places, *options], stdout=log, stderr=log)
        before = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = places[1]
        try:
            _await(started, Path(run, "log"))
            yield
        finally:
            os.environ.pop("DOCKER_HOST") if before is None else os.environ.update(DOCKER_HOST=before)
            started.terminate()
            started.wait()


def _await(started: subprocess.Popen, log: Path) -> None:
    """Wait until an engine that was started answers."""
    end = time.monotonic() + _PATIENCE
    while not _answers():
        if started.poll() is not None or time.monotonic() > end:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"Docker could not be started: {' '.join(last)}")
        time.sleep(0.5)


def build(dockerfile: str, tag: str, *, target: str = "", cached: bool = False) -> float:
    """Build an image as ``make images`` does, by default from scratch; the seconds that it took.

    Args:
        dockerfile: its path in the project.
        tag: of the image.
        target: the stage; the last one when empty.
        cached: whether layers of an earlier build may be used.
    """
    words = ["build", "--network", "host", "--file", dockerfile, "--tag", tag, "--build-arg", f"REVISION={revision()}"]
    words += ["--target", target] if target else []
    words += [] if cached else ["--no-cache"]
    before, began = _unnamed(), time.monotonic()
    docker(*words, ".", cwd=ROOT)
    seconds = time.monotonic() - began
    if not cached and (rest := _unnamed() - before):  # the stages that the image was made of: gigabytes
        subprocess.run(["docker", "image", "rm", *rest], capture_output=True)
    return seconds


def _unnamed() -> set[str]:
    """Images without a name, which nothing needs but a later build."""
    return set(docker("images", "--quiet", "--no-trunc", "--filter", "dangling=true").split())


def revision() -> str:
    """The git revision of the code."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    id: str

    @property
    def url(self) -> str:
        """Where its port 8080 is published on loopback."""
        (place,) = re.findall(r"^127\.0\.0\.1:\d+$", docker("port", self.id, "8080/tcp"), re.MULTILINE)
        return f"http://{place}"

    @property
    def state(self) -> dict[str, Any]:
        """As Docker tells it: ``Status``, ``ExitCode``, ``Health``."""
        return json.loads(docker("inspect", "--format", "{{json .State}}", self.id))

    def logs(self) -> str:
        """All that it has written, to either stream."""
        done = subprocess.run(["docker", "logs", self.id], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return int(docker("wait", self.id))

    def stop(self, seconds: int = 120) -> int:
        """Its exit code after SIGTERM; it is killed, and the code 137, when it takes longer."""
        docker("stop", "--time", str(seconds), self.id)
        return self.wait()


@contextmanager
def container(
    image: str, *words: str, options: Sequence[str] = (), mounts: dict[Path, str] | None = None
) -> Iterator[Container]:
    """A confined container, removed after the block.

    Args:
        image: its tag.
        *words: its command's words.
        options: for ``docker run``.
        mounts: folders of this machine, with the path and the mode (``/models:ro``) under which it sees them.
    """
    bound = [word for place, inside in (mounts or {}).items() for word in ("--volume", f"{place}:{inside}")]
    started = Container(docker("create", *CONFINED, *bound, *options, image, *words))
    try:
        docker("start", started.id)
        yield started
    finally:
        docker("rm", "--force", "--volumes", started.id)
