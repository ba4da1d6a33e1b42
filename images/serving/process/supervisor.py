"""Starts the server: Nginx and Gunicorn as children of this process, which ends when it is told to or one of them ends.

    python -m images.serving --model runs/models/portraits

Bodies on their way through Nginx pass this process: see ``arriving``.

When it is told to end (SIGTERM, SIGINT), ``/ready`` says no for the time of ``drain``, while requests are still
answered, each over a connection that is closed by its answer; when it is told again that time is over. Then Nginx stops
listening and ends when the requests in flight are answered, and Gunicorn after it.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from images.serving import json_log, sockets
from images.serving.inference import version_source
from images.serving.settings import DRAINING, METRICS, PREFIX, Settings, from_environment, to_environment

GUNICORN = "python:images.serving.process.gunicorn_settings"
MEMORY = "/dev/shm"
"""Where the workers' metrics lie, some 300 KB a worker; in the run's folder where it is missing."""

_LONGEST_ADDRESS = 107  # bytes of a socket's address, see unix(7)
_LOOK = 0.1  # seconds between two looks at the children
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_CLIENT = re.compile(r", (client|server|request|upstream|host|referrer): ")  # where Nginx begins to tell of a request
_NGINX_LINE = re.compile(r"^\S+ \S+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?")

_WORDS = {
    "model": "folder, gs:// or s3:// address of a version, of a model (its channel is followed) or of all models",
    "channel": "channel to follow",
    "version": "version to serve for good, instead of following a channel",
    "interval": "seconds between two looks at the channel",
    "host": "address to listen at",
    "port": "port to listen at",
    "metrics_port": "another one at which /metrics is told without a key: let Prometheus alone reach it (0: none)",
    "workers": "processes; 0: one a core",
    "threads": "threads that decode, in each worker",
    "batch": "photos in a call of the network, at most",
    "deadline": "seconds that a photo waits for others to be scored with",
    "queue": "photos under way in a worker, at most: more is answered with 429",
    "photos": "photos in a request, at most",
    "body": "bytes of a request, at most",
    "held": "bytes of all requests' bodies in a worker, and in Nginx for each, at most: more is answered with 429",
    "pixels": "pixels of a photo, at most",
    "seconds": "for a body to arrive, and for a photo to wait",
    "hosts": "names by which the server may be asked, divided by commas, as in *.example.com (with keys any; else"
    " addresses, names without a dot, and those that end in .local, .localhost, .internal or .svc)",
    "origins": "pages that may ask from a browser, divided by commas, as in https://market.example",
    "connections": "requests at once, of a key, or of an address where none is asked for; by Nginx",
    "rate": "requests a second, counted the same way (0: as many as come)",
    "proxies": "networks of proxies, divided by commas, whose X-Forwarded-For tells the client's address",
    "advising": "requests for advice under way in a worker, at most",
    "drain": "seconds between not being ready and not listening, at the end",
    "grace": "seconds for requests in flight after that",
    "folder": "for fetched versions and sockets; of what is written only the metrics lie elsewhere, in /dev/shm",
}


def main(arguments: Sequence[str] | None = None, gunicorn: str = GUNICORN) -> int:
    """Serve until told to end.

    Args:
        arguments: of the command line; by default this process's.
        gunicorn: its settings, as its option ``--config`` takes them.

    Returns:
        The exit status: 0 when it was told to end, 1 when a child ended by itself, 2 when it could not begin.
    """
    with contextlib.ExitStack() as stack:
        try:
            settings = parse(arguments)
            nginx = (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) if settings.nginx else None
            settings = replace(settings, host=_host(settings), nginx=bool(nginx), folder=_folder(settings))
            settings = replace(settings, model=version_source.absolute(settings.model))
            _fetch(settings)
            run = stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=settings.folder))
        except (ValueError, OSError) as error:
            print(f"serving: {error}", file=sys.stderr)
            return 2
        return _serve(replace(settings, run=run), nginx, gunicorn)


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from the command line, else from the environment.

    Raises:
        ValueError: a value is out of its type or range.
        OSError: the file of keys cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m images.serving",
        description="Let a published version answer over HTTP.",
        epilog=f"Each option is an environment variable too: --queue is {PREFIX}QUEUE. {PREFIX}KEYS (divided by commas)"
        f" or {PREFIX}KEYS_FILE (one a line) name the API keys of which one is asked for, as such or as sha256:….",
    )
    defaults = Settings()
    for name, words in _WORDS.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", metavar=name.upper(), help=f"{words}" + (f" ({default})" if default else "")
        )
    parser.add_argument("--no-nginx", dest="nginx", action="store_const", const="0", help="Gunicorn alone")
    parser.add_argument("--access", action="store_const", const="1", help="log a line a request")
    return from_environment(**vars(parser.parse_args(arguments)))


def _host(settings: Settings) -> str:
    """The host as it stands before a port.

    Raises:
        ValueError: it is none of this machine's, or both ports are one.
        OSError: somebody listens there already, or this account may not.
    """
    host = settings.host.strip("[]")
    if settings.port == settings.metrics_port:
        raise ValueError(f"expected another port for the metrics, got {settings.port} for both")
    for port in filter(None, (settings.port, settings.metrics_port)):
        _try(host, port)
    return f"[{host}]" if ":" in host and host != "::" else host


def _try(host: str, port: int) -> None:
    """Raise as `_host` does unless a port of a host can be listened at."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ValueError(f"expected an address or a name of this machine as host, got {host!r}") from None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)
        except OSError as error:
            if host or error.errno in (errno.EADDRINUSE, errno.EACCES):  # else it is a protocol that is not spoken here
                why = f"cannot listen at port {port} of {host or 'any address'}: {os.strerror(error.errno)}"
                raise OSError(f"{why}; give another --port or --host") from None


