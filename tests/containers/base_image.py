"""A base image from Debian's packages, where no registry of images can be reached.

The Dockerfiles start from ``python:3.11-slim-bookworm``. Where that cannot be pulled, the same Debian with its own
Python 3.11, venv and pip stands in under that name, so that the committed Dockerfiles are built as they are. What this
machine needs to reach its package index, certificates above all, is in this local layer and nowhere else.

    python -m tests.containers.base_image
"""

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
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def provide(reference: str = BASE) -> str:
    """Make sure that an image of this name is here: as it is, pulled, or the stand-in.

    Returns:
        How it came to be here: ``"present"``, ``"pulled"`` or ``"stand-in"``.

    Raises:
        subprocess.CalledProcessError: a tool failed; its message stands in the output.
        FileNotFoundError: debootstrap is not installed.
    """
    if not subprocess.run(["docker", "image", "inspect", reference], capture_output=True).returncode:
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
    """Debian with Python, and nothing that only takes room."""
    include = f"--include={','.join(PACKAGES)}"
    command = ["debootstrap", "--variant=minbase", include, SUITE, str(root), MIRROR]
    subprocess.run(command, check=True, stdout=sys.stderr)
    for heap in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / heap, ignore_errors=True)
    for part in ("archives/partial",):  # apt wants it
        (root / "var/cache/apt" / part).mkdir(parents=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)


def _equip(root: Path) -> None:
    """What this machine trusts and asks for packages; places on its own disk mean nothing in a container."""
    trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if trusted and Path(trusted).is_file():
        shutil.copyfile(trusted, root / CERTIFICATES)
    lines = ["[global]", f"cert = /{CERTIFICATES}"]
    for name in ("index-url", "timeout"):
        found = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True
        )
        if value := found.stdout.strip():
            lines.append(f"{name} = {value}")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")


def _import(root: Path, reference: str) -> None:
    """The folder as an image with one layer."""
    # How this machine's processor wants its linear algebra is a matter of the machine, too.
    own = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    changes = ['CMD ["python3"]', *(f"ENV {name}={shlex.quote(value)}" for name, value in own.items())]
    options = [word for change in changes for word in ("--change", change)]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packed:
        command = ["docker", "import", *options, "-", reference]
        subprocess.run(command, stdin=packed.stdout, check=True, stdout=sys.stderr)
    if packed.returncode:
        raise subprocess.CalledProcessError(packed.returncode, packed.args)


if __name__ == "__main__":
    print(f"{BASE}: {provide()}")
