"""Push the images that ``make images`` has built, and write down by digest what was pushed.

    make images PUSH=europe-west4-docker.pkg.dev/project/portraits

Before anything is built, the tree has to be as it is committed: an image says of which revision it is, and so does its
tag, which is never given to another content. Nothing is written before every image is in the registry.
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
"""Each constant of ``digests.py``: the image's name, and what ends its tag."""

LOCAL = "portrait-scorer"
"""Before the names of images that are only here."""

_PREFIX = r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
_SHOWN = 5  # files that are named where the tree differs


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tree, or push; 2 where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m images.release", description=__doc__.partition("\n")[0])
    parser.add_argument("prefix", metavar="REGISTRY/PREFIX", help="before the names of the pushed images")
    parser.add_argument("--version", required=True, help="of the project, as the built images are tagged")
    parser.add_argument(
        "--check", action="store_true", help="only see whether this could be pushed, before it is built"
    )
    options = parser.parse_args(arguments)
    try:
        check_prefix(options.prefix)
        revision = clean(ROOT)
        if not options.check:
            pushed = {}
            for constant, (name, ending) in IMAGES.items():
                built = f"{LOCAL}/{name}:{options.version}{ending}"
                tag = f"{options.version}-{revision}{ending}"
                check_built(built, revision)
                pushed[constant] = push(built, f"{options.prefix}/{name}", tag), tag
                print(f"{pushed[constant][0]}  # {tag}", flush=True)
            DIGESTS.write_text(written(DIGESTS.read_text(encoding="utf-8"), pushed), encoding="utf-8")
            MANIFEST.write_text(manifest(DIGESTS.read_text(encoding="utf-8")), encoding="utf-8")
            both = f"{DIGESTS.relative_to(ROOT)} and {MANIFEST.relative_to(ROOT)}"
            print(f"{both} name these: commit them together with pipeline.yaml")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def check_prefix(prefix: str) -> None:
    """Raise ValueError unless images can be pushed below a prefix."""
    if not re.fullmatch(_PREFIX, prefix) or "/" not in prefix:
        expected = "a registry and a place in it, such as europe-west4-docker.pkg.dev/project/portraits"
        raise ValueError(f"PUSH: expected {expected}, got {prefix!r}")


def clean(tree: Path) -> str:
    """The revision of a tree that is as it is committed, in twelve digits.

    Raises:
        ValueError: it is no git repository, or files differ from the revision; names some.
    """
    done = _git(tree, "rev-parse", "--short=12", "HEAD")
    if done.returncode:
        raise ValueError(f"expected a git repository with a commit in {tree}: {done.stderr.strip()}")
    changed = [line[3:] for line in _git(tree, "status", "--porcelain").stdout.splitlines()]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ValueError(
            f"the tree differs from the revision that its images would name, in {', '.join(changed[:_SHOWN])}{more}:"
            " commit or remove that, then push"
        )
    return done.stdout.strip()[:12]


def check_built(image: str, revision: str) -> None:
    """Raise ValueError unless an image of this revision was built here."""
    form = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    built = _docker("image", "inspect", "--format", form, image).strip()
    if not built.startswith(revision):
        raise ValueError(f"expected {image} to be built from {revision}, its label says {built!r}: make images again")


def push(built: str, repository: str, tag: str) -> str:
    """Push an image and return it by its digest, ``repository@sha256:…``.

    Args:
        built: its tag here.
        repository: where it goes, with the registry.
        tag: that it gets there.

    Raises:
        ValueError: Docker fails, or what it pushed is not what it knows of the image.
    """
    _docker("tag", built, f"{repository}:{tag}")
    said = _docker("push", f"{repository}:{tag}")
    found = re.findall(rf"^{re.escape(tag)}: digest: (sha256:[0-9a-f]{{64}}) ", said, re.MULTILINE)
    known = json.loads(_docker("image", "inspect", "--format", "{{json .RepoDigests}}", f"{repository}:{tag}"))
    if len(found) != 1 or f"{repository}@{found[0]}" not in known:
        raise ValueError(f"expected one digest of {repository}:{tag}, pushing told {found}, Docker knows {known}")
    return f"{repository}@{found[0]}"


def written(text: str, pushed: dict[str, tuple[str, str]]) -> str:
    """The text of ``digests.py`` with other images.

    Args:
        text: as it is.
        pushed: the image by digest, and its tag, for each constant.

    Raises:
        ValueError: a constant is not there, once.
    """
    for constant, (image, tag) in pushed.items():
        text, count = re.subn(rf"^{constant} = .*$", f'{constant} = "{image}"  # {tag}', text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"expected one line {constant} = … in {DIGESTS.name}, found {count}")
    return text


def manifest(text: str) -> str:
    """The component that lets kustomize name the images of a ``digests.py`` where a manifest has their local names."""
    said = re.findall(r'^(\w+) = "([^"]+)"(?:  # (.+))?$', text, re.MULTILINE)
    entries = []
    for name, image, tag in (
        (IMAGES[constant][0], image, tag) for constant, image, tag in said if constant != "STEPS_GPU"
    ):
        place, at, digest = image.partition("@")
        place, _, own = (place, "", "") if at else image.rpartition(":")
        version = f"digest: {digest}  # {tag}" if at else f'newTag: "{own}"'
        entries.append(f"  - name: {LOCAL}/{name}\n    newName: {place}\n    {version}\n")
    return (
        "# Which images run: written by make images PUSH=…, from images/digests.py.\n"
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages:\n" + "".join(entries)
    )


def _git(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True)


def _docker(*words: str) -> str:
    """What a command of Docker's prints; ValueError with its own words when it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"docker {' '.join(words[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
