"""The project's documents: their commands, tables and schedules.

A command is a line of a block marked ``sh``. A table is found by the first word of its header.
"""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ON_STAND_INS = ("pipeline/INSTALL.md", "pipeline/OPERATIONS.md")
"""Documents whose commands use a bucket; `test_operations` runs the commands on fakes."""


class Row(NamedTuple):
    """A row of a table, without code marks in its cells."""

    page: str
    cells: tuple[str, ...]


def tracked(pattern: str = ".") -> list[str]:
    """Return the paths of the repository's files that match a pattern of Git."""
    command = ["git", "-C", str(ROOT), "ls-files", pattern]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@cache
def pages() -> dict[str, str]:
    """Return the text of every document of the repository by its path, the README first."""
    return {
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in sorted(tracked("*.md"), key=lambda name: (len(Path(name).parts) > 1, name))
    }


def commands(document: str) -> list[str]:
    """Return the commands of a text in order; a backslash at the end of a line continues the command."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", document, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in re.sub(r"\\\n *", " ", block).splitlines()]


def words(command: str, host: str) -> list[str]:
    """Return a command's words with the address of a fake Kubeflow; ``make`` becomes a dry run."""
    arguments = shlex.split(command.replace("http://localhost:8888", host))
    return ["make", "--dry-run", "--directory", str(ROOT), *arguments[1:]] if arguments[0] == "make" else arguments


def schedules() -> str:
    """Return the schedule file that the documents show."""
    (schedule_file,) = re.findall(
        r"^```yaml\n(schedules:.*?)^```$", "\n".join(pages().values()), re.DOTALL | re.MULTILINE
    )
    return schedule_file


def rows(head: str) -> list[Row]:
    """Return the rows of every table whose header begins with a word, in all documents."""
    table_rows = []
    for page, text in pages().items():
        for table in re.findall(rf"^\| {head} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE):
            for line in table.splitlines():
                table_rows.append(Row(page, tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))))
    return table_rows
