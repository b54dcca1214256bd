"""Photos in which three patterns recur, and settings with which they are found."""

from __future__ import annotations

import features
from features.objects.egm import EGM
from features.settings import DiscoverySettings, ImageSettings, NetworkSettings, RunSettings
from tests.support.photos import pattern, png
from tests.support.settings import take

# Height and width; the longer side becomes 120, and what is smaller stays.
SIZES = ((100, 150), (150, 100), (110, 90))
FITTED = ((80, 120), (120, 80), (110, 90))
N = 15
# Low thresholds, so that photos have several regions.
SETTINGS = {
    "dimension": 8,
    "k": 4,
    "neighbors": 5,
    "map_beta": 5.0,
    "feature_threshold": 0.0,
    "object_egm": EGM(exponent=1.0, threshold=0.15),
}


def photo(number):
    """Return a photo that shows one of three patterns on a ground of its own."""
    height, width = SIZES[number % 3]
    image = pattern(height, width, seed=100 + number) // 3
    image[20:75, 25:80] = pattern(55, 55, seed=number // 3 % 3)
    return image


def write_photos(folder):
    for number in range(N):
        path = folder / ("", "b")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(photo(number)))


def discover_in(photos, out, weights, **settings):
    """Discover in photos, in small batches."""
    settings = {"size": 120, "batch_size": 3, "workers": 2, "pictures": 2, **settings}
    settings.setdefault("discovery", DiscoverySettings(**SETTINGS))
    return features.discover_folder(
        photos,
        out,
        NetworkSettings("alexnet", weights),
        images=take(ImageSettings, settings),
        run=take(RunSettings, settings),
        **settings,
    )
