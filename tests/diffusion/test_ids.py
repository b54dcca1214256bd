"""Own ids: which rows they are of, what is refused, changes, storage, and forged arrays."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffusion
from diffusion import DiffusionError, Reranker
from diffusion.change import Change
from diffusion.ids import ItemIds
from diffusion.index_state import save_state
from tests.support.forgery import change_array

NUMBERS = st.lists(
    st.integers(-(2**63), 2**63 - 1).filter(lambda i: i != -1)
    | st.integers(-9, 30).filter(lambda i: i != -1),
    unique=True,
    min_size=1,
    max_size=40,
)
# Any str, surrogates included.
TEXTS = st.lists(
    st.text(st.characters(), min_size=1, max_size=6), unique=True, min_size=1, max_size=40
)
IDS = st.one_of(NUMBERS, TEXTS)


def assert_names(items, ids):
    """Hold ids against a list of them by row."""
    assert items.size == len(ids)
    assert items.all().tolist() == ids
    assert items.rows_of(ids, "ids").tolist() == list(range(len(ids)))


def others_of(ids):
    return [i + "x" * 7 for i in ids] if isinstance(ids[0], str) else [(i ^ 1) for i in ids]


@given(IDS, st.data())
def test_ids_are_those_of_a_dict(ids, data):
    items = ItemIds.of(ids, len(ids), "ids")
    assert_names(items, ids)
    row = {item: number for number, item in enumerate(ids)}
    nothing = None if isinstance(ids[0], str) else -1
    pool = [item for item in others_of(ids) if item != -1]
    asked = data.draw(st.lists(st.sampled_from([*ids, *pool, nothing]), min_size=1))
    assert items.rows_of(asked, "ids").tolist() == [row.get(item, -1) for item in asked]
    codes, unknown = items.coded([asked, asked[::-1]], "ids0")
    assert codes.shape == (2, len(asked))
    assert sorted(unknown.tolist()) == sorted({i for i in asked if i not in row and i != nothing})
    assert items.of_rows(codes, unknown).tolist() == [asked, asked[::-1]]
    ragged, unknown = items.coded([asked, []], "ids0")
    assert items.of_rows(ragged[0], unknown).tolist() == asked
    assert not len(ragged[1])


@given(IDS, st.data())
def test_changes_are_those_of_a_list(ids, data):
    items, model = ItemIds.of(ids[:1], 1, "ids"), ids[:1]
    rest = ids[1:]
    for _ in range(4):
        if rest and data.draw(st.booleans()):
            count = data.draw(st.integers(1, len(rest)))
            new, rest = rest[:count], rest[count:]
            before = items
            items = items.added(new, count)
            assert_names(before, model)  # as it was
            model = model + new
        elif len(model) > 1:
            removed = data.draw(
                st.lists(st.sampled_from(model), unique=True, max_size=len(model) - 1)
            )
            rows = items.rows_to_remove(removed)
            change = Change.removal(len(model), rows)
            items, before = items.changed(change), items
            assert_names(before, model)
            model = [model[row] for row in change.source]
            assert (items.rows_of(removed, "ids") == -1).all()
        assert_names(items, model)
        arrays = items.arrays()
        assert_names(ItemIds.restored(arrays, len(model), "state"), model)


def test_many_ids_are_found_after_many_changes():
    rng = np.random.default_rng(0)
    model = rng.permutation(5000)
    items = ItemIds.of(model, 5000, "ids")
    for step in range(20):
        change = Change.removal(len(model), rng.choice(len(model), 800 if step < 6 else 30, False))
        items, model = items.changed(change), model[change.source]
        new = 10_000 * (step + 1) + np.arange(50)
        items, model = items.added(new, 50), np.concatenate([model, new])
        assert_names(items, model.tolist())
        gone = np.setdiff1d(np.arange(5000), model)
        assert (items.rows_of(gone, "ids") == -1).all()
    assert len(items.arrays()["table"]) < 5000 * 2  # it has become shorter, too


def test_row_numbers_stay_with_their_items():
    items = ItemIds.rows(5)
    assert items.plain
    assert not items.arrays()
    assert items.added(None, 2).arrays() == {}
    fewer = items.changed(Change.removal(5, np.array([1, 4])))
    assert sorted(fewer.all().tolist()) == [0, 2, 3]
    assert fewer.rows_of([4, 1], "ids").tolist() == [-1, -1]
    # A number is never given twice, even to another item and after a restart.
    again = ItemIds.restored(fewer.arrays(), 3, "state").added(None, 2)
    assert again.all().tolist()[3:] == [5, 6]
    more = again.added([100], 1).added(None, 1)
    assert more.all().tolist()[5:] == [100, 101]
    assert items.added([9, 7], 2).added(None, 1).all().tolist() == [0, 1, 2, 3, 4, 9, 7, 10]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["b", "a", "b", "a"], "ids: expected each id once, rows 0 and 2 have 'b'"),
        (np.array([3, 5, 5, 3]), "ids: expected each id once, rows 1 and 2 have 5"),
        ([1, 2, 3], "ids: expected 4 ids, one for each row of X, got 3"),
        ([True, False, 2, 3], "ids: expected ids of int64 or str, all of one kind; row 0 has True"),
        ([0, 1, 2, True], "row 3 has True"),
        ([0, 1, 2, "3"], "row 3 has '3'"),
        (["0", "1", "2", 3], "row 3 has 3"),
        ([0, 1, 2, 2.0], r"row 3 has 2\.0"),
        ([0, 1, 2, None], "row 3 has None"),
        (["a", "b", None, "c"], "row 2 has None"),
        ([0, 1, 2, 2**63], "row 3 has 9223372036854775808"),
        (np.array([0.0, 1, 2, 3]), "got an array of dtype float64"),
        (np.array([b"a", b"b", b"c", b"d"]), "ids: expected ids of int64 or str, got an array"),
        (np.array([0, 1, 2, 2**63], np.uint64), "ids: expected integers up to 9223372036854775807"),
        (np.arange(4)[None], r"ids: expected shape \(n,\), got \(1, 4\)"),
        ([5, 6, -1, 7], "ids: expected ids other than -1, which stands for padding; row 2 has it"),
        (["a", "", "b", "c"], "ids: expected ids other than '', which stands for padding; row 1"),
        ("abcd", "ids: expected a list of ids, got 'abcd'"),
        (4, "ids: expected a list of ids, got 4"),
    ],
)
def test_bad_ids_are_named(values, message):
    with pytest.raises(DiffusionError, match=message):
        Reranker(k=2).fit(np.eye(4), ids=values)


@pytest.mark.parametrize(
    "values",
    [
        ("a", "b", "c"),
        np.array(["a", "b", "c"]),
        np.array(["a", "b", "c"], object),
        np.array([7, 8, 9], np.uint8),
        np.array([7, 8, 9], object),
        [np.int32(7), 8, np.uint64(9)],
        {7: 0, 8: 0, 9: 0}.keys(),
    ],
    ids=repr,
)
def test_forms_of_ids(values):
    names = [7, 8, 9] if 7 in list(values) else ["a", "b", "c"]
    assert_names(ItemIds.of(values, 3, "ids"), names)


@pytest.mark.parametrize(
    ("items", "values", "message"),
    [
        (["a", "b"], None, "ids: expected 1 ids of str, because the items of this index have such"),
        (["a", "b"], ["b"], "ids: expected each id once, the collection and row 0 have 'b'"),
        (["a", "b"], [3], "ids: expected str ids, as the items have, got 3"),
        (["a", "b"], [""], "ids: expected ids other than ''"),
        (["a", "b"], ["c", "d"], "ids: expected 1 ids, one for each row of X, got 2"),
        ([4, 5], None, "ids: expected 1 ids, because the items of this index have ids that its"),
        ([4, 5], [5], "ids: expected each id once, the collection and row 0 have 5"),
        ([4, 5], ["a"], "ids: expected int64 ids, as the items have, got 'a'"),
        ([4, 5], [-1], "ids: expected ids other than -1"),
    ],
)
def test_bad_additions_are_named(items, values, message):
    with pytest.raises(DiffusionError, match=message):
        ItemIds.of(items, 2, "ids").added(values, 1)


def test_bad_removals_are_named():
    items = ItemIds.of(["a", "b"], 2, "ids")
    with pytest.raises(DiffusionError, match="ids: expected ids of the collection, place 1 has 'c"):
        items.rows_to_remove(["a", "c"])
    with pytest.raises(DiffusionError, match="ids: expected each id once, places 0 and 2 have 'a'"):
        items.rows_to_remove(["a", "b", "a"])
    assert items.rows_to_remove("b").tolist() == [1]
    with pytest.raises(DiffusionError, match="ids: expected ids of the collection, place 0 has 2"):
        ItemIds.rows(2).rows_to_remove(2)


# --- in a Reranker --------------------------------------------------------------------------------


@pytest.fixture(params=["str", "int64"])
def named(request, vectors):
    """Return ids by row, and a Reranker that has them beside one that has row numbers."""
    numbers = np.random.default_rng(5).permutation(120) * 10**15 - 3
    ids = numbers if request.param == "int64" else np.array([f"\udcff{i}.jpg" for i in numbers])
    ids = np.asarray(ids.tolist(), object if request.param == "str" else np.int64)
    return ids, Reranker(k=8).fit(vectors, ids=ids), Reranker(k=8).fit(vectors)


def test_every_answer_speaks_them_and_every_call_takes_them(named, vectors, tmp_path):
    ids, own, plain = named
    assert own.ids_.tolist() == ids.tolist()
    assert plain.ids_.tolist() == list(range(120))
    own.save(tmp_path / "index")
    expected = plain.search(vectors[:5], 130)
    for ranker in (own, diffusion.load(tmp_path / "index")):
        scores, found = ranker.search(vectors[:5], 130)
        assert found.dtype == ids.dtype
        assert (found[:, :120] == ids[expected[1][:, :120]]).all()
        assert (found[:, 120:] == (None if ids.dtype == object else -1)).all()
        np.testing.assert_array_equal(scores, expected[0])
        assert (ranker.search(vectors[0], 5)[1] == found[0, :5]).all()
        again = plain.rerank(*expected, 30)
        hits = scores[:, :120], found[:, :120]
        for form in (hits, [part.tolist() for part in hits], (scores, found)):
            np.testing.assert_array_equal(ranker.rerank(*form, 30)[1], ids[again[1]])
        ragged = [scores[0, :9].tolist(), []], [found[0, :9].tolist(), []]
        rows = plain.rerank([ragged[0][0], []], [expected[1][0, :9].tolist(), []], 4)[1]
        assert ranker.rerank(*ragged, 4)[1][0].tolist() == ids[rows[0]].tolist()
        single = ranker.rerank(scores[0, :9], found[0, :9], 4)[1]
        assert single.tolist() == ids[rows[0]].tolist()


def test_lists_of_neighbours_hold_item_ids(named, vectors):
    ids, own, _ = named
    scores, rows = diffusion.nearest_neighbors(vectors, 10)
    lists = np.where(rows >= 0, ids[rows], None if ids.dtype == object else -1)
    for X in (None, vectors):
        ranker = Reranker(k=8).fit_neighbors(scores, lists, X, item_ids=ids)
        assert (ranker.graph_.W != own.graph_.W).nnz == 0
        assert ranker.ids_.tolist() == ids.tolist()
    ragged = [row[: 1 + number % 4].tolist() for number, row in enumerate(lists)]
    values = [row[: 1 + number % 4].tolist() for number, row in enumerate(scores)]
    plain = [row[: 1 + number % 4].tolist() for number, row in enumerate(rows)]
    by_row = Reranker(k=8).fit_neighbors(values, plain).graph_.W
    assert (by_row != Reranker(k=8).fit_neighbors(values, ragged, item_ids=ids).graph_.W).nnz == 0
    unknown = "nobody" if ids.dtype == object else 12345
    lists[3, 2] = unknown
    with pytest.raises(DiffusionError, match="ids: expected ids of the items, row 3 has "):
        Reranker(k=8).fit_neighbors(scores, lists, item_ids=ids)
    rows_of_others = np.where(rows >= 0, ids[rows], None if ids.dtype == object else -1)[1:]
    with pytest.raises(DiffusionError, match="item_ids: expected 119 ids, one for each neighbour"):
        Reranker(k=8).fit_neighbors(scores[1:], rows_of_others, item_ids=ids)


def test_repeated_hits_are_named_by_id(named):
    ids, own, _ = named
    with pytest.raises(DiffusionError) as error:
        own.rerank([0.9, 0.8, 0.7], [ids[3], ids[4], ids[3]])
    assert f"row 0 has {ids.tolist()[3]!r} at places 0 and 2" in str(error.value)


def test_hits_of_another_kind_are_refused(vectors):
    text = Reranker(k=8).fit(vectors, ids=[f"{i}" for i in range(120)])
    number = Reranker(k=8).fit(vectors, ids=np.arange(120) + 7)
    with pytest.raises(DiffusionError, match="ids0: expected str ids, as the items have, got 3"):
        text.rerank([0.9], [3])
    with pytest.raises(DiffusionError, match="ids0: expected integers"):
        number.rerank([0.9], ["3"])
    assert text.rerank([[0.0]], [[-1]], 2)[1].tolist() == [[None, None]]
    assert text.rerank([[0.5, 0.0]], [["3", ""]], 1)[1].shape == (1, 1)


# --- storage --------------------------------------------------------------------------------------


def test_an_index_of_an_earlier_version_has_row_numbers(vectors, tmp_path):
    Reranker(k=8).fit(vectors).save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert not [name for name in manifest["arrays"] if name.startswith("ids_")]
    assert diffusion.load(tmp_path / "index").ids_.tolist() == list(range(120))


def first(value):
    def change(array):
        array[0] = value

    return change


def wide(value):
    def change(array):
        array[:] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("table", wide(120), "values from -1 to 119"),
        ("table", wide(-7), "values from -1 to 119"),
        ("table", wide(5), "table: expected"),  # no empty slot
        ("offsets", wide(2**62), "offsets from 0"),
        ("offsets", lambda a: a[::-1].copy(), "offsets from 0"),
        ("text", wide(255), "ids in UTF-8"),
        ("offsets", lambda a: a[1:], "altered"),
        ("offsets", lambda a: a.astype(np.int32), "altered"),
        ("table", lambda a: a[1:], "altered"),
        ("table", lambda a: a[:64], "altered"),
        ("table", lambda a: a.astype(np.int64), "altered"),
        ("text", lambda a: a[:0], "altered"),
    ],
)
def test_forged_names_are_one_error(vectors, tmp_path, name, change, expected):
    names = [f"{i} of them" for i in range(120)]
    Reranker(k=8).fit(vectors, ids=names).save(tmp_path / "index")
    change_array(tmp_path / "index", f"ids_{name}", change)

    def use():
        ranker = diffusion.load(tmp_path / "index")
        ranker.search(vectors[:2])
        ranker.rerank([[0.9, 0.8]], [["3 of them", "nobody"]])

    with pytest.raises(DiffusionError, match=f"index.*altered.*{expected}|index.*{expected}"):
        use()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("table", wide(120)),
        ("table", wide(5)),
        ("numbers", lambda a: a[1:]),
        ("numbers", lambda a: a.astype(np.int32)),
        ("next", lambda a: a[:0]),
    ],
)
def test_forged_numbers_are_one_error(vectors, tmp_path, name, change):
    ranker = Reranker(k=8).fit(vectors, ids=np.arange(120) + 7)
    state = ranker.state()
    state.arrays["ids_next"] = np.array([200])
    save_state(tmp_path / "index", state)
    change_array(tmp_path / "index", f"ids_{name}", change)
    with pytest.raises(DiffusionError, match="altered"):
        diffusion.load(tmp_path / "index").rerank([[0.9, 0.8]], [[12, 10**9]])


@given(IDS, st.integers(0, 2**32 - 1))
def test_no_table_keeps_a_loop_busy_or_leaves_an_array(ids, seed):
    """Whatever numbers are in the arrays, there is an answer or an error."""
    rng = np.random.default_rng(seed)
    n = len(ids)
    arrays = {name: array.copy() for name, array in ItemIds.of(ids, n, "ids").arrays().items()}
    for name, array in arrays.items():
        if len(array) and rng.integers(2):
            near = {"table": n, "offsets": len(arrays.get("text", [0])), "text": 256}.get(name, n)
            places = rng.integers(0, len(array), 1 + rng.integers(len(array)))
            values = rng.integers(-2, near + 2, len(places))
            array[places] = values.astype(array.dtype)
    items = ItemIds.restored(arrays, n, "state")
    for use in (
        lambda: items.rows_of(ids, "ids"),
        lambda: items.all(),
        lambda: items.changed(Change.removal(n, np.arange(n // 2))),
        lambda: items.added(others_of(ids), n),
    ):
        with contextlib.suppress(DiffusionError):
            use()
