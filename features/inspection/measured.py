"""Receptive fields that are measured, of networks whose layers follow no known rule."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from diffusion.errors import DiffusionError

from ..networks.backbones import Backbone

# The longest image on which a field is measured, in pixels.
_LONGEST = 4096


def measured_spans(
    trunk: Backbone, stage: str, pointwise: tuple[type[nn.Module], ...]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Measure stride, first and last pixel of cell 0, along both axes.

    The gradient of two neighbouring cells in the middle of an image shows which pixels they depend
    on. One axis is measured at a time, on an image that is long along this axis alone. The image is
    made longer until it extends beyond the field of the cells.

    Parameters
    ----------
    trunk : Backbone
    stage : str
    pointwise : tuple of type
        Modules that compute each value from the values at the same position.

    Raises
    ------
    DiffusionError
        If the field is the whole image, or the network is no function of this kind.
    """
    network = _positive(trunk, pointwise)
    try:
        return _along(network, stage, 0), _along(network, stage, 1)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, DiffusionError):
            raise
        reason = str(error).splitlines()[0]
        raise DiffusionError(
            f"network: expected one whose receptive field can be measured, got {trunk.name} "
            f"({reason})"
        ) from None


def _along(network: Backbone, stage: str, axis: int) -> tuple[int, int, int]:
    stride = network.stages[stage].stride
    thin = network.sides.nearest(2 * stride)
    length = network.sides.nearest(16 * stride)
    while length <= _LONGEST:
        shape = (length, thin) if axis == 0 else (thin, length)
        image = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
        maps = network(image, stage).sum(dim=1)[0]
        cells = maps.select(1 - axis, maps.shape[1 - axis] // 2)
        middle = len(cells) // 2
        one, two = (_support(cells[middle + i], image, axis) for i in (0, 1))
        if one[0] > 0 and two[1] < length - 1:
            if (two[0] - one[0], two[1] - one[1]) != (stride, stride):
                raise DiffusionError(
                    f"layer: expected the same receptive field at every position, {stage} of "
                    f"{network.name} has none"
                )
            return stride, one[0] - stride * middle, one[1] - stride * middle
        length = network.sides.nearest(2 * length)
    raise DiffusionError(
        f"layer: expected one whose units see a part of the image, each of {stage} of "
        f"{network.name} sees the whole image"
    )


def _support(cell: Tensor, image: Tensor, axis: int) -> tuple[int, int]:
    """Return the first and the last pixel along an axis that a cell depends on."""
    (gradient,) = torch.autograd.grad(cell, image, retain_graph=True)
    found = gradient[0].ne(0).any(dim=0).any(dim=1 - axis).nonzero()
    if not len(found):
        raise DiffusionError("network: expected a map that depends on the image")
    return int(found[0]), int(found[-1])


def _positive(trunk: Backbone, pointwise: tuple[type[nn.Module], ...]) -> Backbone:
    """Return a copy in float64 without a branch that is off, and with positive weights.

    Activations are left out and maxima are replaced by means, so that every path from a pixel to a
    cell counts, and random positive weights keep contributions from cancelling.
    """
    network = copy.deepcopy(trunk).cpu().double().eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                if child.dilation not in (1, (1, 1)):
                    raise DiffusionError(f"network: dilated pooling in {trunk.name} is not known")
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
            elif isinstance(child, pointwise) and not isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
        inputs = max(1, parameter.numel() // max(1, len(parameter))) if parameter.ndim > 1 else 1
        parameter.copy_(values / inputs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network
