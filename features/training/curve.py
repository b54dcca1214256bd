"""A plot of the loss and the mAP of a training, as one SVG file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from diffusion.storage import errors_named, replacing

_LOSS, _PRECISION = "#b04a00", "#0057a8"


def write_curve(
    path: str | os.PathLike[str],
    title: str,
    losses: Sequence[float | None],
    precisions: Sequence[float | None],
) -> None:
    """Plot the curves of a training, or warn if Matplotlib is not installed.

    Parameters
    ----------
    path : path-like
    title : str
    losses : sequence of float or None
        The loss after each epoch, on the left axis, or None where there is none. The first entry
        belongs to the untrained network.
    precisions : sequence of float or None
        The mAP in percent after each epoch, on the right axis, or None where there is none.

    Raises
    ------
    DiffusionError
        If the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        message = "no curve is drawn without Matplotlib (pip install 'diffusion-rerank[plot]')"
        warnings.warn(message, stacklevel=2)
        return
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    left = figure.subplots()
    left.set_title(title, parse_math=False)
    left.set_xlabel("epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlim(-0.5, len(losses) - 0.5)
    for axes, name, colour, values in (
        (left, "loss", _LOSS, losses),
        (left.twinx(), "mAP, %", _PRECISION, precisions),
    ):
        known = {epoch: value for epoch, value in enumerate(values) if value is not None}
        axes.plot(list(known), list(known.values()), "o-", color=colour, gid=name)
        axes.set_ylabel(name, color=colour)
        axes.tick_params(axis="y", colors=colour)
        axes.yaxis.set_visible(bool(known))
    left.set_ylim(bottom=0)
    # Text stays text, and equal curves give equal bytes.
    style = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "training"})
    with style, errors_named(path), replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
