"""Generated activation maps whose recurring objects are known."""

from __future__ import annotations

import numpy as np

SIDE, CHANNELS = 17, 96


def recurring_blobs(n_images=80, n_objects=8, n_clutter=4, seed=0):
    """Generate maps with one small recurring blob each, among unique clutter and a background.

    A kind is a pattern over the channels. Image i contains a slightly distorted blob of kind
    i % n_objects; `n_clutter` blobs that are as strong or stronger and in no other image; and a
    faint smooth background of three kinds that all images share.

    Returns
    -------
    maps : ndarray, shape (n_images, 96, 17, 17), float32
    boxes : ndarray, shape (n_images, 1, 4)
        The boxes of the recurring blobs, in cells.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5

    def kind():
        pattern = np.zeros(CHANNELS)
        pattern[rng.choice(CHANNELS, 10, replace=False)] = rng.uniform(0.5, 1.5, 10)
        return pattern

    def blob(pattern, height, centre, radius):
        distance = np.hypot(x - centre[0], y - centre[1])
        shape = np.exp(-((distance / radius) ** 2) / 2) * (distance < 2.2 * radius)
        return height * pattern[:, None, None] * shape

    objects = [kind() for _ in range(n_objects)]
    stuff = [kind() for _ in range(3)]
    maps, boxes = [], []
    for i in range(n_images):
        A = np.zeros((CHANNELS, SIDE, SIDE))
        for pattern in stuff:
            across, down = rng.uniform(0, 2 * np.pi, 2)
            wave = 1 + np.cos(x / 6 + across) * np.cos(y / 6 + down)
            A += 0.05 * pattern[:, None, None] * wave
        for _ in range(n_clutter):
            place = rng.uniform(1, SIDE - 1, 2)
            A = np.maximum(A, blob(kind(), rng.uniform(1, 2), place, rng.uniform(0.8, 1.6)))
        centre, radius = rng.uniform(3.5, SIDE - 3.5, 2), rng.uniform(0.9, 1.2)
        own = objects[i % n_objects] * rng.uniform(0.7, 1.3, CHANNELS)
        A = np.maximum(A, blob(own, rng.uniform(0.8, 1.2), centre, radius))
        noise = 0.02 * rng.standard_normal(A.shape) * (rng.random(A.shape) < 0.2)
        maps.append(np.maximum(A + noise, 0).astype(np.float32))
        boxes.append([[*(centre - 2 * radius), *(centre + 2 * radius)]])
    return np.array(maps), np.array(boxes)
