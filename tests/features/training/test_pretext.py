"""Pretexts: the tiles, what they do not give away, the tracks, and the losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import DiffusionError
from features.images.sizes import Sides
from features.training.pretext.clips import Track, clips_of, tracks_of
from features.training.pretext.matching import match
from features.training.pretext.puzzles import NEIGHBORS, orders
from features.training.pretext.tiles import Layout, cut, without_shortcuts
from features.training.pretext.tracks import draw_batches, draw_view, matching_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_no_two_orders_agree_in_two_places():
    found = orders()
    assert found.shape == (72, 9)
    assert (np.sort(found, axis=1) == np.arange(9)).all()
    assert found[0].tolist() == list(range(9))
    agreeing = (found[:, None] == found[None]).sum(axis=2)
    assert (agreeing[~np.eye(72, dtype=bool)] <= 1).all()


@given(st.integers(33, 400), st.sampled_from([Sides(33, 32, 1), Sides(16), Sides(32, 32)]))
@settings(max_examples=60, deadline=None)
def test_tiles_never_touch(side, sides):
    try:
        layout = Layout.of(side, sides)
    except DiffusionError as error:
        assert f"got {side}" in str(error)  # noqa: PT017
        least = int(str(error).split("at least ")[1].split(" ")[0])
        assert side < least
        assert Layout.of(least, sides).tile == sides.minimum
        return
    assert layout.tile >= sides.minimum
    assert (layout.tile - sides.offset) % sides.step == 0
    places = layout.draw(20, np.random.default_rng(side))
    cells = np.stack(np.divmod(np.arange(9), 3), axis=1) * layout.cell
    # At least a pixel is free before and behind each tile in its cell, so two between tiles.
    assert (places > cells).all()
    assert (places + layout.tile < cells + layout.cell).all()
    assert places.max() + layout.tile < side
    if layout.cell - layout.tile > 3:
        assert len(np.unique((places - cells).reshape(-1, 2), axis=0)) > 1


def test_tiles_are_cut_where_they_are_placed():
    squares = torch.arange(2 * 3 * 30 * 30).view(2, 3, 30, 30)
    places = np.array([[[0, 0], [3, 5]], [[10, 2], [20, 20]]])
    tiles = cut(squares, places, 4)
    assert tiles.shape == (2, 2, 3, 4, 4)
    assert torch.equal(tiles[0, 1], squares[0, :, 3:7, 5:9])
    assert torch.equal(tiles[1, 0], squares[1, :, 10:14, 2:6])


def test_a_tile_keeps_one_channel_in_equal_light():
    tiles = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    channels = np.array([[0, 1, 2], [2, 2, 0]])
    found = without_shortcuts(tiles, channels)
    assert found.shape == tiles.shape
    np.testing.assert_allclose(found.mean(dim=(2, 3, 4)), 0.5, atol=1e-6)
    np.testing.assert_allclose(found.std(dim=(3, 4), correction=0), 0.25, atol=1e-6)
    changed = tiles.clone()
    changed[1, 1, :2] = 0  # the channels that are not kept
    assert torch.equal(without_shortcuts(changed, channels), found)
    darker = without_shortcuts(0.3 * tiles + 0.1, channels)
    np.testing.assert_allclose(darker, found, atol=1e-5)
    assert without_shortcuts(torch.ones(1, 1, 3, 4, 4), np.zeros((1, 1), int)).eq(0.5).all()


def aberrant(count, rng):
    """Squares of noise, alike everywhere, but red is shifted outwards from the middle."""
    grey = rng.random((count, 98, 98), dtype=np.float32)
    squares = np.repeat(grey[:, None, 1:-1, 1:-1], 3, axis=1)
    for row in range(3):
        for column in range(3):
            part = (slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32))
            moved = np.roll(grey, (row - 1, column - 1), axis=(1, 2))[:, 1:-1, 1:-1]
            squares[:, 0, part[0], part[1]] = moved[:, part[0], part[1]]
    return torch.from_numpy(squares)


def accuracy_of_places(prepare):
    """Learn the places of tiles from the energies of filters; return the share of new hits."""
    rng = np.random.default_rng(0)
    layout = Layout.of(96, Sides(16))

    def examples(count):
        tiles = cut(aberrant(count, rng), layout.draw(count, rng), layout.tile)
        tiles = prepare(tiles, rng.integers(3, size=tiles.shape[:2])).flatten(0, 1)
        return tiles - 0.5, torch.arange(9).repeat(count)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        filters, classes = torch.nn.Conv2d(3, 16, 3), torch.nn.Linear(16, 9)
    learned = [*filters.parameters(), *classes.parameters()]
    optimizer = torch.optim.Adam(learned, lr=0.03)

    def logits(x):
        return classes(10 * filters(x).square().mean(dim=(2, 3)))

    for _ in range(40):
        x, place = examples(6)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(x), place).backward()
        optimizer.step()
    x, place = examples(40)
    with torch.no_grad():
        return (logits(x).argmax(dim=1) == place).float().mean().item()


def test_chromatic_aberration_tells_no_place_once_it_is_removed():
    assert accuracy_of_places(lambda tiles, _: tiles) > 0.6
    # 360 tiles, a ninth by chance; the deviation of the share is 0.017.
    assert accuracy_of_places(without_shortcuts) < 1 / 9 + 4 * 0.017


def test_the_neighbours_are_those_of_the_centre():
    assert NEIGHBORS == (0, 1, 2, 3, 5, 6, 7, 8)


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_shift_is_found(down, across, seed):
    rng = np.random.default_rng(seed)
    whole = rng.random((60, 70), dtype=np.float32)
    before, after = whole[8:52, 8:62], 0.5 * whole[8 - down : 52 - down, 8 - across : 62 - across]
    places = np.array([[8, 8], [20, 30], [15, 12]])
    found, correlation = match(before, after, places, 12, 5)
    np.testing.assert_array_equal(found, places + np.array([down, across]))
    np.testing.assert_allclose(correlation, 1, atol=1e-5)


def test_correlations_are_those_of_numpy_and_stay_within_the_frame(rng):
    before, after = rng.random((2, 20, 24)).astype(np.float32)
    places = np.array([[0, 0], [12, 16], [5, 5]])
    found, correlation = match(before, after, places, 8, 3)
    for (top, left), place, value in zip(places, found, correlation, strict=True):
        patch = before[top : top + 8, left : left + 8]
        expected = {
            (a, b): np.corrcoef(patch.ravel(), after[a : a + 8, b : b + 8].ravel())[0, 1]
            for a in range(max(0, top - 3), min(12, top + 3) + 1)
            for b in range(max(0, left - 3), min(16, left + 3) + 1)
        }
        assert tuple(place) == max(expected, key=expected.__getitem__)
        assert value == pytest.approx(max(expected.values()), abs=1e-5)


def test_flat_patches_stay_and_match_nothing():
    flat, noise = np.full((20, 20), 0.5, np.float32), np.random.default_rng(0).random((20, 20))
    for before, after in ((flat, noise.astype(np.float32)), (noise.astype(np.float32), flat)):
        found, correlation = match(before, after, np.array([[4, 5]]), 8, 3)
        assert found.tolist() == [[4, 5]]
        assert correlation.tolist() == [0]
    with pytest.raises(DiffusionError, match=r"^frames: expected one size .*\(20, 20\)"):
        match(flat, flat[1:], np.array([[0, 0]]), 8, 3)


def test_patches_are_followed_through_a_clip(rng):
    whole = rng.random((60, 80), dtype=np.float32)
    frames = [whole[2 * t : 2 * t + 40, 3 * t : 3 * t + 50] for t in range(4)]
    tracks = tracks_of(frames)
    assert 1 <= len(tracks) <= 4
    for start, end in tracks:
        # The view moves down and to the right, so what it shows moves up and to the left.
        shift = (np.array(end) - start) * [40, 50, 40, 50]
        np.testing.assert_allclose(shift, [-6, -9, -6, -9], atol=1e-9)
    assert tracks_of([*frames, rng.random((40, 50), dtype=np.float32)]) == []


def test_the_matching_loss_is_that_of_its_equation():
    x, y = (
        torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64, generator=g))
        for g in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    )
    total = 0.0
    for one, other in ((x, y), (y, x)):
        for i in range(3):
            terms = [math.exp((one[i] @ other[j]).item() / 0.2) for j in range(3)]
            total -= math.log(terms[i] / sum(terms)) / 6
    assert matching_loss(x, y, temperature=0.2).item() == pytest.approx(total)
    for bad in ((x, y[:2]), (x[:1], y[:1])):
        with pytest.raises(DiffusionError, match=r"^first, last:"):
            matching_loss(*bad)
    with pytest.raises(DiffusionError, match=r"^temperature:"):
        matching_loss(x, y, temperature=0)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=25), st.integers(2, 6), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_tracks_of_one_clip_do_not_meet(clips, size, most):
    box = (0.0, 0.0, 1.0, 1.0)
    tracks = [Track(clip, 0, 1, box, box) for clip in clips]
    batches = draw_batches(tracks, size, most, np.random.default_rng(0))
    drawn = [number for batch in batches for number in batch]
    assert len(set(drawn)) == len(drawn) <= max(most, size)
    for batch in batches:
        assert 2 <= len(batch) <= size
        assert len({clips[number] for number in batch}) == len(batch)
    if len(set(clips)) > 1:
        assert batches


def test_views_of_a_patch_stay_near_it_and_within_the_frame(rng):
    for box in ((0.0, 0.5, 0.5, 1.0), (0.2, 0.2, 0.6, 0.5)):
        for _ in range(50):
            top, left, bottom, right = draw_view(box, rng).box
            assert 0 <= top < bottom <= 1 + 1e-12
            assert 0 <= left < right <= 1 + 1e-12
            high = box[2] - box[0]
            assert abs(top - box[0]) <= 0.25 * high
            assert 0.8 * high - 1e-9 <= bottom - top <= 1.2 * high + 1e-9


def test_clips_are_folders_of_frames():
    files = ["a/1.png", "a/2.png", "b.png", "c/1.png", "c/2.png", "c/d/1.png"]
    assert clips_of(files) == [[0, 1], [3, 4]]
    with pytest.raises(DiffusionError, match=r"^folder: tracks need clips: two subfolders"):
        clips_of(files[:3])
