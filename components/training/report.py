"""The page of a training: the learning curves of both phases."""

from pathlib import Path

from components.scorer.fit.checkpoints import Curves, best_epoch
from components.scorer.model.auxiliary_heads import Heads
from components.scorer.parameters import as_parameters
from components.scorer.report.learning_curves import plot
from components.scorer.report.page import Page, chart, table, text
from components.scorer.settings import Training


def write_report(
    file: str | Path,
    settings: Training,
    told: Heads,
    reads: str,
    head: Curves,
    network: Curves,
    closed: bool,
    worth: str = "",
) -> None:
    """Write the page.

    Args:
        file: where to.
        settings: of this training.
        told: the jobs and attributes that it learnt.
        reads: what it reads of faces, in words.
        head: curves of the head phase (``loss``, ``val_loss``, ``seconds``); empty when it had no epoch.
        network: curves of the phase that trains everything, likewise.
        closed: whether the head was fitted in closed form, and the network left as it was.
        worth: of pretraining, in words; empty where the pipeline did none.
    """
    then = "in closed form" if closed else "then the whole network (NIMA)"
    page = Page("Training", f"The score head on the encoder's features, {then}.")
    phases = {"The head": head, "The whole network": network}
    for heading, curves in phases.items():
        if closed and curves:
            page.section(heading, text(_closed(curves)))
        elif curves:
            page.section(
                heading,
                chart(plot(curves, best_epoch(curves), "squared EMD", "validation"), f"{heading}: loss by epoch"),
                text(_words(curves)),
            )
    if worth:
        page.section("Whether pretraining helps", text(worth))
    page.section("Faces", text(reads))
    page.section("What it can be told and asked", text(_heads(told, settings)))
    rows = [{"setting": name, "value": str(value)} for name, value in as_parameters(settings).items()]
    page.section("Settings", table(rows))
    page.write(file)


def _heads(told: Heads, settings: Training) -> str:
    jobs = (
        f"It can be told the job: {', '.join(told.jobs)}."
        if told.jobs
        else f"It knows no job: no value in the column {settings.job!r} has {settings.minimum_job} training photos."
    )
    attributes = f"It has learnt: {', '.join(told.attributes)}." if told.attributes else "It has learnt no attribute."
    return f"{jobs} {attributes}"


def _closed(curves: Curves) -> str:
    return (
        f"It was fitted in closed form, on the network as it is, in {curves['seconds'][0]:.0f} seconds. The squared EMD"
        f" is {curves['val_loss'][0]:.4f} on photos that are left out one by one, and {curves['loss'][0]:.4f} on those"
        " that it was fitted to: the validation split's as well, for no epoch has to be chosen by them."
    )


def _words(curves: Curves) -> str:
    kept, minutes = best_epoch(curves), sum(curves["seconds"]) / 60
    return (
        f"Epoch {kept} of {len(curves['loss'])} was kept (dotted line): the lowest loss on the validation split,"
        f" {curves['val_loss'][kept - 1]:.4f}. All epochs took {minutes:.1f} minutes."
    )
