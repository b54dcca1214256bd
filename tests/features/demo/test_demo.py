"""The demo: its split, its table, its index and its page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import diffusion
from diffusion import DiffusionError
from features.demo import digits as demo
from features.demo import objects as demo_objects
from features.demo import report
from tests.support.pages import Page, pixels_of

DESCRIPTORS = ["raw pixels", "CNN descriptors"]
METHODS = ["cosine", "AQE", "alpha-QE", "DBA + alpha-QE", "diffusion, cosine", "diffusion"]


@pytest.fixture(autouse=True, scope="module")
def small_demo():
    """Draw fewer and smaller scenes than the demo does, and take time once."""
    fewer = {"n_objects": 3, "images_per_object": 6, "size": 129, "n_distractors": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_objects, "SCENES", fewer)
        patch.setattr(demo_objects, "SETTINGS", {"dimension": 16, "restart": 0.3})
        patch.setattr(demo, "SETTINGS", replace(demo.SETTINGS, repeats=1))
        yield


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run the demo once; return what it returned and what it said."""
    said: list[str] = []
    folder = tmp_path_factory.mktemp("work") / "new" / "demo"
    return demo.run(folder, progress=False, output=said.append), "\n".join(said)


@pytest.fixture(scope="module")
def page(outcome):
    return Page(Path(outcome[0]["report"]).read_text(encoding="utf-8"))


# --- the data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_whole_and_seeded(seed):
    parts = demo.split(50, n_training=7, n_queries=11, seed=seed)
    assert [len(part) for part in parts] == [7, 32, 11]
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    again = demo.split(50, n_training=7, n_queries=11, seed=seed)
    other = demo.split(50, n_training=7, n_queries=11, seed=seed + 1)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[2], other[2])


def test_no_image_is_in_two_parts():
    parts = demo._load()
    images = [{image.tobytes() for image in part.images} for part in parts]
    assert [len(part) for part in images] == [100, 1497, 200]
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    assert not images[1] & images[2]
    for part in parts:
        assert part.images.min() == 0
        assert part.images.max() == 1
        assert set(part.labels) == set(range(10))


# --- the run -------------------------------------------------------------------------------------


def test_table_has_every_method_on_either_descriptors(outcome):
    rows = outcome[0]["rows"]
    assert [(row["descriptors"], row["method"]) for row in rows] == [
        (descriptors, method) for descriptors in DESCRIPTORS for method in METHODS
    ]
    assert all(0 < row["mean_ap"] <= 100 and row["milliseconds"] > 0 for row in rows)


@pytest.mark.parametrize("descriptors", DESCRIPTORS)
def test_expansion_is_above_cosine_and_diffusion_above_all(outcome, descriptors):
    value = {
        row["method"]: row["mean_ap"]
        for row in outcome[0]["rows"]
        if row["descriptors"] == descriptors
    }
    assert value["cosine"] < min(value[method] for method in METHODS[1:])
    assert value["diffusion"] > max(value[method] for method in METHODS[:-1])


def test_pixel_rows_agree_with_plain_numpy(outcome):
    _, gallery, queries = demo._load()
    X, Q = (part.images.reshape(len(part.images), -1) for part in (gallery, queries))
    X, Q = (V / np.linalg.norm(V, axis=1, keepdims=True) for V in (X, Q))
    values = []
    for query, label in zip(Q, queries.labels, strict=True):
        found = np.flatnonzero(gallery.labels[np.argsort(-(X @ query))] == label)
        values.append(np.mean(np.arange(1, len(found) + 1) / (found + 1)))
    assert outcome[0]["rows"][0]["mean_ap"] == pytest.approx(100 * np.mean(values), abs=0.01)


def test_what_is_said_agrees_with_what_is_returned(outcome):
    result, said = outcome
    lines = said.splitlines()
    for row in result["rows"]:
        assert any(
            line.startswith(row["descriptors"])
            and row["method"] in line
            and f"{row['mean_ap']:.1f}" in line
            for line in lines
        )
    assert f"{result['graph']['nodes']} nodes, {result['graph']['edges']} edges" in said
    solver = result["solver"]
    assert solver["name"] == "local"
    assert f"{solver['work']:,} multiplications" in said
    # Less than twenty iterations of conjugate gradient.
    assert 0 < solver["work"] < 20 * 2 * result["graph"]["edges"]
    assert result["report"] in said


def test_index_is_of_the_gallery_alone_and_loads(outcome):
    result, _ = outcome
    ranker = diffusion.load(result["index"], verify=True)
    graph = ranker.graph_
    assert result["graph"] == {
        "nodes": 1497,
        "edges": graph.n_edges,
        "components": graph.n_components,
        "isolated": graph.n_isolated,
    }
    assert graph.n_nodes == 1497
    scores, ids = ranker.search(np.ones(64), k=5)
    assert (ids >= 0).all()
    assert (np.diff(scores) <= 0).all()


def test_objects_are_found_above_what_is_strong(outcome):
    result, said = outcome
    objects = result["objects"]
    precision = objects["precision"]
    assert list(precision) == [
        "uniform map", "feature saliency", "its fifth power", "peaks of objects", "object saliency",
    ]  # fmt: skip
    assert 0 < precision["uniform map"] < precision["feature saliency"] < 1
    assert precision["object saliency"] > precision["feature saliency"] + 0.05
    assert objects["above"] > 0.6
    assert objects["pointing"] > 0.6
    assert f"true box in {100 * objects['pointing']:.0f} %" in said
    page = Page(Path(objects["page"]).read_text(encoding="utf-8"))
    # One scene of each of three objects, and the one where it went worst.
    assert len(page.attributes("section")) in (3, 4)
    text = " ".join(page.texts)
    assert "the worst result" in text
    assert "visual words" in text
    for name, value in precision.items():
        assert f"{name} {100 * value:.1f} %" in text
        assert f"{name} {100 * value:.1f} %" in said


