"""The page in a file, in a browser: what it shows is what the library answers."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import diffusion
from diffusion import Fusion, page
from tests.support.browser import shown, visiting

HOSTILE = "</script><img src=x onerror=document.title='hit'><b>.png"


def picture(number):
    """The data URL of a photo of one colour."""
    file = BytesIO()
    Image.new("RGB", (24, 16), (number % 256, 90, 160)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture(scope="module")
def address(ranker, arcs, tmp_path_factory):
    """A page of two queries with a picture each, but for one that is missing."""
    path = tmp_path_factory.mktemp("page") / "p.html"
    answers = page.answers(ranker, arcs[1], ["one.png", "two.png"], k=40)
    pictures = [picture(number) for number in range(2 + len(answers.ids))]
    pictures[2] = ""
    page.write(path, answers.data, pictures)
    return path.as_uri()


@pytest.fixture(scope="module")
def texts(arcs, tmp_path_factory):
    """A page without pictures, of items with a hostile id."""
    path = tmp_path_factory.mktemp("page") / "p.html"
    ids = [f"{item} {HOSTILE}" for item in range(120)]
    ranker = diffusion.Reranker(k=12, query_k=4).fit(arcs[0], ids=ids)
    page.write(path, page.answers(ranker, arcs[1], [HOSTILE, "two"]).data)
    return path.as_uri()


def moves(q, ranker, k=40):
    """What the page should show of a query, told from complete rankings."""
    fitted = ranker.fitted()
    unit = q / np.linalg.norm(q)
    near = fitted.items.of_rows(np.argsort(-(fitted.index.vectors @ unit), kind="stable")).tolist()
    last = ranker.search(q, k)[1].tolist()
    lists = {"before": [], "after": []}
    for side, ranking in (("before", near), ("after", last)):
        word = {"before": "left", "after": "new"}[side]
        for rank, name in enumerate(ranking[:12], 1):
            places = [near.index(name) + 1, last.index(name) + 1 if name in last else f">{k}"]
            other = places[side == "before"]
            text = f"{places[0]} → {places[1]}" if places[0] != places[1] else f"{rank}"
            kept = not isinstance(other, str) and other <= 12
            lists[side].append((text if kept else f"{word}: {text}", name))
    return lists


def both(view):
    return {side: shown(view, side) for side in ("before", "after")}


def test_the_lists_and_the_moves_are_those_of_the_library(browser, address, ranker, arcs):
    with visiting(browser, address) as view:
        view.wait_for_selector("#after li")
        found = moves(arcs[1][0], ranker)
        assert both(view) == found
        assert view.locator("#name").inner_text() == "one.png"
        news = sum(text.startswith("new") for text, _ in found["after"])
        assert news
        assert view.locator("#after .new").count() == view.locator("#before .left").count() == news
        ranker.search(arcs[1][0], 40)
        percent = round(100 * float(ranker.report_.confidence[0]))
        status = view.get_by_role("status").inner_text()
        assert f"12 results shown, {news} are new" in status
        assert f"Confidence {percent}\N{NO-BREAK SPACE}%" in status
        assert view.locator("#previous").is_disabled()
        view.get_by_role("button", name="Next").click()
        view.get_by_role("heading", name="two.png").wait_for()
        assert both(view) == moves(arcs[1][1], ranker)
        assert view.locator("#next").is_disabled()
        view.get_by_label("Query", exact=True).select_option("one.png")
        assert both(view) == found


def test_every_picture_is_shown_and_the_missing_one_has_a_frame(browser, address):
    with visiting(browser, address) as view:
        view.wait_for_selector("#after img")
        frames = view.locator("#sides .frame")
        assert frames.count() == 24
        assert frames.get_by_text("no photo").count() >= 1
        sizes = view.locator("#results img").evaluate_all(
            "(images) => Promise.all(images.map((i) => i.decode().then(() => i.naturalWidth)))"
        )
        assert set(sizes) == {24}


def test_the_sliders_show_what_a_ranker_with_these_parameters_answers(
    browser, address, arcs, names
):
    seen = set()
    with visiting(browser, address) as view:
        view.wait_for_selector("#after li")
        assert not view.locator("#reset").is_visible()
        for query_k, weight in ((1, 0.75), (16, 0.75), (4, 0), (1, 3)):
            slide(view, "query_k", [1, 2, 4, 8, 16].index(query_k))
            slide(view, "weight", [0, 0.375, 0.75, 1.5, 3].index(weight))
            other = diffusion.Reranker(k=12, query_k=query_k, score=Fusion(weight))
            expected = moves(arcs[1][0], other.fit(arcs[0], ids=names))
            assert both(view) == expected
            seen.add(str(expected))
            said = f"This is with query_k {query_k} and weight {weight}."
            assert said in view.locator("#status").inner_text()
            assert view.locator(".setting .at").all_inner_texts() == [
                f"{query_k}{' (of the index)' * (query_k == 4)}",
                f"{weight}{' (of the index)' * (weight == 0.75)}",
            ]
        view.get_by_role("button", name="Settings of the index").click()
        assert view.locator("#query_k").input_value() == "2"
        assert both(view) not in map(eval, seen)
    assert len(seen) > 2


def slide(view, name, place):
    """Move a slider by its keys, which are those of the keyboard."""
    view.locator(f"#{name}").focus()
    view.keyboard.press("Home")
    for _ in range(place):
        view.keyboard.press("ArrowRight")


def test_a_result_opened_shows_its_chain(browser, address, ranker, arcs):
    with visiting(browser, address) as view:
        result = view.locator("#after .new .result").last
        name = result.locator(".name").inner_text()
        result.click()
        dialog = view.get_by_role("dialog", name=name)
        expected = ranker.explain(arcs[1][0], name, n_chains=1)
        (chain,) = expected.chains
        assert len(chain.ids) > 1
        dialog.locator(".chain").wait_for()
        assert dialog.locator(".chain .name").all_inner_texts() == ["query", *chain.ids]
        steps = [float(text.split()[-1]) for text in dialog.locator(".step").all_inner_texts()]
        assert steps == pytest.approx([chain.similarity, *chain.weights], rel=6e-3)
        text = dialog.inner_text()
        assert f"First stage: place {expected.first_rank}." in text
        assert f"After diffusion: place {expected.rank}" in text
        shares = np.array(expected.shares)
        told = [
            float(t.removesuffix("\N{NO-BREAK SPACE}%"))
            for t in dialog.locator(".value").all_inner_texts()
        ]
        assert told == pytest.approx(100 * shares / shares.sum(), rel=6e-3, abs=0.01)
        view.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert result.evaluate("(button) => button === document.activeElement")


def test_other_settings_say_which_explanation_they_show(browser, address):
    with visiting(browser, address) as view:
        view.wait_for_selector("#after li")
        own = {name for side in ("before", "after") for _, name in shown(view, side)}
        slide(view, "query_k", 0)
        slide(view, "weight", 0)
        said = set()
        for result in view.locator("#after .result").all():
            known = result.locator(".name").inner_text() in own
            result.click()
            text = view.locator("#explanation").inner_text()
            expected = (
                "at the settings of the index." if known else "at the settings of the index only"
            )
            assert expected in text
            said.add(known)
            view.keyboard.press("Escape")
    assert said == {True, False}


def test_the_filter_hides_names_without_its_text(browser, address, ranker, arcs):
    with visiting(browser, address) as view:
        view.get_by_label("Only names that contain").fill("RIGHT/")
        view.locator("#sides", has_text="left/").wait_for(state="detached")
        expected = {
            side: [each for each in found if "right/" in each[1]]
            for side, found in moves(arcs[1][0], ranker).items()
        }
        assert both(view) == expected
        assert "does not search again" in view.locator("#limits").inner_text()
        view.get_by_label("Only names that contain").fill("nothing")
        view.get_by_text("No results.").wait_for()
        view.get_by_label("Only names that contain").fill("")
        view.wait_for_selector("#after li")
        assert both(view) == moves(arcs[1][0], ranker)


def test_the_keyboard_alone_is_enough(browser, address):
    with visiting(browser, address) as view:
        view.wait_for_selector("#after li")
        focused = "document.activeElement.id || document.activeElement.className"
        order = []
        while not order or order[-1] != "result":
            view.keyboard.press("Tab")
            order.append(view.evaluate(focused))
        assert [name for name in order if name] == [
            "query", "next", "query_k", "weight", "containing", "result",
        ]  # fmt: skip
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert view.evaluate(outline) == "solid"
        place = "[...document.querySelectorAll('.result')].indexOf(document.activeElement)"
        for key, expected in (
            ("ArrowRight", 1), ("ArrowDown", 5), ("ArrowLeft", 4), ("ArrowUp", 0), ("ArrowUp", 0),
            ("End", 11), ("ArrowRight", 11), ("Home", 0),
        ):  # fmt: skip
            view.keyboard.press(key)
            assert view.evaluate(place) == expected, key
        view.keyboard.press("Enter")
        assert view.get_by_role("dialog").is_visible()
        view.keyboard.press("Escape")
        assert not view.get_by_role("dialog").is_visible()
        assert view.evaluate(place) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (360, "dark"), (1000, "light"), (1900, "dark")]
)
def test_it_reads_in_light_and_dark_and_nothing_overflows(browser, address, texts, scheme, width):
    for each in (address, texts):
        with visiting(browser, each, width=width, color_scheme=scheme) as view:
            view.wait_for_selector("#after li")
            overflow = "document.documentElement.scrollWidth > innerWidth"
            assert not view.evaluate(overflow)
            colours = view.evaluate(
                "[getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(document.body).color].map((c) => Number(c.match(/\\d+/)[0]))"
            )
            assert (colours[0] > colours[1]) == (scheme == "light")
            view.locator("#after .result").last.click()
            view.locator("#explanation .chain").wait_for()
            assert not view.evaluate(overflow)
            box = view.get_by_role("dialog").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_hostile_names_stay_text(browser, texts):
    with visiting(browser, texts) as view:
        view.wait_for_selector("#after li")
        assert view.locator("#name").inner_text() == HOSTILE
        for _, name in shown(view, "before") + shown(view, "after"):
            assert name.endswith(HOSTILE)
        view.locator("#after .result").last.click()
        view.locator("#explanation .chain").wait_for()
        assert HOSTILE in view.locator("#why-title").inner_text()
        assert view.title() == "Search before and after diffusion"
        assert view.locator("img, main b:not(.step b)").count() == 0


def test_a_policy_keeps_out_what_is_put_into_the_page(browser, address):
    with visiting(browser, address, refused=2) as view:
        view.wait_for_selector("#after li")
        refused = view.evaluate(
            """() => new Promise((resolve) => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => {
                    refused.push(event.effectiveDirective);
                    if (refused.length === 2) resolve(refused);
                });
                const script = document.createElement("script");
                script.textContent = "document.title = 'hit'";
                document.body.append(script);
                document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/"}));
            })"""
        )
        assert sorted(refused) == ["img-src", "script-src-elem"]
        assert view.title() == "Search before and after diffusion"


def test_without_a_script_the_results_are_listed(browser, address, ranker, arcs):
    with visiting(browser, address, java_script_enabled=False) as view:
        assert view.get_by_text("This page needs JavaScript").is_visible()
        assert not view.locator("#ask").is_visible()
        found = view.locator("#plain ol").first.locator("li").all_inner_texts()
        assert found == ranker.search(arcs[1][0], 12)[1].tolist()


def test_reduced_motion_and_print(browser, address):
    with visiting(browser, address, reduced_motion="reduce") as view:
        view.wait_for_selector("#after li")
        duration = "getComputedStyle(document.querySelector('.sides')).transitionDuration"
        assert view.evaluate(duration) == "0s"
        view.emulate_media(media="print")
        assert not view.locator("#ask").is_visible()
        assert view.locator("#after .result").count() == 12
        assert view.locator("#after .result").first.is_visible()
