"""MobileNetV2."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .base import Backbone, Sides, Stage, check_classes

# Expansion, channels, blocks and stride of each group, from table 2 of the paper.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST, _LAST = 32, 1280
# The block that halves the map for the last time. The output of its first convolution is a stage of
# its own: it is the last map before that, with many channels, and its values are >= 0.
_HALVING = 14


class MobileNetV2(Backbone):
    """MobileNetV2 of width 1.0, with the parameter names of torchvision.

    The stages are named "block0" (the first convolution) to "block18" (the last convolution).
    "block14_expansion" is the first convolution of block 14, before the last stride.

    Parameters
    ----------
    classes : int >= 1 or None, default 1000

    Notes
    -----
    Mean, standard deviation and sides are those of weights converted from TensorFlow. For sides of
    32 k + 1 pixels, the one-sided padding of TensorFlow equals the symmetric padding used here. For
    weights trained by torchvision, pass ``mean=IMAGENET_MEAN, std=IMAGENET_STD``.

    References
    ----------
    Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks.
    CVPR 2018.
    """

    name = "mobilenet_v2"
    last = "block18"
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    sides = Sides(33, 32, 1)
    input_size = 225

    def __init__(self, classes: int | None = 1000) -> None:
        super().__init__()
        classes = check_classes(classes)
        blocks: list[nn.Module] = [_convolution(3, _FIRST, 3, stride=2)]
        self.stages = {"block0": Stage(_FIRST, 2)}
        before, reached = _FIRST, 2
        for expansion, channels, count, stride in _GROUPS:
            reached *= stride
            for number in range(count):
                if len(blocks) == _HALVING:
                    self.stages[f"block{_HALVING}_expansion"] = Stage(
                        before * expansion, reached // 2
                    )
                self.stages[f"block{len(blocks)}"] = Stage(channels, reached)
                blocks.append(_Inverted(before, channels, 1 if number else stride, expansion))
                before = channels
        self.stages[f"block{len(blocks)}"] = Stage(_LAST, reached)
        blocks.append(_convolution(before, _LAST, 1))
        self.features = nn.Sequential(*blocks)
        if classes is not None:
            self.codes = ("fc",)
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(_LAST, classes))

    def _steps(self) -> Iterator[tuple[str | None, nn.Module]]:
        for number, block in enumerate(self.features):
            if isinstance(block, _Inverted) and number == _HALVING:
                yield f"block{number}_expansion", block.conv[0]
                yield f"block{number}", block.conv[1:]
            else:
                yield f"block{number}", block

    def _head_steps(self) -> Iterator[tuple[str | None, nn.Module]]:
        yield None, nn.AdaptiveAvgPool2d((1, 1))
        yield None, nn.Flatten()
        yield None, self.classifier[0]
        yield "fc", self.classifier[1]


class _Inverted(nn.Module):
    """An inverted residual block.

    A 1x1 convolution to more channels, a 3x3 depthwise convolution and a 1x1 convolution back
    without a ReLU, plus the input if the shapes agree. All modules are in one Sequential, `conv`,
    to match the parameter names of torchvision.
    """

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and before == after
        width = before * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_convolution(before, width, 1))
        layers.append(_convolution(width, width, 3, stride=stride, groups=width))
        layers.append(nn.Conv2d(width, after, kernel_size=1, bias=False))
        layers.append(nn.BatchNorm2d(after))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _convolution(
    before: int, after: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(inplace=True),
    )
