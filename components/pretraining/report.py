"""The page of a pretraining: curves, and originals beside their reconstructions."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from components.scorer.checkpoints import Curves
from components.scorer.page import Page, chart, gallery, photo, table, text
from components.scorer.settings import Pretraining, as_parameters

_STARTS = {
    "autoencoder": "A convolutional autoencoder learnt to redraw portraits from a narrow code.",
    "denoising": "A convolutional autoencoder learnt to redraw portraits from noisy copies of them.",
    "imagenet": "Nothing was trained here: the encoder starts from ImageNet weights.",
    "none": "Nothing was trained here: the encoder starts from random or given weights.",
}


def write_report(
    file: str | Path, settings: Pretraining, curves: Curves, panel: tuple[np.ndarray, np.ndarray] | None
) -> None:
    """Write the page.

    Args:
        file: where to.
        settings: of this pretraining.
        curves: ``loss``, ``val_loss`` and ``seconds``, a value an epoch; empty when nothing was trained.
        panel: originals and reconstructions, each ``[n, h, w, 3]``, 0..1; None to show no photo.
    """
    page = Page("Pretraining", _STARTS[settings.start])
    if curves:
        page.section(
            "Reconstruction error", chart(_plot(curves), "Reconstruction error by epoch"), text(_words(curves))
        )
    if panel:
        pairs = [item for pair in zip(*panel, strict=True) for item in pair]
        captions = ["original", "reconstruction"] * len(panel[0])
        page.section(
            "Held-out photos and what the code keeps of them",
            gallery([photo(_jpeg(one), caption) for one, caption in zip(pairs, captions, strict=True)]),
        )
    elif curves:
        page.section("Photos", text("Photos are not shown: show_photos is off, since they are people's faces."))
    rows = [{"setting": name, "value": str(value)} for name, value in as_parameters(settings).items()]
    page.section("Settings", table(rows))
    page.write(file)


def _plot(curves: Curves) -> Figure:
    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots()
    epochs = range(1, len(curves["loss"]) + 1)
    axes.plot(epochs, curves["loss"], marker="o", markersize=3, label="trained on")
    axes.plot(epochs, curves["val_loss"], marker="o", markersize=3, label="held out")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _words(curves: Curves) -> str:
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
