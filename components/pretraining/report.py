"""Pretraining report: learning curves, and originals beside their reconstructions."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from components.scorer.fit.checkpoints import History, best_epoch
from components.scorer.parameters import as_parameters
from components.scorer.report.learning_curves import plot
from components.scorer.report.page import Page, chart, gallery, paragraph, photo, table
from components.scorer.settings import Pretraining

_STARTS = {
    "autoencoder": "A convolutional autoencoder learnt to redraw portraits from a narrow code.",
    "denoising": "A convolutional autoencoder learnt to redraw portraits from noisy copies of them.",
    "imagenet": "Nothing was trained here: the encoder starts from ImageNet weights.",
    "none": "Nothing was trained here: the encoder starts from random or given weights.",
}


def write_report(
    file: str | Path, settings: Pretraining, curves: History, panel: tuple[np.ndarray, np.ndarray] | None
) -> None:
    """Write the pretraining report.

    Args:
        file: Path of the HTML file.
        settings: Settings of this pretraining.
        curves: ``loss``, ``val_loss`` and ``seconds``, one value per epoch; empty if nothing was trained.
        panel: Originals and reconstructions, each ``[n, h, w, 3]``, 0..1; None to show no photo.
    """
    page = Page("Pretraining", _STARTS[settings.start])
    if curves:
        figure = plot(curves, best_epoch(curves), "mean squared error", "held out")
        page.section("Reconstruction error", chart(figure, "Error by epoch"), paragraph(_error_sentence(curves)))
    if panel:
        pairs = [np.concatenate(pair, axis=1) for pair in zip(*panel, strict=True)]
        pictures = [photo(_jpeg(pair), "original, reconstruction", side=240) for pair in pairs]
        page.section("Held-out photos and what the code keeps of them", gallery(pictures))
    elif curves:
        page.section("Photos", paragraph("Photos are not shown: show_photos is off, since they are people's faces."))
    rows = [{"setting": name, "value": str(value)} for name, value in as_parameters(settings).items()]
    page.section("Settings", table(rows))
    page.write(file)


def _error_sentence(curves: History) -> str:
    first, last = curves["val_loss"][0], curves["val_loss"][-1]
    seconds = sum(curves["seconds"])
    return (
        f"On photos held out from the pool the mean squared error (pixels 0 to 1) went from {first:.4f} after the"
        f" first epoch to {last:.4f} after the last of {len(curves['loss'])}, in {seconds / 60:.1f} minutes."
    )


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).clip(0, 255).astype("uint8")).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
