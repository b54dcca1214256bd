"""Rendering: what is put into a page comes out of it again, and nothing can leave its place."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion import DiffusionError, page
from tests.support.pages import Page

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "<!--data--><!--pictures--><!--script-->",
    "]]>\u2028\u2029\x00\x1b[31m'\"&amp;`${1}",
    "\udcff",
]
PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def in_service(**more):
    return {"mode": "service", "title": "Photos", "photos": True, **more}


@given(values)
def test_data_come_out_as_they_were_put_in(value):
    data, _ = Page(page.render(in_service(value=value))).stored()
    assert data == in_service(value=value)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_where_it_is(hostile):
    plain = Page(page.render(in_service(title="t", name="n")))
    parsed = Page(page.render(in_service(title=hostile, name=hostile)))
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in plain.elements]
    assert parsed.scripts[-1] == plain.scripts[-1]
    assert parsed.stored()[0] == in_service(title=hostile, name=hostile)


def test_a_page_in_a_file_lists_its_results_for_readers_without_a_script():
    stored = {
        "mode": "file", "title": "t", "items": ["b", HOSTILE[0], "a"], "own": 1, "shown": 12,
        "queries": [{"name": HOSTILE[1], "answers": [{"after": [0]}, {"after": [2, 1]}]}],
    }  # fmt: skip
    text = page.render(stored)
    plain = text[text.index('<div id="plain">') : text.index('<div id="interface"')]
    assert re.findall("<li>(.*?)</li>", plain) == [
        "a",
        "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;",
    ]
    assert "<h2>&lt;!--&lt;script&gt;</h2>" in plain
    Page(text)


@pytest.mark.parametrize("mode", ["file", "service"])
def test_the_policy_admits_the_style_and_the_script_of_the_page_alone(mode):
    parsed = Page(page.render(in_service() | {"mode": mode}))
    (policy,) = [
        meta["content"]
        for meta in parsed.attributes("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for rule, text in (("style-src", parsed.style), ("script-src", parsed.scripts[-1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules.get("connect-src") == ("'self'" if mode == "service" else None)
    assert "unsafe" not in policy
    assert "http" not in policy
    # Neither style attributes nor handlers, which the policy would not admit.
    assert not any(
        name == "style" or name.startswith("on") for _, given in parsed.elements for name in given
    )


def test_nothing_comes_from_elsewhere():
    text = page.render(in_service())
    assert "//" not in re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.MULTILINE)
    assert not re.search(r"@import|url\(|src=|href=(?!\"data:,\")", text)
    assert text.isascii() or "→" in text


def test_pictures_are_written_one_at_a_time(tmp_path):
    path, taken = tmp_path / "p.html", []

    def pictures():
        for number in range(3):
            taken.append(number)
            assert not path.exists()
            yield PICTURE if number else ""

    page.write(path, in_service(), pictures())
    assert taken == [0, 1, 2]
    assert Page(path.read_text("utf-8")).stored() == (in_service(), ["", PICTURE, PICTURE])


@pytest.mark.parametrize(
    "picture",
    ["</script>", PICTURE + "<", "https://example.com/a.png", "data:text/html,x", PICTURE + "\n"],
)
def test_what_is_no_picture_is_refused_and_no_file_is_left(tmp_path, picture):
    with pytest.raises(ValueError, match="picture"):
        page.write(tmp_path / "p.html", in_service(), [picture])
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DiffusionError, match=r"p\.html: cannot be written"):
        page.write(tmp_path / "absent" / "p.html", in_service())


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        page.render(in_service(value=float("nan")))
