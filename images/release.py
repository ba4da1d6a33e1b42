"""Push the images that ``make images`` has built, and write their digests to ``digests.py``.

    make images PUSH=europe-west4-docker.pkg.dev/project/portraits

The working tree must have no uncommitted changes, because each image and its tag name the revision. A tag is never
reused for other content. No file is written before every image is in the registry.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIGESTS = ROOT / "images" / "digests.py"
MANIFEST = ROOT / "images" / "manifests" / "release" / "kustomization.yaml"

IMAGES = {"STEPS_CPU": ("steps", "-cpu"), "STEPS_GPU": ("steps", "-gpu"), "SERVING": ("serving", "")}
"""Image name and tag suffix of each constant in ``digests.py``."""

LOCAL_PREFIX = "portrait-scorer"
"""Prefix of the names of images that exist only on this machine."""

_PREFIX = r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_MAX_LISTED_FILES = 5  # changed files that the error names, at most


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the working tree or push the images. Return the exit status: 0, or 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m images.release", description=__doc__.partition("\n")[0])
    parser.add_argument("prefix", metavar="REGISTRY/PREFIX", help="before the names of the pushed images")
    parser.add_argument("--version", required=True, help="of the project, as the built images are tagged")
    parser.add_argument(
        "--check", action="store_true", help="only see whether this could be pushed, before it is built"
    )
    options = parser.parse_args(arguments)
    try:
        check_prefix(options.prefix)
        revision = clean_revision(ROOT)
        if not options.check:
            pushed = {}
            for constant, (name, suffix) in IMAGES.items():
                local_image = f"{LOCAL_PREFIX}/{name}:{options.version}{suffix}"
                tag = f"{options.version}-{revision}{suffix}"
                check_built(local_image, revision)
                pushed[constant] = push(local_image, f"{options.prefix}/{name}", tag), tag
                print(f"{pushed[constant][0]}  # {tag}", flush=True)
            DIGESTS.write_text(with_pushed_images(DIGESTS.read_text(encoding="utf-8"), pushed), encoding="utf-8")
            MANIFEST.write_text(kustomize_component(DIGESTS.read_text(encoding="utf-8")), encoding="utf-8")
            written_files = f"{DIGESTS.relative_to(ROOT)} and {MANIFEST.relative_to(ROOT)}"
            print(f"{written_files} name these: commit them together with pipeline.yaml")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def check_prefix(prefix: str) -> None:
    """Raise ValueError unless a prefix is a registry and a path in it."""
    if not re.fullmatch(_PREFIX, prefix) or "/" not in prefix:
        expected = "a registry and a place in it, such as europe-west4-docker.pkg.dev/project/portraits"
        raise ValueError(f"PUSH: expected {expected}, got {prefix!r}")


def clean_revision(tree: Path) -> str:
    """Return the first twelve digits of the revision of a working tree without changes.

    Raises:
        ValueError: The folder is not a git repository, or files differ from the revision. The message names some files.
    """
    head = _git(tree, "rev-parse", "--short=12", "HEAD")
    if head.returncode:
        raise ValueError(f"expected a git repository with a commit in {tree}: {head.stderr.strip()}")
    changed = [line[3:] for line in _git(tree, "status", "--porcelain").stdout.splitlines()]
    if changed:
        more = f" and {len(changed) - _MAX_LISTED_FILES} more" if len(changed) > _MAX_LISTED_FILES else ""
        raise ValueError(
            "the tree differs from the revision that its images would name, in"
            f" {', '.join(changed[:_MAX_LISTED_FILES])}{more}:"
            " commit or remove that, then push"
        )
    return head.stdout.strip()[:12]


def check_built(image: str, revision: str) -> None:
    """Raise ValueError unless the label of a local image names this revision."""
    form = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    built = _docker("image", "inspect", "--format", form, image).strip()
    if not built.startswith(revision):
        raise ValueError(f"expected {image} to be built from {revision}, its label says {built!r}: make images again")


def push(local_image: str, repository: str, tag: str) -> str:
    """Push an image and return its name with digest, ``repository@sha256:…``.

    Args:
        local_image: Local name of the image, with tag.
        repository: Target repository, with the registry.
        tag: Tag in the target repository.

    Raises:
        ValueError: Docker fails, or the pushed digest is not among the image's digests.
    """
    _docker("tag", local_image, f"{repository}:{tag}")
    output = _docker("push", f"{repository}:{tag}")
    digests = re.findall(rf"^{re.escape(tag)}: digest: (sha256:[0-9a-f]{{64}}) ", output, re.MULTILINE)
    repository_digests = json.loads(
        _docker("image", "inspect", "--format", "{{json .RepoDigests}}", f"{repository}:{tag}")
    )
    if len(digests) != 1 or f"{repository}@{digests[0]}" not in repository_digests:
        raise ValueError(
            f"expected one digest of {repository}:{tag}, pushing told {digests}, Docker knows {repository_digests}"
        )
    return f"{repository}@{digests[0]}"


def with_pushed_images(text: str, pushed: dict[str, tuple[str, str]]) -> str:
    """Return the text of ``digests.py`` with other images.

    Args:
        text: Present text of the file.
        pushed: Image name with digest, and tag, for each constant.

    Raises:
        ValueError: The text does not contain exactly one line for each constant.
    """
    for constant, (image, tag) in pushed.items():
        text, count = re.subn(rf"^{constant} = .*$", f'{constant} = "{image}"  # {tag}', text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"expected one line {constant} = … in {DIGESTS.name}, found {count}")
    return text


def kustomize_component(text: str) -> str:
    """Return the kustomize component that replaces the images' local names by those of ``digests.py``."""
    constants = re.findall(r'^(\w+) = "([^"]+)"(?:  # (.+))?$', text, re.MULTILINE)
    entries = []
    for name, image, tag in (
        (IMAGES[constant][0], image, tag) for constant, image, tag in constants if constant != "STEPS_GPU"
    ):
        repository, separator, digest = image.partition("@")
        repository, _, local_tag = (repository, "", "") if separator else image.rpartition(":")
        version = f"digest: {digest}  # {tag}" if separator else f'newTag: "{local_tag}"'
        entries.append(f"  - name: {LOCAL_PREFIX}/{name}\n    newName: {repository}\n    {version}\n")
    return (
        "# Which images run: written by make images PUSH=…, from images/digests.py.\n"
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages:\n" + "".join(entries)
    )


def _git(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True)


def _docker(*arguments: str) -> str:
    """Run a Docker command and return its output. Raise ValueError with Docker's message if the command fails."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"docker {' '.join(arguments[:2])}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
