"""What is accepted as vectors and as lists, against plain Python."""

from __future__ import annotations

import decimal
import fractions

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffusion import DiffusionError
from diffusion.validation import as_hits, as_ids, as_lists, as_vectors, is_single

NAMES = ("scores0", "ids0")


def lists(scores, ids, n=100, metric="cosine"):
    return as_lists(scores, ids, n, names=NAMES, metric=metric)


# --- vectors ------------------------------------------------------------------------------------

PLAIN = [[1.5, -2.0, 0.0], [0.25, 3.0, 1.0]]


class Frame:
    """A table as pandas and polars have it: it converts itself, and knows its columns."""

    columns = ("a", "b", "c")

    def __array__(self, dtype=None, copy=None):
        return np.array(PLAIN, dtype=dtype)


def tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(PLAIN)
    return {
        "grad": tensor.clone().requires_grad_(),
        "double": tensor.double(),
        "bfloat16": tensor.bfloat16(),
        "grad and bfloat16": tensor.bfloat16().requires_grad_(),
        "half": tensor.half(),
    }


@pytest.mark.parametrize("kind", ["grad", "double", "bfloat16", "grad and bfloat16", "half"])
def test_torch_tensors_are_vectors(kind):
    vectors = as_vectors(tensors()[kind], "X", metric="inner_product")
    np.testing.assert_array_equal(vectors, np.array(PLAIN, np.float32))


def test_double_tensors_keep_their_precision():
    torch = pytest.importorskip("torch")
    values = torch.tensor([[1.0 + 2**-40, 0.0]], dtype=torch.float64)
    center = np.array([1.0, 0.0])
    assert as_vectors(values, "X", metric="euclidean", center=center)[0, 0] == 2**-40


def test_a_tensor_on_a_device_is_fetched():
    class OnDevice:
        """Like a CUDA tensor: numpy cannot read it until it has been copied."""

        dtype = "torch.float32"

        def detach(self):
            return self

        def cpu(self):
            return np.array(PLAIN)

        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    np.testing.assert_array_equal(
        as_vectors(OnDevice(), "X", metric="inner_product"), np.array(PLAIN, np.float32)
    )


@pytest.mark.parametrize(
    "values",
    [
        Frame(),
        np.array(PLAIN, object),
        [[fractions.Fraction(3, 2), -2, 0], [0.25, 3, True]],
        np.array(PLAIN, np.longdouble),
        np.asfortranarray(PLAIN),
        np.ma.MaskedArray(PLAIN),
        tuple(map(tuple, PLAIN)),
    ],
    ids=["frame", "object", "fractions", "longdouble", "fortran", "masked", "tuples"],
)
def test_what_behaves_like_a_matrix_is_one(values):
    np.testing.assert_array_equal(
        as_vectors(values, "X", metric="inner_product"), np.array(PLAIN, np.float32)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            sparse.csr_array(PLAIN),
            r"X: a sparse array is not supported, got csr_array.*toarray\(\)",
        ),
        (sparse.coo_matrix(PLAIN), "X: a sparse array is not supported, got coo_matrix"),
        (np.array(PLAIN) * 1j, r"X: expected real numbers.*complex128. Complex data not supported"),
        (np.array([["1", "2"]]), "X: expected real numbers, got ndarray of dtype <U1"),
        (np.array([["1", 2.0]], object), r"X: expected real numbers.*object that holds '1'"),
        (np.array([[None, 2.0]], object), r"X: expected real numbers.*object that holds None"),
        ([[decimal.Decimal(1)]], r"X: expected real numbers.*holds Decimal"),
        ([[1.0, 2.0], [3.0]], "X: expected an array of real numbers"),
        ([[10**400, 1]], "X: expected an array of real numbers"),
        (
            np.array([["2020"]], "datetime64[s]"),
            "X: expected real numbers, got ndarray",
        ),
        (np.ma.masked_less(PLAIN, 0), "X: expected an array without masked values"),
        (np.empty((0, 3)), r"X: expected shape \(n, d\), n and d >= 1, got \(0, 3\)"),
        (np.empty((3, 0)), r"X: expected shape \(n, d\).*0 feature\(s\)"),
        ([1.0, 2.0], r"X: expected shape \(n, d\)"),
        ([[1, 1], [1e39, 1.0]], r"X: expected norms up to 4e.*; row 1 has 1e\+39"),
        ("text", "X: expected real numbers"),
        (None, "X: expected real numbers"),
    ],
)
def test_what_is_not_a_matrix_gets_one_clear_line(values, message):
    with pytest.raises(DiffusionError, match=message) as caught:
        as_vectors(values, "X", metric="inner_product")
    assert "\n" not in str(caught.value)