@pytest.mark.slow
def test_it_runs_into_its_own_folder_again_with_the_same_outcome(outcome):
    result, _ = outcome
    again = demo.run(Path(result["report"]).parent, progress=False, output=lambda text: None)
    for run in (result, again):
        for row in run["rows"]:
            row.pop("milliseconds", None)
    assert again == result


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffusionError, match=r"^folder: "):
        demo.run(tmp_path / "file", progress=False)


# --- the page ------------------------------------------------------------------------------------


def test_page_holds_the_query_and_ten_results_twice(page):
    images = page.attributes("img")
    assert len(images) == 21
    assert all(image["alt"] for image in images)
    assert all(pixels_of(image["src"]).shape == (8, 8) for image in images)
    assert len(page.attributes("ol")) == 2


def test_page_shows_the_query_that_gains_most(outcome, page):
    result, _ = outcome
    _, _, queries = demo._load()
    image, label = queries.images[result["query"]], queries.labels[result["query"]]
    shown = page.attributes("img")[0]
    np.testing.assert_array_equal(pixels_of(shown["src"]), np.round(255 * (1 - image)))
    assert str(label) in shown["alt"]
    text = " ".join(page.texts)
    assert f"Query {result['query']} is the one" in text


def test_page_marks_each_result_in_words(page):
    marks = [attributes["class"] for attributes in page.attributes("li") if "class" in attributes]
    assert len(marks) == 20
    assert set(marks) <= {"right", "wrong"}
    assert [text.strip() for text in page.texts if text in (" right", " wrong")] == marks


def test_page_needs_nothing_from_elsewhere(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    for _, attributes in page.elements:
        assert not {"srcset", "onclick", "onload"} & attributes.keys()
    # The page of results, beside it.
    links = [(tag, given["href"]) for tag, given in page.elements if "href" in given]
    assert links == [("a", "search.html")]
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert "//" not in page.style


def test_the_page_of_results_shows_the_same_query_and_others(outcome, page):
    result, said = outcome
    assert f"Wrote {result['search']}: this query and 19 others" in said
    text = Path(result["search"]).read_text(encoding="utf-8")
    data, pictures = Page(text).stored()
    assert len(data["queries"]) == 20
    assert data["queries"][0]["name"].startswith(f"query {result['query']}, a handwritten ")
    _, gallery, queries = demo._load()
    np.testing.assert_array_equal(
        pixels_of(pictures[0]), np.round(255 * (1 - queries.images[result["query"]]))
    )
    numbers = [int(name.partition("(no. ")[2].rstrip(")")) for name in data["items"]]
    for name, number, picture in zip(data["items"], numbers, pictures[20:], strict=True):
        assert name.startswith(f"{gallery.labels[number]} ")
        np.testing.assert_array_equal(
            pixels_of(picture), np.round(255 * (1 - gallery.images[number]))
        )
    # Its results are those that the report shows after diffusion.
    found = data["queries"][0]["answers"][data["own"]]["after"][:10]
    for item, shown in zip(found, page.attributes("img")[11:], strict=True):
        np.testing.assert_array_equal(pixels_of(pictures[20 + item]), pixels_of(shown["src"]))


def test_page_holds_the_table(outcome, page):
    texts = [text.strip() for text in page.texts]
    for row in outcome[0]["rows"]:
        assert row["method"] in texts
        assert f"{row['mean_ap']:.1f}" in texts
    assert len(page.attributes("caption")) == 1
    scopes = [attributes.get("scope") for attributes in page.attributes("th")]
    assert scopes.count("rowgroup") == 2
    assert scopes.count("row") == 12
    assert scopes.count("col") == 3


def test_page_reads_on_a_phone_and_in_the_dark(page):
    names = {attributes.get("name") for attributes in page.attributes("meta")}
    assert "viewport" in names
    assert "prefers-color-scheme: dark" in page.style
    assert "@media (max-width" in page.style


def test_text_on_the_page_is_escaped(tmp_path):
    image = np.zeros((2, 3), np.float32)
    ranking = report.Ranking("a < b", 50.0, image[None], np.array([1]))
    example = report.Example(7, image, 1, ranking, ranking)
    path = tmp_path / "page.html"
    rows = [report.Row("<i>", "x & y", 1.0, 1.0)]
    gains = report.Gains.of(np.array([-2.0, 0.0, 1.0, 3.0]))
    how = {"gains": gains, "nodes": 3, "graph": "<b>", "settings": demo.SETTINGS}
    report.write(path, rows, example, **how, search="'>.html")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert {"a < b ", "<i>", "x & y"} <= set(parsed.texts)
    text = " ".join(" ".join(parsed.texts).split())
    assert "graph of the CNN descriptors has <b>." in text
    assert "2 improve and 1 get worse. The median gain is 0.5 points" in text
    assert "the largest loss is 2.0 points." in text
    assert [pixels_of(image["src"]).shape for image in parsed.attributes("img")] == [(2, 3)] * 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_ink_is_dark_where_the_image_is_one():
    image = np.array([[0, 0.5, 1], [2, -1, 0.25]], np.float32)
    np.testing.assert_array_equal(report.ink(image), [[255, 128, 0], [0, 255, 191]])


def test_tables_of_the_terminal_line_up():
    rows = [report.Row("raw pixels", "cosine", 5.0, 0.1), report.Row("raw pixels", "x", 99.9, 12.3)]
    lines = demo._format(rows).splitlines()[:3]
    assert all(len(a) == len(b) for a, b in pairwise(lines))
