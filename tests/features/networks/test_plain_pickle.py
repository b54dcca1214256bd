"""Untrusted pickles: plain types and arrays are read, all else is refused, and nothing is run."""

from __future__ import annotations

import builtins
import codecs
import os
import pickle
import types

import numpy as np
import pytest

from diffusion import DiffusionError
from features.networks import plain_pickle
from tests.support.processes import limited_memory


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_types_and_arrays_are_read(tmp_path, protocol):
    arrays = [
        np.arange(6).reshape(2, 3),
        np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
        np.arange(4, dtype=">i2"),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.empty((0, 3)),
    ]
    plain = [1, 2.5, "ä", b"bytes", b"", None, True, (1, (2, 3)), {"k": [4]}, {5, 6}, 10**30]
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps([plain, arrays, np.int64(7), np.float32(0.5)], protocol=protocol))
    found, found_arrays, integer, real = plain_pickle.load(path)
    assert found == plain
    assert (integer, real) == (7, 0.5)
    for array, expected in zip(found_arrays, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(array), expected)
        assert np.asarray(array).dtype == expected.dtype
        assert len(array) == len(expected)


def test_arrays_that_python_2_wrote_as_text_are_read(tmp_path):
    text = pickle.dumps(np.array([1, 200], np.uint8), protocol=0)
    # Its bytes are text that is encoded by a call; Python 2 wrote them as they are.
    call = b"g3\n(V\x01\xc8\np17\ng5\ntp18\nRp19\n"
    assert call in text
    older = text.replace(call, b"S'\\x01\\xc8'\n")
    (tmp_path / "array.pkl").write_bytes(older)
    assert np.asarray(plain_pickle.load(tmp_path / "array.pkl")).tolist() == [1, 200]


def test_a_pickle_does_not_change_what_reads_the_next(tmp_path):
    path = tmp_path / "a.pkl"
    # Sets __defaults__ of the function that it was given for _codecs.encode.
    path.write_bytes(b"\x80\x02c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__Nstb.")
    with pytest.raises(DiffusionError, match="expected a pickle of plain types"):
        plain_pickle.load(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00x\x85R.")
    assert plain_pickle.load(path) == b"x"


def test_arrays_that_numpy_1_wrote_are_read(tmp_path):
    written = pickle.dumps(np.arange(3), protocol=2)
    older = written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for content in (written, older):
        path = tmp_path / "array.pkl"
        path.write_bytes(content)
        assert np.asarray(plain_pickle.load(path)).tolist() == [0, 1, 2]


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Calls(os.system, "touch evil"), r"posix\.system|nt\.system"),
        (Calls(builtins.eval, "open('evil', 'w')"), r"builtin(s|__)\.eval"),
        (Calls(codecs.encode, "x", "rot13"), "encodes text as 'rot13'"),
        (Calls(np.fromfile, "evil"), r"numpy\.fromfile"),
        (np.array([1, "x", None], object), "dtype O8"),
        (np.zeros(2, [("a", "i4"), ("b", "O")]), "expected numbers or text"),
        (types.SimpleNamespace(a=1), "SimpleNamespace"),
        (Calls(DiffusionError, "x"), "DiffusionError"),
        (1 + 2j, "complex"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps({"gnd": [content]}, protocol=protocol))
        with pytest.raises(DiffusionError, match=message):
            plain_pickle.load(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps({"imlist": ["a", "b"], "gnd": [{"easy": [0, 3]}]})[:-20],
        pickle.dumps(np.arange(100))[:-60] + b".",
        b"\x80\x02cnumpy\ndtype\nU\x02i4\x85R(K\x03tb.",  # a state that is too short
        b"\x80\x02J\x01\x02",  # a number that is cut
        b"\x80\x02X\x01\x00\x00\x00xQ.",  # persistent id
        b"\x80\x02\x82\x01.",  # a code of the extension registry
        b"(lp0\ng0\na0.",
        # Tuples in tuples, the innermost hashed by way of all others, and in the name of a type.
        b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
        b"\x80\x04\x8f()" + b"\x85" * 1_000_000 + b"\x90.",
        b"\x80\x02cnumpy\ndtype\n" + b"]" * 100_000 + b"a" * 99_999 + b"\x85R.",
    ],
)
def test_a_broken_pickle_is_refused(tmp_path, content):
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(DiffusionError, match="expected a pickle of plain types"):
        plain_pickle.load(path)
    with pytest.raises(DiffusionError, match="cannot be read"):
        plain_pickle.load(tmp_path / "absent.pkl")


