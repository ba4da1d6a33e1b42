"""Supervisor of the server: starts Nginx and Gunicorn as child processes, and ends when a child ends.

    python -m images.serving --model runs/models/portraits

Request bodies pass through this process on their way between Nginx's two servers; see `arriving`.

Shutdown begins with SIGTERM or SIGINT. For `ServerSettings.drain` seconds, ``/ready`` returns 503 while requests are
still answered, and each response closes its connection. A second signal ends this time early. Then Nginx stops
listening and ends after the requests in flight. Gunicorn ends after Nginx.
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
from images.serving.settings import (
    DRAINING_FILE,
    METRICS_FOLDER_VARIABLE,
    VARIABLE_PREFIX,
    ServerSettings,
    from_environment,
    to_environment,
)

GUNICORN_CONFIG = "python:images.serving.process.gunicorn_settings"
SHARED_MEMORY = "/dev/shm"
"""Parent folder of the workers' metrics files, about 300 KB a worker. The run's folder is used if this is missing."""

_MAX_ADDRESS_BYTES = 107  # bytes of a socket's address, at most; see unix(7)
_POLL_SECONDS = 0.1  # seconds between two checks of the children
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
# Start of a message's details of a request.
_REQUEST_DETAILS = re.compile(r", (client|server|request|upstream|host|referrer): ")
_NGINX_LINE = re.compile(r"^\S+ \S+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?")

_OPTION_HELP = {
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


def main(arguments: Sequence[str] | None = None, gunicorn_config: str = GUNICORN_CONFIG) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        arguments: Command line arguments. Default: this process's.
        gunicorn_config: Value of Gunicorn's option ``--config``.

    Returns:
        Exit status: 0 after a signal, 1 if a child ended by itself, 2 if the server could not start.
    """
    with contextlib.ExitStack() as stack:
        try:
            settings = parse_settings(arguments)
            nginx = (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) if settings.nginx else None
            settings = replace(settings, host=_check_host(settings), nginx=bool(nginx), folder=_make_folder(settings))
            settings = replace(settings, model=version_source.absolute_uri(settings.model))
            _fetch_version(settings)
            run = stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=settings.folder))
        except (ValueError, OSError) as error:
            print(f"serving: {error}", file=sys.stderr)
            return 2
        return _serve(replace(settings, run=run), nginx, gunicorn_config)