def _folder(settings: Settings) -> str:
    """The folder, made.

    Raises:
        ValueError: it cannot be named to Nginx, or its sockets could not be named to the system.
        OSError: it cannot be made, or another account could change what lies in it.
    """
    folder = os.path.abspath(settings.folder)
    if not folder.isprintable() or set(folder) & set('"$\\'):
        raise ValueError(f"expected a folder without quotation marks, $ and \\, got {folder!r}: give another --folder")
    over = len(os.fsencode(sockets.longest(f"{folder}/run-12345678", settings.workers))) - _LONGEST_ADDRESS
    if settings.nginx and over > 0:
        raise ValueError(
            f"expected a folder of at most {len(os.fsencode(folder)) - over} bytes, which leaves room for the names of"
            f" sockets, got {len(os.fsencode(folder))}: give a shorter --folder"
        )
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise OSError(f"expected a folder that can be made at {folder}: {os.strerror(error.errno)}") from None
    if os.stat(folder).st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"expected a folder of this account, {folder} is another's: give another --folder")
    if os.stat(folder).st_mode & 0o022:
        why = f"expected a folder that no other account may write to, {folder} is open to others"
        raise PermissionError(f"{why}: give another --folder, one in it for example")
    return folder


def _fetch(settings: Settings) -> None:
    """Fetch the version to serve, so that the workers find it; raise where there is none, and never was."""
    try:
        version_source.fetch(version_source.find(settings).current(), settings)
    except (ValueError, OSError) as error:
        if not (last := version_source.recall(settings)):
            raise
        json_log.event("failing", level="error", version=last.uri, why=str(error))


