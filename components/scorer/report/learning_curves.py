"""Learning curves as a chart, the same for every training."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def plot(curves: Mapping[str, Sequence[float]], kept: int, measure: str, unseen: str, title: str = "") -> Figure:
    """The loss by epoch, on what was trained on and on what was not; the epoch that was kept is marked.

    Args:
        curves: ``loss`` and ``val_loss``, a value an epoch.
        kept: The epoch whose weights were kept, from 1.
        measure: name of the loss.
        unseen: name of the photos that ``val_loss`` was measured on.
        title: above the chart, which is then made for two to stand side by side.
    """
    figure = Figure(figsize=(4.5, 3.2) if title else (7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    epochs = range(1, len(curves["loss"]) + 1)
    axes.plot(epochs, curves["loss"], marker="o", markersize=3, label="trained on")
    axes.plot(epochs, curves["val_loss"], marker="o", markersize=3, label=unseen)
    axes.axvline(kept, linewidth=1, linestyle=":", color="gray")
    axes.set_xlabel("epoch")
    axes.set_ylabel(measure)
    axes.set_ylim(0, 1.05 * max(*curves["loss"], *curves["val_loss"]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure
