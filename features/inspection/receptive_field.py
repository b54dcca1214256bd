"""The pixels that a unit depends on, computed from the layers of its network."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import fx, nn
from torch.nn import functional

from ..networks.backbones import Backbone
from .measured import measured_spans
from .units import Network, check_layer, trunk_of

# Modules that compute each value from the values at the same position; normalisation in
# evaluation mode.
_POINTWISE: tuple[type[nn.Module], ...] = (
    nn.BatchNorm2d, nn.CELU, nn.Dropout, nn.Dropout2d, nn.ELU, nn.GELU, nn.Hardsigmoid,
    nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6,
    nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh,
)  # fmt: skip
_POINTWISE_CALLS: frozenset[Any] = frozenset(
    {
        operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv,
        torch.add, torch.sub, torch.mul, torch.relu, torch.sigmoid, torch.tanh,
        functional.dropout, functional.gelu, functional.hardswish, functional.leaky_relu,
        functional.relu, functional.relu6, functional.silu,
        "add", "add_", "sub", "mul", "mul_", "relu", "relu_", "sigmoid", "tanh", "clone",
    }
)  # fmt: skip


class _UnknownLayerError(Exception):
    """A layer whose receptive field no rule gives."""


class Span(NamedTuple):
    """Pixels along one axis: cell i sees the pixels first + stride i to last + stride i."""

    stride: int = 1
    first: int = 0
    last: int = 0

    def through(self, kernel: int, stride: int, before: int, dilation: int) -> Span:
        """Return the span behind a window of so many cells, with padding before the first one.

        Cell i of the output sees the cells stride i - before + dilation t, 0 <= t < kernel.
        """
        first = self.first - self.stride * before
        last = self.last + self.stride * (dilation * (kernel - 1) - before)
        return Span(self.stride * stride, first, last)

    def joined(self, other: Span) -> Span:
        """Return the span of cells that depend on the cells of two branches."""
        if self.stride != other.stride:
            raise _UnknownLayerError("branches of different strides")
        return Span(self.stride, min(self.first, other.first), max(self.last, other.last))


# Vertical and horizontal.
Spans = tuple[Span, Span]


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that each cell of a feature map depends on.

    Cell (row, column) depends on the pixels [offset + stride (row, column), ... + size), and on no
    others. Pairs are (vertical, horizontal).

    Attributes
    ----------
    size : tuple of int
        Height and width in pixels.
    stride : tuple of int
        Distances between the fields of neighbouring cells.
    offset : tuple of int
        Top and left edge of the field of cell (0, 0); negative, as far as zero padding is seen.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a cell's field, which may extend beyond the image.

        The pixels from left to right - 1 and from top to bottom - 1 are in it.
        """
        left, top, right, bottom = self.boxes([row, column]).tolist()
        return left, top, right, bottom

    def boxes(self, cells: ArrayLike, image: tuple[int, int] | None = None) -> NDArray[np.int64]:
        """Return the boxes (..., 4) of cells (..., 2), each given as (row, column).

        Parameters
        ----------
        cells : array_like, shape (..., 2), int
        image : tuple of int, optional
            Height and width of the image that boxes are clipped to.
        """
        start = np.asarray(cells, np.int64) * self.stride + np.array(self.offset)
        stop = start + np.array(self.size)
        if image is not None:
            start, stop = np.clip(start, 0, image), np.clip(stop, 0, image)
        return np.concatenate([start[..., ::-1], stop[..., ::-1]], axis=-1)


def receptive_field(network: Network, layer: str | None = None) -> ReceptiveField:
    """Compute which pixels the cells of a feature map depend on.

    Parameters
    ----------
    network : Backbone or RetrievalNetwork
        In evaluation mode.
    layer : str, optional
        A stage of the trunk; by default the last one.

    Returns
    -------
    ReceptiveField

    Raises
    ------
    DiffusionError
        If the stage does not exist, or its cells depend on the whole image, as they do behind
        attention and global pooling.

    Notes
    -----
    Layers are followed from the image on. With windows of k cells, dilation d, stride s and
    padding p, cell i of the output depends on cells s i - p to s i - p + d (k - 1) of the input. If
    the cells of the input see the pixels t i + f to t i + l, those of the output see those of

        t' = t s,    f' = f - t p,    l' = l + t (d (k - 1) - p).

    Element-wise layers change nothing, and branches that are added see the smallest box around
    both. The box is exact: no pixel outside it has any influence, and its edges have. Networks with
    layers that no such rule is known of, such as those of transformers, are measured: it is the
    smallest box around the gradient of a cell, in float64 and with weights that are replaced by
    positive ones, so that no two contributions cancel.

    A cell depends on the pixels of its field unequally: most on those in the middle, so that the
    effective field is smaller (Luo et al.).

    References
    ----------
    Luo, Li, Urtasun, Zemel. Understanding the Effective Receptive Field in Deep Convolutional
    Neural Networks. NIPS 2016.

    Examples
    --------
    >>> from features import backbone
    >>> receptive_field(backbone("alexnet", head=False), "conv1")
    ReceptiveField(size=(11, 11), stride=(4, 4), offset=(-2, -2))
    """
    trunk = trunk_of(network)
    stage = check_layer(trunk, layer)
    try:
        spans = _spans_of(trunk, stage)
    except _UnknownLayerError:
        vertical, horizontal = measured_spans(trunk, stage, _POINTWISE)
        spans = Span(*vertical), Span(*horizontal)
    down, across = spans
    return ReceptiveField(
        (down.last - down.first + 1, across.last - across.first + 1),
        (down.stride, across.stride),
        (down.first, across.first),
    )


def _spans_of(trunk: Backbone, stage: str) -> Spans:
    """Follow the layers of a trunk up to a stage."""
    spans: Spans = (Span(), Span())
    try:
        steps = list(trunk._steps())
    except NotImplementedError:
        raise _UnknownLayerError("no steps") from None
    for name, module in steps:
        spans = _behind(module, spans)
        if name == stage:
            return spans
    raise _UnknownLayerError(stage)


def _behind(module: nn.Module, spans: Spans) -> Spans:
    """Return the spans behind a module."""
    if isinstance(module, _POINTWISE):
        return spans
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child in module:
            spans = _behind(child, spans)
        return spans
    windows = _windows(module)
    if windows is not None:
        down, across = (span.through(*window) for span, window in zip(spans, windows, strict=True))
        return down, across
    if type(module).__module__.startswith("torch.nn"):
        raise _UnknownLayerError(type(module).__name__)
    return _behind_graph(module, spans)


def _windows(module: nn.Module) -> list[tuple[int, int, int, int]] | None:
    """Return kernel, stride, padding before and dilation along both axes; None without windows."""
    if isinstance(module, nn.Conv2d):
        kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
        if module.padding == "same":
            # As in torch, the odd cell of padding comes after the last one.
            before = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        else:
            before = (0, 0) if isinstance(module.padding, str) else _pair(module.padding)
        stride = _pair(module.stride)
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        before = _pair(module.padding)
        dilation = _pair(module.dilation) if isinstance(module, nn.MaxPool2d) else (1, 1)
    elif isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d):
        left, _, top, _ = module.padding
        kernel, stride, before, dilation = (1, 1), (1, 1), (top, left), (1, 1)
    else:
        return None
    return list(zip(kernel, stride, before, dilation, strict=True))


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * 2


def _behind_graph(module: nn.Module, spans: Spans) -> Spans:
    """Return the spans behind a module with branches, by the calls that its `forward` makes."""
    try:
        graph = fx.Tracer().trace(module)
    except Exception as error:  # of a `forward` that depends on values
        raise _UnknownLayerError(f"{type(module).__name__} ({error})") from None
    found: dict[fx.Node, Spans] = {}
    for node in graph.nodes:
        inputs = [found[source] for source in node.all_input_nodes if source in found]
        if node.op == "placeholder":
            found[node] = spans
        elif node.op == "get_attr" or (node.op != "output" and not inputs):
            continue  # a constant
        elif node.op == "call_module" and len(inputs) == 1:
            found[node] = _behind(module.get_submodule(str(node.target)), inputs[0])
        elif node.op == "output" or node.target in _POINTWISE_CALLS or _joins_channels(node):
            found[node] = _joined(inputs)
            if node.op == "output":
                return found[node]
        else:
            raise _UnknownLayerError(str(node.target))
    raise _UnknownLayerError(type(module).__name__)


def _joins_channels(node: fx.Node) -> bool:
    """Return whether a call concatenates the channels of maps, which moves no position."""
    dimension = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return node.target in (torch.cat, torch.concat) and dimension in (1, -3)


def _joined(inputs: list[Spans]) -> Spans:
    down, across = inputs[0]
    for others in inputs[1:]:
        down, across = down.joined(others[0]), across.joined(others[1])
    return down, across
