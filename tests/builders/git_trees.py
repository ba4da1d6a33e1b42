"""Git on a tree of files."""

import subprocess
from pathlib import Path


def git(tree: Path, *words: str) -> str:
    own = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", str(tree), *own, *words], check=True, capture_output=True, text=True).stdout