def _serve(settings: Settings, nginx: str | None, configuration: str) -> int:
    words: list[int] = []  # to end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: words.append(number))
    # A place of its own: a worker that writes to a mapped file on a full file system dies of SIGBUS.
    metrics = tempfile.mkdtemp(prefix="portrait-scorer-", dir=MEMORY if os.access(MEMORY, os.W_OK) else settings.run)
    environment = {
        **os.environ,
        **to_environment(settings),
        METRICS: metrics,
        "MALLOC_ARENA_MAX": "2",  # or each thread keeps its own freed memory: half as much again resident
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop(PREFIX + "KEYS_FILE", None)  # its keys are among the settings now, as digests
    if settings.metrics_port:
        from images.serving.prometheus_metrics import listen  # of which the launching process has no need else

        listen(settings.host, settings.metrics_port, str(metrics))
    # Gunicorn takes modules from its working folder before all others: that of the code is it.
    code = Path(__file__).parents[3]
    gunicorn = _start([sys.executable, "-m", "gunicorn", "-c", configuration], environment, cwd=code)
    children = {"gunicorn": gunicorn}
    try:
        if nginx:
            last = Path(sockets.socket_of(settings.run, settings.workers - 1))
            _await(lambda: last.exists() or gunicorn.poll() is not None)
            children |= _start_nginx(nginx, settings)
        json_log.event("started", port=settings.port, workers=settings.workers, nginx=bool(nginx))
        while not words:
            time.sleep(_LOOK)
            for name, child in children.items():
                if child.poll() is not None:
                    json_log.event("ended", level="error", child=name, status=child.returncode)
                    return 1
        json_log.event("draining", seconds=settings.drain)
        Path(settings.run, DRAINING).touch()
        until = time.monotonic() + settings.drain
        while len(words) < 2 and time.monotonic() < until:
            time.sleep(_LOOK)
        return 0
    finally:
        for name, child in reversed(children.items()):  # each answers what the one before has passed on to it
            _stop(child, signal.SIGTERM if name == "gunicorn" else signal.SIGQUIT, settings.grace)
        shutil.rmtree(metrics, ignore_errors=True)
        json_log.event("stopped")


def _start(command: list[str], environment: dict[str, str], **options: Any) -> subprocess.Popen:
    """A child in a process group of its own, so that a terminal's Ctrl-C reaches this process alone."""
    return subprocess.Popen(command, env=environment, process_group=0, preexec_fn=_end_with_parent, **options)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def _start_nginx(nginx: str, settings: Settings) -> dict[str, subprocess.Popen]:
    """Nginx's two servers by name, the one in front last."""
    from images.serving.process import arriving
    from images.serving.process.nginx import FRONT, INSIDE, configuration  # imports much, while Gunicorn starts

    children = {}
    for name in (INSIDE, FRONT):
        path = Path(settings.run, f"{name}.conf")
        path.write_text(configuration(settings, name))
        command = [nginx, "-e", "stderr", "-p", settings.run, "-c", str(path)]
        # Or the allocator would keep the memory of bodies for itself.
        environment = {"PATH": os.environ.get("PATH", ""), "MALLOC_MMAP_THRESHOLD_": str(2**17)}
        child = children[name] = _start(command, environment, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=_pass_on, args=(child,), daemon=True).start()
        if name == INSIDE:
            _await(lambda inside=child: os.path.exists(sockets.arrived(settings.run)) or inside.poll() is not None)
            arriving.listen(settings)
    return children


def _pass_on(child: subprocess.Popen) -> None:
    """Nginx's messages as lines of the log, each up to where it tells of a request and its address."""
    for line in child.stderr:
        level = found[1] if (found := _NGINX_LINE.match(line)) else "error"
        message = _CLIENT.split(_NGINX_LINE.sub("", line).strip())[0]
        json_log.event(
            "nginx", level={"emerg": "error", "crit": "error", "warn": "warning"}.get(level, level), message=message
        )


def _await(ready: Callable[[], bool]) -> None:
    """Wait for a moment that comes soon."""
    until = time.monotonic() + 30
    while not ready() and time.monotonic() < until:
        time.sleep(0.02)


def _stop(child: subprocess.Popen, number: int, grace: float) -> None:
    """Ask a child to end, and make it after the grace."""
    if child.poll() is None:
        child.send_signal(number)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
