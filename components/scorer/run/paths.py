"""Where a run keeps what must outlive its pods: checkpoints, its record, and the register of splits.

Everything lies under one URI, the pipeline's ``workspace`` parameter:

    <workspace>/splits.csv                          which photo belongs to which split, across all runs
    <workspace>/runs/<run>/checkpoints/<step>/      epochs of a step, for a retry to go on from
    <workspace>/runs/<run>/steps/<step>.json        how far each step came, for the exit handler
    <workspace>/runs/<run>/decision.json            the gate's verdict, for the exit handler
    <workspace>/runs/<run>/left_out.csv             where ingestion stopped over it: photos that it would leave out
    <workspace>/runs/<run>/published.json           the published version, for the exit handler
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workspace:
    """The places of one run under the workspace URI (folder, ``gs://`` or ``s3://``)."""

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
        """URI of the folder with one small record for each step that began."""
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
        """URI of the list of photos that ingestion would have left out, where there were too many to go on."""
        return self._in_run("left_out.csv")

    def checkpoints(self, step: str) -> str:
        """URI of the folder of a step's checkpoints."""
        return self._in_run("checkpoints", step)
