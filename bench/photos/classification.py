"""Accuracy of the network's classifier on product pictures whose class it knows."""

from __future__ import annotations

from pathlib import Path

import torch

import features
from features.images.reading import find_images, read_image

from ..table import Table
from .network import BACKBONE

# The products that are a class of ImageNet, and the number of that class.
ICONIC = {
    "Banana": 954,
    "Granny-Smith": 948,
    "Lemon": 951,
    "Orange": 950,
    "Pineapple": 953,
    "Pomegranate": 957,
    "Cabbage": 936,
    "Cucumber": 943,
    "Zucchini": 939,
    "Green-Bell-Pepper": 945,
    "Orange-Bell-Pepper": 945,
    "Red-Bell-Pepper": 945,
    "Yellow-Bell-Pepper": 945,
    "Brown-Cap-Mushroom": 947,
}


def classification(weights: Path, folder: Path) -> Table:
    """Classify the product pictures whose product is a class of ImageNet."""
    table = Table(
        "**Product pictures of classes of ImageNet**, MobileNetV2",
        ("picture", "class", "predicted class", "its probability"),
    )
    network = features.backbone(BACKBONE, weights)
    for file in find_images(folder):
        name = Path(file).stem.removesuffix("_Iconic")
        if name in ICONIC:
            image = torch.from_numpy(read_image(folder / file, (network.input_size,) * 2))
            with torch.no_grad():
                outputs = network.classify(network.normalize(image.permute(2, 0, 1)[None]))
            chances = outputs.softmax(dim=1)[0]
            first = int(chances.argmax())
            table.rows.append([name, ICONIC[name], first, float(chances[first])])
    hits = sum(row[1] == row[2] for row in table.rows)
    table.notes.append(f"{hits} of {len(table.rows)} predictions are right.")
    return table
