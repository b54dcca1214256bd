"""Lists of strings packed into arrays and unpacked again."""

from __future__ import annotations

import ast
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.storage.strings import pack_strings, printable, unpack_strings


@given(st.lists(st.text()))
def test_strings_come_back(strings):
    assert unpack_strings(*pack_strings(strings)) == strings


def test_file_names_that_are_not_utf_8_come_back():
    names = [b"caf\xe9.png".decode("utf-8", "surrogateescape"), "", "\u00e9.png", "two\nlines"]
    assert unpack_strings(*pack_strings(names)) == names


@pytest.mark.parametrize("ends", [[2], [4], [3, 2, 3], [3.0], [[3]], [-1, 3], []])
def test_arrays_that_are_no_pair_are_refused(ends):
    with pytest.raises(ValueError, match="where each of them ends"):
        unpack_strings(np.frombuffer(b"abc", np.uint8), np.array(ends))


@given(st.text(st.characters(max_codepoint=0x3000)))
def test_printable_text_is_one_line_that_says_the_same(text):
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") for c in shown)
    assert len(shown.splitlines()) <= 1
    if "\\" not in text:
        assert (
            re.sub(r"\\(x..|u....|[ntr])", lambda e: ast.literal_eval(f"'{e[0]}'"), shown) == text
        )
    assert printable(shown) == shown
    assert printable("b\u00e9b\u00e9 \u6f22\u5b57.jpg") == "b\u00e9b\u00e9 \u6f22\u5b57.jpg"
    assert printable("\x1b[31m\udcff\u202e") == r"\x1b[31m\udcff\u202e"