@pytest.mark.parametrize("content", [b"\x80\x02Nr\xff\xff\xff\x3f.", b"(lp1073741823\n."])
def test_a_place_in_the_memo_beyond_all_memory_takes_none(tmp_path, content):
    path = tmp_path / "far.pkl"
    path.write_bytes(content)
    with limited_memory():
        assert plain_pickle.load(path) in (None, [])


def doubled(start, step, times):
    return b"\x80\x02" + start + step * times


ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"


def array_state(shape, kind, values):
    """Return a pickle of an array whose state is given as opcodes."""
    return b"\x80\x02" + ARRAY + b"(K\x01" + shape + kind + b"\x89" + values + b"tb."


F8 = b"cnumpy\ndtype\nU\x02f8\x89\x88\x87R"
EIGHT = b"U\x08" + b"A" * 8


@pytest.mark.parametrize(
    "content",
    [
        # A float64 that claims the fields of objects: numpy would take bytes for pointers.
        array_state(
            b"K\x01\x85",
            F8 + b"(K\x03U\x01|NU\x01a\x85}U\x01acnumpy\ndtype\nU\x02O8\x89\x88\x87RK\x00\x86s"
            b"K\x08K\x01K\x3ftb",
            EIGHT,
        ),
        array_state(
            b"K\x01\x85", F8 + b"(K\x03U\x01|NU\x01a\x85}K\x08K\x01K\x3ftb", EIGHT
        ),
        array_state(b"K\x01\x85", b"cnumpy\ndtype\nU\x02O8\x89\x88\x87R", EIGHT),
        array_state(b"J\xff\xff\xff\xff\x85", F8, EIGHT),
        array_state(b"J\xff\xff\xff\x7f\x85", F8, EIGHT),
        array_state(b"K\x02\x85", F8, EIGHT),
        array_state(b"(" + b"J\xff\xff\xff\x7f" * 5 + b"t", F8, EIGHT),
        array_state(b"K\x01\x85", F8, b"K\x08"),  # a number, of which bytes() makes as many
        array_state(b"K\x01\x85", F8, b"](e"),
        array_state(b"K\x01\x85", b"cnumpy\ndtype\nU\x0b(99999999,)f8\x89\x88\x87R", EIGHT),
        # A list of a list of a list, each twice: as text it would fill the disk.
        doubled(b"]", b"q\x00(h\x00h\x00l", 60) + b".",
        doubled(b")", b"q\x00h\x00\x86", 60) + b"q\x00}h\x00Ns.",
        doubled(b")", b"q\x00h\x00\x86", 60) + b"q\x00(h\x00\x91.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # bytes of a stated number
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",  # a number that cannot be printed
        # The same text turned into bytes again and again.
        b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"x" * (1 << 20) + b"q\x010("
        + b"h\x00h\x01\x85R" * 10_000 + b"l.",
        b"\x80\x02cbuiltins\nset\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\n)R.",
    ],
)  # fmt: skip
def test_a_forged_pickle_is_refused_within_its_memory(tmp_path, content):
    path = tmp_path / "forged.pkl"
    path.write_bytes(content)
    with limited_memory(), pytest.raises(DiffusionError, match="expected a pickle of plain types"):
        plain_pickle.load(path)
