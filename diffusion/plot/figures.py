"""Axes and colours of the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DiffusionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito (Color Universal Design, 2008), the colours with a contrast of at
# least 3 to white and to black. The neutral one is for edges, outlines and what has no value.
BLUE, ORANGE, GREEN, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#808080"

# A map of colours whose lightness rises evenly, also for colour-blind readers.
SEQUENTIAL = "viridis"


def require_matplotlib() -> None:
    """Raise a DiffusionError that names the extra if Matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise DiffusionError(
            "diffusion.plot: Matplotlib is not installed; pip install 'diffusion-rerank[plot]'"
        ) from None


def check_axes(ax: Any, name: str = "ax") -> None:
    """Raise a DiffusionError unless an argument is None or Axes, or without Matplotlib."""
    require_matplotlib()
    from matplotlib.axes import Axes

    if ax is not None and not isinstance(ax, Axes):
        raise DiffusionError(f"{name}: expected None or Matplotlib's Axes, got {ax!r:.60}")


def check_pair(axes: Any, name: str = "axes") -> None:
    """Raise a DiffusionError unless an argument is None or two Axes, or without Matplotlib."""
    require_matplotlib()
    if axes is None:
        return
    if not isinstance(axes, tuple | list | np.ndarray) or np.shape(axes) != (2,):
        raise DiffusionError(f"{name}: expected None or two of Matplotlib's Axes, got {axes!r:.60}")
    for ax in axes:
        if ax is None:
            raise DiffusionError(f"{name}: expected None or two of Matplotlib's Axes, got None")
        check_axes(ax, name)


def new_figure(width: float, height: float) -> Figure:
    """Return a figure that pyplot shows, of a size in inches."""
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def figure_of(ax: Axes) -> Figure:
    """Return the figure of Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def ink(ax: Axes) -> Any:
    """Return the colour of the text of Axes."""
    return ax.xaxis.label.get_color()


def legend(ax: Axes, **options: Any) -> None:
    """Draw a legend in the colours of the Axes."""
    ax.legend(frameon=False, labelcolor=ink(ax), fontsize="small", **options)


def colour_bar(ax: Axes, drawn: Any, label: str) -> None:
    """Draw the scale of what is coloured by value, in the colours of the Axes."""
    bar = figure_of(ax).colorbar(drawn, ax=ax, shrink=0.8)
    bar.set_label(label, color=ink(ax))
    bar.ax.tick_params(colors=ink(ax))
    bar.outline.set_visible(False)


def tidy(ax: Axes) -> None:
    """Leave away the frame where it carries no scale."""
    ax.spines[["top", "right"]].set_visible(False)
