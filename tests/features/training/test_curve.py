"""Curves of trainings: where their points lie, and what is done without Matplotlib."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from diffusion import DiffusionError
from features.training.curve import write_curve

_SVG = "{http://www.w3.org/2000/svg}"


def points(path):
    """Return the points (x, y) of each curve by its name, in the picture's own units."""
    found = {}
    for group in ElementTree.parse(path).getroot().iter(f"{_SVG}g"):
        line = group.find(f"{_SVG}path")
        if group.get("id") in ("loss", "mAP, %") and line is not None:
            numbers = re.findall(r"[-\d.]+", line.get("d"))
            found[group.get("id")] = np.array(numbers, float).reshape(-1, 2)
    return found


def test_points_lie_where_the_values_are(tmp_path):
    path = tmp_path / "c.svg"
    write_curve(path, "a < $b$", [None, 2.0, 1.0, 0.0], [10.0, None, 10.0, 30.0])
    curves = points(path)
    loss, precision = curves["loss"], curves["mAP, %"]
    step = loss[1, 0] - loss[0, 0]
    assert step > 0
    np.testing.assert_allclose(loss[:, 0], loss[0, 0] + step * np.arange(3), atol=0.01)
    np.testing.assert_allclose(precision[:, 0], loss[0, 0] + step * np.array([-1, 1, 2]), atol=0.01)
    # Down the page is down in value: 2, 1, 0 and 10, 10, 30.
    assert loss[0, 1] < loss[1, 1]
    assert loss[1, 1] * 2 == pytest.approx(loss[0, 1] + loss[2, 1], abs=0.01)
    assert precision[0, 1] == pytest.approx(precision[1, 1], abs=0.01)
    assert precision[2, 1] < precision[0, 1]
    texts = {element.text for element in ElementTree.parse(path).getroot().iter(f"{_SVG}text")}
    assert {"a < $b$", "epoch", "loss", "mAP, %", "0", "1", "2", "3"} <= texts


@pytest.mark.parametrize("flat", [[None, 1.0], [None, 0.0], [None], [0.5, 0.5]])
def test_equal_curves_give_equal_bytes_without_a_date(flat, tmp_path):
    for name in "ab":
        write_curve(tmp_path / name, "", flat, [None] * len(flat))
    content = (tmp_path / "a").read_text()
    assert content == (tmp_path / "b").read_text()
    assert "nan" not in content
    assert "date" not in content


def test_without_matplotlib_nothing_is_drawn_and_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r"Matplotlib \(pip install .*\[plot\]"):
        write_curve(tmp_path / "c.svg", "", [1.0], [None])
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"absent/c\.svg: cannot be written"):
        write_curve(tmp_path / "absent" / "c.svg", "", [1.0], [None])
