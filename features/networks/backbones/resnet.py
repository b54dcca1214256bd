"""ResNet-18, 50 and 101."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from diffusion.validation import check_choice

from .base import Backbone, Sides, Stage, check_classes

# Number of blocks in each layer.
_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class ResNet(Backbone):
    """A residual network, with the parameter names of torchvision.

    Parameters
    ----------
    name : {"resnet18", "resnet50", "resnet101"}, default "resnet50"
    classes : int >= 1 or None, default 1000

    Notes
    -----
    As in the weights of torchvision, the stride of a bottleneck block is in its 3x3 convolution,
    not in its first 1x1 convolution as in the paper.

    References
    ----------
    He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016.
    """

    last = "layer4"
    sides = Sides(32)

    def __init__(self, name: str = "resnet50", classes: int | None = 1000) -> None:
        super().__init__()
        self.name = check_choice(name, "name", tuple(_DEPTHS))
        classes = check_classes(classes)
        block: type[_Basic] | type[_Bottleneck] = _Basic if name == "resnet18" else _Bottleneck
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = {"conv1": Stage(64, 2), "pool1": Stage(64, 4)}
        before = 64
        for number, depth in enumerate(_DEPTHS[name]):
            width, stride = 64 << number, 1 if number == 0 else 2
            blocks = []
            for first in (True, *[False] * (depth - 1)):
                blocks.append(block(before, width, stride if first else 1))
                before = width * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            self.stages[f"layer{number + 1}"] = Stage(before, 4 << number)
        if classes is not None:
            self.codes = ("fc",)
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(before, classes)

    def _steps(self) -> Iterable[tuple[str | None, nn.Module]]:
        start = [
            (None, self.conv1),
            (None, self.bn1),
            ("conv1", self.relu),
            ("pool1", self.maxpool),
        ]
        return [*start, *((f"layer{i}", getattr(self, f"layer{i}")) for i in range(1, 5))]

    def _head_steps(self) -> Iterator[tuple[str | None, nn.Module]]:
        yield None, self.avgpool
        yield None, nn.Flatten()
        yield "fc", self.fc


class _Block(nn.Module):
    """A residual block x + f(x), with a projection of x if the shape changes."""

    expansion: int

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        after = width * self.expansion
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(after),
            )

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        skipped = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + skipped)


class _Basic(_Block):
    """A block of two 3x3 convolutions."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__(before, width, stride)
        self.conv1, self.bn1 = _convolution(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3), nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class _Bottleneck(_Block):
    """A block of a 1x1 convolution to a quarter of the channels, a 3x3 and a 1x1 one back."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__(before, width, stride)
        self.conv1, self.bn1 = _convolution(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, 4 * width, 1), nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def _convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
