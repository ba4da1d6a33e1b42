"""Make a base image from Debian's packages if no image registry can be reached.

The Dockerfiles start from ``python:3.11-slim-bookworm``. If that image cannot be pulled, a substitute takes its name:
the same Debian with its own Python 3.11, venv and pip. So the committed Dockerfiles are built unchanged. The
certificates and settings that this machine needs to reach its package index are in this local layer only.

    python -m tests.containers.base_image
"""

import hashlib
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

BASE = "python:3.11-slim-bookworm"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
MIRROR = "http://deb.debian.org/debian"
LABEL = "portrait-scorer.stand-in"
"""Label of the substitute image: digest of this machine's settings. If the digest differs, the image is built again."""

CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def provide(reference: str = BASE) -> str:
    """Make sure that the engine has an image of this name: present, pulled or substituted.

    Returns:
        Source of the image: ``"present"``, ``"pulled"`` or ``"stand-in"``.

    Raises:
        subprocess.CalledProcessError: a tool failed; the output holds its message.
        FileNotFoundError: debootstrap is not installed.
    """
    label = subprocess.run(
        ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', reference],
        capture_output=True, text=True,
    )  # fmt: skip
    if not label.returncode and label.stdout.strip() in ("", _fingerprint()):
        return "present"
    if not subprocess.run(["docker", "pull", "--quiet", reference], capture_output=True, timeout=300).returncode:
        return "pulled"
    if not shutil.which("debootstrap"):
        raise FileNotFoundError(f"{reference} cannot be pulled, and debootstrap, to make a stand-in, is not installed")
    with tempfile.TemporaryDirectory(prefix="base-image-") as folder:
        root = Path(folder, "root")
        _bootstrap(root)
        _equip(root)
        _import(root, reference)
    return "stand-in"


def _bootstrap(root: Path) -> None:
    """Install Debian with Python and delete caches, documents and translations."""
    include = f"--include={','.join(PACKAGES)}"
    command = ["debootstrap", "--variant=minbase", include, SUITE, str(root), MIRROR]
    subprocess.run(command, check=True, stdout=sys.stderr)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for apt_folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):  # by apt
        (root / apt_folder).mkdir(parents=True)
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)


def _equip(root: Path) -> None:
    """Copy this machine's certificates and pip settings; paths on its disk do not exist in a container."""
    if certificates := _certificates():
        (root / CERTIFICATES).write_bytes(certificates)
    (root / "etc/pip.conf").write_text(_pip_settings())


def _certificates() -> bytes:
    trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return Path(trusted).read_bytes() if trusted and Path(trusted).is_file() else b""


def _pip_settings() -> str:
    lines = ["[global]", f"cert = /{CERTIFICATES}"]
    for name in ("index-url", "timeout"):
        command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
        if value := subprocess.run(command, capture_output=True, text=True).stdout.strip():
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def _environment() -> dict[str, str]:
    """Return the OpenBLAS variables of this machine."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("OPENBLAS_")}


def _fingerprint() -> str:
    parts = (_certificates(), _pip_settings().encode(), repr(_environment()).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _import(root: Path, reference: str) -> None:
    """Import the folder as an image with one layer."""
    environment = [f"ENV {name}={shlex.quote(value)}" for name, value in _environment().items()]
    changes = ['CMD ["python3"]', f"LABEL {LABEL}={_fingerprint()}", *environment]
    options = [word for change in changes for word in ("--change", change)]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packed:
        command = ["docker", "import", *options, "-", reference]
        subprocess.run(command, stdin=packed.stdout, check=True, stdout=sys.stderr)
    if packed.returncode:
        raise subprocess.CalledProcessError(packed.returncode, packed.args)


if __name__ == "__main__":
    print(f"{BASE}: {provide()}")
