"""Git commands on a folder."""

import subprocess
from pathlib import Path


def git(tree: Path, *words: str) -> str:
    options = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", str(tree), *options, *words], check=True, capture_output=True, text=True).stdout
