"""Paths of a run's files that must outlive its pods: checkpoints, status records and the register of splits.

All files are stored under one URI, the pipeline's ``workspace`` parameter.

Layout::

    <workspace>/splits.csv                          split of each photo, across all runs.
    <workspace>/runs/<run>/checkpoints/<step>/      checkpoints of a step, from which a retry resumes.
    <workspace>/runs/<run>/steps/<step>.json        status of each step, for the exit handler.
    <workspace>/runs/<run>/decision.json            decision record, for the exit handler.
    <workspace>/runs/<run>/left_out.csv             excluded photos, if ingestion stopped because of their number.
    <workspace>/runs/<run>/published.json           published version, for the exit handler.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run under the workspace URI (folder, ``gs://`` or ``s3://``)."""

    uri: str
    run: str

    def _in_run(self, *parts: str) -> str:
        return "/".join([self.uri.rstrip("/"), "runs", self.run, *parts])

    @property
    def splits(self) -> str:
        """URI of the register of splits, shared by all runs."""
        return self.uri.rstrip("/") + "/splits.csv"

    @property
    def steps(self) -> str:
        """URI of the folder with one status record for each step that began."""
        return self._in_run("steps")

    @property
    def decision(self) -> str:
        """URI of the run's ``decision.json``."""
        return self._in_run("decision.json")

    @property
    def published(self) -> str:
        """URI of the run's ``published.json``."""
        return self._in_run("published.json")

    @property
    def left_out(self) -> str:
        """URI of the list of excluded photos, written if ingestion stops because there are too many of them."""
        return self._in_run("left_out.csv")

    def checkpoints(self, step: str) -> str:
        """Return the URI of the folder of a step's checkpoints."""
        return self._in_run("checkpoints", step)
