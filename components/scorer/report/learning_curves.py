"""Chart of learning curves, used in the reports of pretraining and training."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def plot(
    curves: Mapping[str, Sequence[float]], kept_epoch: int, loss_name: str, validation_name: str, title: str = ""
) -> Figure:
    """Plot training and validation loss by epoch, with a line at the epoch whose weights were kept.

    Args:
        curves: ``loss`` and ``val_loss``, one value per epoch.
        kept_epoch: Epoch whose weights were kept, from 1.
        loss_name: Name of the loss.
        validation_name: Name of the validation photos, on which ``val_loss`` was measured.
        title: Title above the chart; a chart with a title is narrower, so that two fit side by side.
    """
    figure = Figure(figsize=(4.5, 3.2) if title else (7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    epochs = range(1, len(curves["loss"]) + 1)
    axes.plot(epochs, curves["loss"], marker="o", markersize=3, label="trained on")
    axes.plot(epochs, curves["val_loss"], marker="o", markersize=3, label=validation_name)
    axes.axvline(kept_epoch, linewidth=1, linestyle=":", color="gray")
    axes.set_xlabel("epoch")
    axes.set_ylabel(loss_name)
    axes.set_ylim(0, 1.05 * max(*curves["loss"], *curves["val_loss"]))
    axes.locator_params("x", integer=True)
    axes.legend(frameon=False)
    return figure
