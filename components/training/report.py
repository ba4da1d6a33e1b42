"""Training report: the learning curves of both phases."""

from pathlib import Path

from components.scorer.fit.checkpoints import History, best_epoch
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.parameters import as_parameters
from components.scorer.report.learning_curves import plot
from components.scorer.report.page import Page, chart, paragraph, table
from components.scorer.settings import Training


def write_report(
    file: str | Path,
    settings: Training,
    head_spec: HeadSpec,
    face_summary: str,
    head: History,
    network: History,
    is_ridge: bool,
    ablation: str = "",
) -> None:
    """Write the training report.

    Args:
        file: Path of the HTML file.
        settings: Settings of this training.
        head_spec: Jobs and attributes that were learnt.
        face_summary: Description of the face inputs.
        head: Curves of the head phase (``loss``, ``val_loss``, ``seconds``); empty if it had no epoch.
        network: Curves of the phase that trains the whole network, in the same form.
        is_ridge: True if the head was fitted in closed form and the network stayed frozen.
        ablation: Result of the pretraining ablation in words; empty if the pipeline did no pretraining.
    """
    method = "in closed form" if is_ridge else "then the whole network (NIMA)"
    page = Page("Training", f"The score head on the encoder's features, {method}.")
    phases = {"The head": head, "The whole network": network}
    for heading, curves in phases.items():
        if is_ridge and curves:
            page.section(heading, paragraph(_ridge_sentence(curves)))
        elif curves:
            page.section(
                heading,
                chart(plot(curves, best_epoch(curves), "squared EMD", "validation"), f"{heading}: loss by epoch"),
                paragraph(_curves_sentence(curves)),
            )
    if ablation:
        page.section("Whether pretraining helps", paragraph(ablation))
    page.section("Faces", paragraph(face_summary))
    page.section("What it can be told and asked", paragraph(_heads_sentence(head_spec, settings)))
    rows = [{"setting": name, "value": str(value)} for name, value in as_parameters(settings).items()]
    page.section("Settings", table(rows))
    page.write(file)


def _heads_sentence(head_spec: HeadSpec, settings: Training) -> str:
    jobs = (
        f"It can be told the job: {', '.join(head_spec.jobs)}."
        if head_spec.jobs
        else f"It knows no job: no value in the column {settings.job!r} has {settings.minimum_job} training photos."
    )
    attributes = (
        f"It has learnt: {', '.join(head_spec.attributes)}." if head_spec.attributes else "It has learnt no attribute."
    )
    return f"{jobs} {attributes}"


def _ridge_sentence(curves: History) -> str:
    return (
        f"It was fitted in closed form, on the network as it is, in {curves['seconds'][0]:.0f} seconds. The squared EMD"
        f" is {curves['val_loss'][0]:.4f} on photos that are left out one by one, and {curves['loss'][0]:.4f} on those"
        " that it was fitted to: the validation split's as well, for no epoch has to be chosen by them."
    )


def _curves_sentence(curves: History) -> str:
    best, minutes = best_epoch(curves), sum(curves["seconds"]) / 60
    return (
        f"Epoch {best} of {len(curves['loss'])} was kept (dotted line): the lowest loss on the validation split,"
        f" {curves['val_loss'][best - 1]:.4f}. All epochs took {minutes:.1f} minutes."
    )
