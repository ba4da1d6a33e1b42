"""Parameters of a schedule, and the command that applies schedules."""

from pathlib import Path

import yaml

from pipeline.cli.main import main

DATA = {"photos": "gs://data/photos", "ratings": "gs://data/r.csv", "models": "gs://models", "workspace": "gs://runs"}
WEEKLY = {"cron": "0 0 3 * * 1", "parameters": DATA}


def schedule(server, file: Path, *arguments: str, **entries: dict) -> int:
    file.write_text(yaml.safe_dump({"schedules": entries}))
    return main(["schedule", str(file), "--host", server.url, *arguments])