def parse_settings(arguments: Sequence[str] | None = None) -> ServerSettings:
    """Return the settings from the command line, else from the environment, else the defaults.

    Raises:
        ValueError: A value has the wrong type or is out of range.
        OSError: The file of keys cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m images.serving",
        description="Let a published version answer over HTTP.",
        epilog=f"Each option is an environment variable too: --queue is {VARIABLE_PREFIX}QUEUE. {VARIABLE_PREFIX}KEYS"
        f" (divided by commas) or {VARIABLE_PREFIX}KEYS_FILE (one a line) name the API keys of which one is asked"
        " for, as such or as sha256:….",
    )
    defaults = ServerSettings()
    for name, help_text in _OPTION_HELP.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.upper(),
            help=f"{help_text}" + (f" ({default})" if default else ""),
        )
    parser.add_argument("--no-nginx", dest="nginx", action="store_const", const="0", help="Gunicorn alone")
    parser.add_argument("--access", action="store_const", const="1", help="log a line a request")
    return from_environment(**vars(parser.parse_args(arguments)))


def _check_host(settings: ServerSettings) -> str:
    """Return the host as written before a port: IPv6 addresses in brackets.

    Raises:
        ValueError: The host is not an address or a name of this machine, or both ports are equal.
        OSError: A port is in use, or this account may not listen at it.
    """
    host = settings.host.strip("[]")
    if settings.port == settings.metrics_port:
        raise ValueError(f"expected another port for the metrics, got {settings.port} for both")
    for port in filter(None, (settings.port, settings.metrics_port)):
        _check_port(host, port)
    return f"[{host}]" if ":" in host and host != "::" else host


def _check_port(host: str, port: int) -> None:
    """Raise the errors of `_check_host` unless this process can listen at a port of a host."""
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ValueError(f"expected an address or a name of this machine as host, got {host!r}") from None
    for family, socket_type, protocol, _, address in addresses:
        try:
            with socket.socket(family, socket_type, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
        except OSError as error:
            if host or error.errno in (errno.EADDRINUSE, errno.EACCES):  # else this machine lacks the protocol
                reason = f"cannot listen at port {port} of {host or 'any address'}: {error.strerror}"
                raise OSError(f"{reason}; give another --port or --host") from None


def _make_folder(settings: ServerSettings) -> str:
    """Create the server's folder and return its absolute path.

    Raises:
        ValueError: The path has characters that Nginx cannot read, or is too long for the addresses of sockets.
        OSError: The folder cannot be created, or another account can write to it.
    """
    folder = os.path.abspath(settings.folder)
    if not folder.isprintable() or set(folder) & set('"$\\'):
        raise ValueError(f"expected a folder without quotation marks, $ and \\, got {folder!r}: give another --folder")
    over = len(os.fsencode(sockets.longest_address(f"{folder}/run-12345678", settings.workers))) - _MAX_ADDRESS_BYTES
    if settings.nginx and over > 0:
        raise ValueError(
            f"expected a folder of at most {len(os.fsencode(folder)) - over} bytes, which leaves room for the names of"
            f" sockets, got {len(os.fsencode(folder))}: give a shorter --folder"
        )
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise OSError(f"expected a folder that can be made at {folder}: {error.strerror}") from None
    if os.stat(folder).st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"expected a folder of this account, {folder} is another's: give another --folder")
    if os.stat(folder).st_mode & 0o022:
        reason = f"expected a folder that no other account may write to, {folder} is open to others"
        raise PermissionError(f"{reason}: give another --folder, one in it for example")
    return folder


def _fetch_version(settings: ServerSettings) -> None:
    """Fetch the version to serve before the workers start.

    Raises:
        ValueError: The version cannot be fetched, and no earlier run left a record of a version.
        OSError: The version cannot be fetched, and no earlier run left a record of a version.
    """
    try:
        version_source.fetch_version(version_source.resolve_source(settings).current_uri(), settings)
    except (ValueError, OSError) as error:
        if not (record := version_source.read_record(settings)):
            raise
        json_log.log_event("failing", level="error", version=record.uri, why=str(error))


def _serve(settings: ServerSettings, nginx: str | None, gunicorn_config: str) -> int:
    signals: list[int] = []  # received so far
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda signal_number, _: signals.append(signal_number))
    # A separate file system, if there is one: writing to a mapped file on a full file system kills a worker (SIGBUS).
    metrics = tempfile.mkdtemp(
        prefix="portrait-scorer-", dir=SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else settings.run
    )
    environment = {
        **os.environ,
        **to_environment(settings),
        METRICS_FOLDER_VARIABLE: metrics,
        "MALLOC_ARENA_MAX": "2",  # otherwise each thread keeps freed memory: 50 % more resident memory
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop(VARIABLE_PREFIX + "KEYS_FILE", None)  # the settings already contain the digests of its keys
    if settings.metrics_port:
        from images.serving.prometheus_metrics import serve_metrics  # not needed in this process otherwise

        serve_metrics(settings.host, settings.metrics_port, str(metrics))
    # Gunicorn imports modules from its working folder first, so it runs in the root of the code.
    code = Path(__file__).parents[3]
    gunicorn = _start_child([sys.executable, "-m", "gunicorn", "-c", gunicorn_config], environment, cwd=code)
    children = {"gunicorn": gunicorn}
    try:
        if nginx:
            last_worker_socket = Path(sockets.worker_socket(settings.run, settings.workers - 1))
            _wait_until(lambda: last_worker_socket.exists() or gunicorn.poll() is not None)
            children |= _start_nginx(nginx, settings)
        json_log.log_event("started", port=settings.port, workers=settings.workers, nginx=bool(nginx))
        while not signals:
            time.sleep(_POLL_SECONDS)
            for name, child in children.items():
                if child.poll() is not None:
                    json_log.log_event("ended", level="error", child=name, status=child.returncode)
                    return 1
        json_log.log_event("draining", seconds=settings.drain)
        Path(settings.run, DRAINING_FILE).touch()
        deadline = time.monotonic() + settings.drain
        while len(signals) < 2 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return 0
    finally:
        for name, child in reversed(children.items()):  # front to back: each child still answers the one before
            _stop_child(child, signal.SIGTERM if name == "gunicorn" else signal.SIGQUIT, settings.grace)
        shutil.rmtree(metrics, ignore_errors=True)
        json_log.log_event("stopped")


def _start_child(command: list[str], environment: dict[str, str], **options: Any) -> subprocess.Popen:
    """Start a child in its own process group, so that a terminal's Ctrl-C reaches only this process."""
    return subprocess.Popen(command, env=environment, process_group=0, preexec_fn=_end_with_parent, **options)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def _start_nginx(nginx: str, settings: ServerSettings) -> dict[str, subprocess.Popen]:
    """Start Nginx's two servers, and return them by name, the front server last."""
    from images.serving.process import arriving
    from images.serving.process.nginx import FRONT, INSIDE, configuration  # a slow import, done while Gunicorn starts

    children = {}
    for name in (INSIDE, FRONT):
        path = Path(settings.run, f"{name}.conf")
        path.write_text(configuration(settings, name))
        command = [nginx, "-e", "stderr", "-p", settings.run, "-c", str(path)]
        # Above this size freed memory returns to the system; otherwise the allocator would keep the memory of bodies.
        environment = {"PATH": os.environ.get("PATH", ""), "MALLOC_MMAP_THRESHOLD_": str(2**17)}
        child = children[name] = _start_child(command, environment, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=_log_nginx_messages, args=(child,), daemon=True).start()
        if name == INSIDE:
            _wait_until(
                lambda: os.path.exists(sockets.inside_socket(settings.run)) or children[INSIDE].poll() is not None
            )
            arriving.start_relay(settings)
    return children


def _log_nginx_messages(child: subprocess.Popen) -> None:
    """Write Nginx's messages to the log, each cut before its details of a request, which include addresses."""
    assert child.stderr is not None  # `_start_nginx` has opened the pipe
    for line in child.stderr:
        level = match[1] if (match := _NGINX_LINE.match(line)) else "error"
        message = _REQUEST_DETAILS.split(_NGINX_LINE.sub("", line).strip())[0]
        json_log.log_event(
            "nginx", level={"emerg": "error", "crit": "error", "warn": "warning"}.get(level, level), message=message
        )


def _wait_until(ready: Callable[[], bool]) -> None:
    """Wait until `ready` returns True, for 30 seconds at most."""
    deadline = time.monotonic() + 30
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)


def _stop_child(child: subprocess.Popen, signal_number: int, grace: float) -> None:
    """Send a child a signal to end, and kill it after `grace` seconds."""
    if child.poll() is None:
        child.send_signal(signal_number)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
