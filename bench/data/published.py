"""Figures that papers report, for comparison: mAP in percent.

A row is a method and a column is a descriptor. None means that a figure is not reported.

References
----------
[A] Iscen, Tolias, Avrithis, Furon, Chum. Efficient Diffusion on Region Manifolds. CVPR 2017.
[B] Iscen, Avrithis, Tolias, Furon, Chum. Fast Spectral Ranking for Similarity Search. CVPR 2018.
[R] Radenović, Iscen, Tolias, Avrithis, Chum. Revisiting Oxford and Paris. CVPR 2018.
[C] Siméoni, Iscen, Tolias, Avrithis, Chum. Unsupervised (deep) object discovery for instance
    recognition. WACV 2018.
[EGT] Chang et al. Explore-Exploit Graph Traversal for Image Retrieval. CVPR 2019.
[GSS] Liu et al. Guided Similarity Separation for Image Retrieval. NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = tuple[float | None, ...]

CLASSIC = ("instre", "oxford5k", "oxford105k", "paris6k", "paris106k")

# One vector per image, R-MAC of VGG and of ResNet-101 [A]; spectral: FSR of rank 5000 [B].
GLOBAL_COLUMNS = ("R-MAC 512", "R-MAC 2048")
_GLOBAL: dict[str, tuple[Row, Row]] = {
    "cosine": ((47.7, 77.7, 70.1, 84.1, 76.8), (62.6, 83.9, 80.8, 93.8, 89.9)),
    "AQE": ((57.3, 85.4, 79.7, 88.4, 83.5), (70.5, 89.6, 88.3, 95.3, 92.7)),
    "diffusion": ((70.3, 85.7, 82.7, 94.1, 92.5), (80.5, 87.1, 87.4, 96.5, 95.4)),
    "spectral": ((70.3, 85.8, 85.0, 93.8, 92.4), (80.5, 87.5, 87.9, 96.4, 95.3)),
}

# Regions per image x dimensions. Diffusion on 105k and 106k is truncated.
REGIONAL_COLUMNS = ("5 x 512", "21 x 512", "5 x 2048", "21 x 2048")
_NONE: Row = (None,) * 5
_REGIONAL: dict[str, tuple[Row, Row, Row, Row]] = {
    "R-match": (
        _NONE,
        (55.5, 81.5, 76.5, 86.1, 79.9),
        _NONE,
        (71.0, 88.1, 85.7, 94.9, 91.3),
    ),
    "R-match + AQE": (_NONE, _NONE, _NONE, (77.1, 91.0, 89.6, 95.5, 92.5)),
    "regional, sum": (_NONE, (79.1, None, None, None, None), _NONE, _NONE),
    "regional, GMP": (
        (77.5, 91.5, 84.7, 95.6, 93.0),
        (80.0, 93.2, 90.3, 96.5, 92.6),
        (88.4, 95.0, 90.0, 96.4, 95.8),
        (89.6, 95.8, 94.2, 96.9, 95.3),
    ),
    "regional, spectral": (
        (78.4, 91.6, 86.5, 95.6, 92.4),
        _NONE,
        (88.5, 95.1, 93.0, 96.5, 95.2),
        (89.2, 95.8, None, 97.0, None),
    ),
}

# Medium and hard, with R-GeM (ResNet-101, 2048 dimensions).
REVISITED_COLUMNS = ("R-GeM medium", "R-GeM hard")
_REVISITED: dict[str, dict[str, Row]] = {
    "roxford5k": {
        "cosine": (64.67, 38.47),
        "diffusion": (72.5, 48.6),
        "EGT": (73.63, 56.29),
        "GSS": (77.8, 57.5),
    },
    "rparis6k": {"cosine": (77.20, 56.32), "diffusion": (89.6, 80.0), "GSS": (92.4, 83.5)},
}
REVISITED = tuple(_REVISITED)


# One vector per image, VGG, without and with diffusion [C].
OBJECT_COLUMNS = tuple(
    f"{dataset}{with_}" for with_ in ("", " + diff.") for dataset in ("INSTRE", "Oxf5k", "Oxf105k")
)
OBJECT_DESCRIPTORS: dict[str, Row] = {
    "MAC": (48.5, 79.7, 73.9, 71.8, 87.4, 86.0),
    "R-MAC": (47.7, 77.7, 70.1, 70.3, 85.7, 82.7),
    "FS.EGM": (48.4, 77.5, 70.2, 71.2, 89.8, 87.9),
    "OS.EGM": (50.1, 79.6, 71.8, 72.7, 90.4, 88.0),
    "OS.EGM-Δ": (53.7, 79.8, 71.4, 75.4, 90.1, 84.3),
}


def of_vectors(dataset: str) -> tuple[tuple[str, ...], dict[str, Row]]:
    """Return the columns, and the figures by method, for one vector per image."""
    if dataset in _REVISITED:
        return REVISITED_COLUMNS, _REVISITED[dataset]
    return _pick(GLOBAL_COLUMNS, _GLOBAL, dataset)


def of_regions(dataset: str) -> tuple[tuple[str, ...], dict[str, Row]]:
    """Return the columns, and the figures by method, for several vectors per image."""
    return _pick(REGIONAL_COLUMNS, _REGIONAL, dataset)


def _pick(
    columns: tuple[str, ...], table: Mapping[str, tuple[Row, ...]], dataset: str
) -> tuple[tuple[str, ...], dict[str, Row]]:
    if dataset not in CLASSIC:
        return (), {}
    at = CLASSIC.index(dataset)
    return columns, {name: tuple(row[at] for row in rows) for name, rows in table.items()}
