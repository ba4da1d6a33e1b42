"""The commands that a document tells people to type: each line of its blocks marked ``sh``."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commands(document: str) -> list[str]:
    """The commands, in their order; a backslash at the end of a line goes on with it."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", document, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in re.sub(r"\\\n *", " ", block).splitlines()]


def words(command: str, host: str) -> list[str]:
    """A command's words, with the address of a stand-in of Kubeflow; ``make`` only says what it would do."""
    found = shlex.split(command.replace("http://localhost:8888", host))
    return ["make", "--dry-run", "--directory", str(ROOT), *found[1:]] if found[0] == "make" else found