def test_sparse_tensors_and_lists_of_gradients_get_one_line():
    torch = pytest.importorskip("torch")
    for values in (torch.eye(3).to_sparse(), [torch.ones(3, requires_grad=True)] * 2):
        with pytest.raises(DiffusionError, match="X: expected an array of real numbers"):
            as_vectors(values, "X", metric="cosine")


def test_queries_may_be_one_or_none():
    assert as_vectors([3.0, 4.0], "Q", metric="cosine", queries=True).tolist() == [
        pytest.approx([0.6, 0.8])
    ]
    assert as_vectors(np.empty((0, 4)), "Q", metric="cosine", queries=True).shape == (0, 4)
    with pytest.raises(DiffusionError, match="Q: expected shape"):
        as_vectors([], "Q", metric="cosine", queries=True)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5))
def test_unit_vectors_at_every_magnitude(seed, n, d):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-320, 300, (n, 1))
    unit = as_vectors(X, "X", metric="cosine")
    norms = np.linalg.norm(unit.astype(float), axis=1)
    np.testing.assert_allclose(norms[X.any(axis=1)], 1, rtol=1e-6)
    assert (norms[~X.any(axis=1)] == 0).all()


# --- lists --------------------------------------------------------------------------------------


@st.composite
def hits(draw):
    """Lists of hits of different lengths, in any order, with ties and padding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        size = int(rng.integers(0, 7))
        ids = rng.permutation(30)[:size]
        ids[rng.random(size) < 0.2] = -1
        rows.append((rng.choice([0.5, 0.25, 0.125, -3.0, 1e30], size), ids))
    return rows


@given(hits())
def test_lists_in_any_order_are_sorted_stably(rows):
    # The first list descends, so that the others are no distances.
    rows = [(np.array([2.0, 1.0]), np.array([40, 41])), *rows]
    scores, ids = lists([list(s) for s, _ in rows], [list(i) for _, i in rows])
    for row, (given_scores, given_ids) in enumerate(rows):
        listed = [(s, i) for s, i in zip(given_scores, given_ids, strict=True) if i >= 0]
        expected = sorted(listed, key=lambda hit: -hit[0])  # Python's sort is stable
        real = ids[row] >= 0
        assert ids[row][real].tolist() == [i for _, i in expected]
        np.testing.assert_array_equal(scores[row][real], np.float32([s for s, _ in expected]))


@given(hits())
def test_ragged_lists_are_padded_ones(rows):
    rows = [(np.array([2.0, 1.0]), np.array([40, 41])), *rows]
    width = max(len(i) for _, i in rows)
    scores, ids = np.zeros((len(rows), width)), np.full((len(rows), width), -1)
    for row, (s, i) in enumerate(rows):
        scores[row, : len(s)], ids[row, : len(i)] = s, i
    expected = lists(scores, ids)
    as_lists_of = [list(part) for part in zip(*rows, strict=True)]
    as_objects = [np.empty(len(rows), object) for _ in range(2)]
    for row, pair in enumerate(rows):
        for part, array in zip(as_objects, pair, strict=True):
            part[row] = array.tolist()
    for ragged in (as_lists_of, as_objects):
        for found, wanted in zip(lists(*ragged), expected, strict=True):
            assert (found[expected[1] >= 0] == wanted[expected[1] >= 0]).all()


def test_one_unit_in_the_last_place():
    high = np.nextafter(np.float32(0.5), np.float32(1))
    scores, ids = lists(np.array([[0.5, high, 0.25]], np.float32), [[7, 3, 5]])
    assert ids.tolist() == [[3, 7, 5]]
    assert scores.tolist() == [[high, 0.5, 0.25]]
    # Nothing descends, but nothing ascends by more than rounding either.
    assert lists(np.array([[0.5, high]], np.float32), [[7, 3]])[1].tolist() == [[3, 7]]


def test_the_input_is_left_alone():
    scores, ids = np.array([[0.1, 0.9, 0.5]], np.float32), np.array([[1, 2, 3]])
    assert lists(scores, ids)[1].tolist() == [[2, 3, 1]]
    assert scores.tolist() == np.float32([[0.1, 0.9, 0.5]]).tolist()
    assert ids.tolist() == [[1, 2, 3]]


def test_distances_are_refused():
    for scores in (
        np.arange(11.0)[None],
        np.tile([[0.5, 0.75], [0.0, 0.0], [3.0, 9.0]], (5, 1)),
        np.insert(np.sqrt(np.arange(11.0))[None], [1, 5], [-2.0, 9.0], axis=1),
    ):
        ids = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
        if scores.shape[1] == 13:
            ids[:, [1, 6]] = -1  # padding, whose scores fall
        with pytest.raises(DiffusionError, match=r"scores0: .*for distances pass their negatives"):
            lists(scores, ids)
    # One fall says that these are similarities, and a few hits may ascend by chance.
    rising = np.arange(40.0)[None]
    rising[0, 39] = 37.5
    assert lists(rising, [range(40)])[1][0, :3].tolist() == [38, 39, 37]
    assert lists([[0.5, 0.75]], [[1, 2]])[1].tolist() == [[2, 1]]
    equal = 1 + 1e-7 * np.arange(40.0)[None]
    assert lists(equal, [range(40)])[1][0, 0] == 39
    # Negative squared distances in ascending order cannot be distances.
    assert lists(rising - 50, [range(40)], metric="euclidean")[1][0, 0] == 38


@pytest.mark.parametrize(
    ("scores", "ids", "shape"),
    [
        ([], [], (1, 1)),
        (np.empty(0), np.empty(0, int), (1, 1)),
        ([[]], [[]], (1, 1)),
        (np.empty((3, 0)), np.empty((3, 0)), (3, 1)),
        (np.empty((0, 5)), np.empty((0, 5), int), (0, 5)),
        (np.empty((0, 0)), np.empty((0, 0), int), (0, 1)),
        ([[], [0.5]], [[], [3]], (2, 1)),
    ],
)
def test_no_hits(scores, ids, shape):
    got_scores, got_ids, _ = as_hits(scores, ids, 100, names=NAMES, metric="cosine")
    assert got_scores.shape == got_ids.shape == shape
    assert np.count_nonzero(got_ids >= 0) == sum(map(np.size, ids))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, object])
def test_ids_of_every_integer_type(dtype):
    assert as_ids(np.array([[5, 99]], dtype), "ids0", 100).tolist() == [[5, 99]]


@pytest.mark.parametrize(
    ("scores", "ids", "message"),
    [
        ([[0.5]], [[True]], "ids0: expected integers"),
        ([[0.5]], [[3.0]], "ids0: expected integers"),
        ([[0.5]], [["a"]], "ids0: expected integers"),
        ([[0.5]], [[2**40]], r"ids0: expected ids in \[-1, 100\); row 0 has 1099511627776 at pl"),
        ([[0.5]], np.array([[2**63]], np.uint64), r"row 0 has 9223372036854775808 at place 0"),
        ([[0.5]], [[2**70]], "ids0: expected an array of integers"),
        (
            [[0.9, 0.8], [0.9, 0.8]],
            [[1, 2], [2, 100]],
            r"ids0: expected ids in \[-1, 100\); row 1 has 100 at place 1",
        ),
        (
            [[0.9, 0.8, 0.7, 0.6]] * 2,
            [[1, 2, 3, 4], [4, 17, 5, 17]],
            "ids0: expected each item at most once in a row, row 1 has 17 at places 1 and 3",
        ),
        (
            [[0.9, 0.8]] * 2 + [[0.5]],
            [[1, 2], [4, 4], [3]],
            "row 1 has 4 at places 0 and 1",
        ),
        ([[0.9, np.nan]], [[1, 2]], "scores0: expected finite float32 values; row 0 has nan at"),
        ([[1e39, 0.5]], [[1, 2]], r"row 0 has 1e\+39 at place 0"),
        ([[0.9, 0.5], [0.5]], [[1], [2]], "scores0: row 0: expected 1 scores, as in ids0, got 2"),
        ([[0.9], [0.5, 0.4]], [[1]], "scores0: expected 1 rows, as in ids0, got 2"),
        ([0.5, [0.4]], [1, [2]], "scores0: row 0: expected a list, got 0-D"),
        (0.5, [[1], [2, 3]], "scores0: expected a sequence of lists, got 0.5"),
        ([[0.5, 0.4], [0.3]], [[1, 2.5], [3]], "ids0: row 0: expected integers"),
        ([[[0.5]]], [[[1]]], r"ids0: expected shape \(m, k\), got \(1, 1, 1\)"),
        (0.5, 1, r"ids0: expected shape \(m, k\)"),
    ],
)
def test_bad_lists_name_row_value_and_place(scores, ids, message):
    with pytest.raises(DiffusionError, match=message) as caught:
        lists(scores, ids)
    assert "\n" not in str(caught.value)


def test_one_list_or_several():
    assert is_single([1.0, 2.0])
    assert is_single([])
    assert is_single(np.array([1, 2], object))
    assert not is_single([[1.0], [2.0, 3.0]])
    assert not is_single([[1.0]])
    assert not is_single(np.array([[1], [2, 3]], object))
    assert not is_single(3)
