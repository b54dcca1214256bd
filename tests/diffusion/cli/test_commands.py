from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import diffusion
from diffusion import cli
from diffusion.cli.files import print_facts
from diffusion.index_state import open_state, save_state
from diffusion.storage import runs


@pytest.fixture
def folder(vectors, tmp_path, monkeypatch):
    """A working directory with vectors, queries and labels."""
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", vectors)
    np.save("queries.npy", vectors[[0, 50, 100]] + 0.01)
    np.save("labels.npy", np.repeat([0, 1, 2], 40))
    np.save("query_labels.npy", np.array([0, 1, 2]))
    return tmp_path


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture
def index(folder, capsys):
    assert run("build", "vectors.npy", "index", "-k", 8, "-q") == 0
    capsys.readouterr()
    return folder / "index"


def test_build_equals_the_library(index, vectors):
    loaded = diffusion.load(index, verify=True)
    expected = diffusion.Reranker(k=8).fit(vectors)
    assert (loaded.graph_.W.toarray() == expected.graph_.W.toarray()).all()
    assert os.listdir(index.parent).count("index.partial") == 0


def test_build_from_neighbour_lists(folder, vectors, capsys):
    scores, ids = diffusion.nearest_neighbors(vectors, 8)
    np.save("scores.npy", scores)
    np.save("ids.npy", ids)
    lists = ("--neighbor-scores", "scores.npy", "--neighbor-ids", "ids.npy")
    assert run("build", "lists", *lists, "-k", 8, "-q") == 0
    assert "Graph(120 nodes" in capsys.readouterr().out
    assert (
        diffusion.load("lists").graph_.n_edges
        == diffusion.Reranker(k=8).fit(vectors).graph_.n_edges
    )
    assert run("build", "vectors.npy", "both", *lists, "-k", 8, "-q") == 0
    assert run("search", "both", "queries.npy", "-o", "out.npz", "-q") == 0
    assert run("search", "lists", "queries.npy", "-o", "out.npz", "-q") == 2


def test_search_as_npz_equals_the_library(index, folder, vectors):
    assert run("search", "index", "queries.npy", "-k", 9, "-o", "out.npz", "-q") == 0
    with np.load("out.npz") as out:
        scores, ids = diffusion.load(index).search(np.load("queries.npy"), 9)
        assert (out["ids"] == ids).all()
        assert (out["scores"] == scores).all()
    assert sorted(os.listdir(folder)) == sorted(
        ["vectors.npy", "queries.npy", "labels.npy", "query_labels.npy", "index", "out.npz"]
    )


def test_search_as_a_trec_run(index, capsys):
    assert run("search", "index", "queries.npy", "-k", 4, "-q") == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert len(lines) == 12
    assert [line[3] for line in lines[:4]] == ["1", "2", "3", "4"]
    expected = diffusion.load(index).search(np.load("queries.npy"), 4)
    assert [int(line[0]) for line in lines] == np.repeat([0, 1, 2], 4).tolist()
    assert [int(line[2]) for line in lines] == expected[1].ravel().tolist()
    assert run("search", "index", "queries.npy", "-k", 4, "-q", "-o", "out.run") == 0
    with open("out.run") as file:
        assert file.read() == printed
    scores, ids = runs.read_results("out.run")
    assert (ids == expected[1]).all()
    np.testing.assert_array_equal(scores, expected[0])


def test_padding_is_left_out_of_a_run_and_comes_back(tmp_path):
    scores = np.array([[0.5, -np.inf], [0.25, 0.125]], np.float32)
    ids = np.array([[3, -1], [1, 2]])
    runs.write_results(tmp_path / "a.run", scores, ids)
    assert (tmp_path / "a.run").read_text().count("\n") == 3
    read = runs.read_results(tmp_path / "a.run")
    assert (read[0] == scores).all()
    assert (read[1] == ids).all()


@pytest.mark.parametrize("name", ["first.npz", "first.run"])
def test_rerank_takes_either_format(index, vectors, name):
    scores, ids = diffusion.nearest_neighbors(vectors, 20)
    runs.write_results(name, scores[:5], ids[:5])
    assert run("rerank", "index", name, "-k", 6, "-o", "out.npz", "-q") == 0
    expected = diffusion.load(index).rerank(scores[:5], ids[:5], 6)
    assert (np.load("out.npz")["ids"] == expected[1]).all()
    options = ("--restrict-to-candidates", "-k", 20, "-o", "out.npz", "-q")
    assert run("rerank", "index", name, *options) == 0
    restricted = np.load("out.npz")["ids"]
    assert (np.sort(restricted, axis=1) == np.sort(ids[:5], axis=1)).all()


NAMES = [f"{number:03}é.jpg" for number in range(120)]


@pytest.fixture(params=["text", "npy"])
def named_index(request, folder, vectors):
    """Build an index with names, and one with row numbers beside it."""
    if request.param == "text":
        (folder / "ids.txt").write_text("\r\n".join(NAMES) + "\n", encoding="utf-8", newline="")
    else:
        np.save(folder / "ids.npy", NAMES)
    file = {"text": "ids.txt", "npy": "ids.npy"}[request.param]
    assert run("build", "vectors.npy", "index", "--ids", file, "-q") == 0
    assert run("build", "vectors.npy", "plain", "-q") == 0


@pytest.mark.parametrize("suffix", ["npz", "run"])
def test_names_in_every_format(named_index, folder, suffix, capsys):
    one, plain = f"out.{suffix}", f"plain.{suffix}"
    assert run("search", "index", "queries.npy", "-k", 130, "-o", one, "-q") == 0
    assert run("search", "plain", "queries.npy", "-k", 130, "-o", plain, "-q") == 0
    scores, ids = runs.read_results(one, names=True)
    rows = runs.read_results(plain)[1]
    assert ids[:, :120].tolist() == np.array(NAMES)[rows[:, :120]].tolist()
    assert not ids[:, 120:].any()
    # From names to names, with an item that is not in the index.
    hits = scores[:, :9], ids[:, :9].astype(object)
    hits[1][1, 2] = "fresh.jpg"
    runs.write_results(f"hits.{suffix}", *hits)
    assert run("rerank", "index", f"hits.{suffix}", "-k", 6, "-o", f"again.{suffix}", "-q") == 0
    again = runs.read_results(f"again.{suffix}", names=True)[1]
    assert again.tolist() == diffusion.load("index").rerank(*hits, 6)[1].tolist()
    with open("truth.qrels", "w", encoding="utf-8") as file:
        for number, name in enumerate(NAMES):
            file.write(f"{number // 40} 0 {name} 1\n")
    with open("rows.qrels", "w") as file:
        for number in range(120):
            file.write(f"{number // 40} 0 {number} 1\n")
    capsys.readouterr()
    assert run("evaluate", one, "--qrels", "truth.qrels", "--json") == 0
    assert run("evaluate", plain, "--qrels", "rows.qrels", "--json") == 0
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]


def test_an_index_is_changed(index, vectors, capsys):
    np.save("new.npy", vectors[:5] + 0.1)
    assert run("add", "index", "new.npy", "-q") == 0
    assert capsys.readouterr().out.startswith("index: 125 items; Graph(125 nodes")
    assert run("remove", "index", 3, 124, "-q") == 0
    (index.parent / "gone.txt").write_text("7\n9\n")
    assert run("remove", "index", "--ids", "gone.txt", "-q") == 0
    capsys.readouterr()
    changed = diffusion.load(index, verify=True)
    expected = diffusion.Reranker(k=8).fit(vectors)
    expected.add(vectors[:5] + 0.1).remove([3, 124]).remove([7, 9])
    assert changed.ids_.tolist() == expected.ids_.tolist()
    assert (changed.graph_.W != expected.graph_.W).nnz == 0


def test_an_index_with_names_is_changed(named_index, folder, vectors, capsys):
    names = diffusion.load("index").ids_.tolist()
    np.save("new.npy", vectors[:2] + 0.1)
    (folder / "new.txt").write_text("one\ntwo é\n")
    assert run("add", "index", "new.npy", "--ids", "new.txt", "-q") == 0
    assert run("remove", "index", names[4], "two é", "-q") == 0
    left = set(diffusion.load("index").ids_.tolist())
    assert left == {*names, "one"} - {names[4]}
    capsys.readouterr()
    for arguments, message in (
        (("remove", "index", "nobody"), "ids: expected ids of the collection"),
        (("remove", "index"), "ID, --ids: expected ids, or a file of ids"),
        (("add", "index", "new.npy"), "ids: "),
        (("add", "index", "absent.npy"), "absent.npy: "),
        (("add", "absent", "new.npy"), "absent: expected an index"),
    ):
        assert run(*arguments, "-q") == 2
        assert capsys.readouterr().err.startswith(f"diffusion: error: {message}")
    assert set(diffusion.load("index").ids_.tolist()) == left


def test_lists_with_item_ids(folder, vectors):
    scores, rows = diffusion.nearest_neighbors(vectors, 10)
    numbers = np.arange(120) * 10**12 - 60
    for name, array in {"s": scores, "i": numbers[rows], "ids": numbers}.items():
        np.save(folder / f"{name}.npy", array)
    options = ("--neighbor-scores", "s.npy", "--neighbor-ids", "i.npy", "--ids", "ids.npy")
    assert run("build", "index", *options, "-q") == 0
    runs.write_results("hits.run", scores[:2], numbers[rows[:2]])
    assert run("rerank", "index", "hits.run", "-k", 4, "-o", "out.run", "-q") == 0
    ids = runs.read_results("out.run")[1]
    expected = diffusion.Reranker().fit_neighbors(scores, rows).rerank(scores[:2], rows[:2], 4)
    assert (ids == numbers[expected[1]]).all()


def test_unknown_items_of_a_run_are_kept(index):
    runs.write_results("far.run", np.array([[0.9, 0.5]]), np.array([[500, 3]]))
    assert run("rerank", "index", "far.run", "-k", 5, "-o", "out.npz", "-q") == 0
    assert 500 in np.load("out.npz")["ids"]


def test_white_space_in_a_name_needs_another_format(folder, vectors, capsys):
    (folder / "ids.txt").write_text("\n".join(f"a {name}" for name in NAMES), encoding="utf-8")
    assert run("build", "vectors.npy", "index", "--ids", "ids.txt", "-q") == 0
    capsys.readouterr()
    for output in ((), ("-o", "out.run")):
        assert run("search", "index", "queries.npy", "-q", *output) == 2
        printed = capsys.readouterr()
        assert "ids: expected ids without white space for a TREC run" in printed.err
        assert not printed.out
    assert run("search", "index", "queries.npy", "-q", "-o", "out.npz") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n", "ids.txt: expected 120 ids, one for each row of X, got 2"),
        (b"\n".join([b"a"] * 120), "ids.txt: expected each id once, rows 0 and 1 have 'a'"),
        (b"\n".join([b"a", b"", *(b"%d" % i for i in range(118))]), "ids.txt: expected ids other"),
        (b"\xff\xfe\n", "ids.txt: expected an .npy file or a text file in UTF-8"),
        (None, "ids.txt: cannot be read"),
    ],
)
def test_bad_files_of_ids_are_named(folder, vectors, capsys, content, message):
    if content is not None:
        (folder / "ids.txt").write_bytes(content)
    assert run("build", "vectors.npy", "index", "--ids", "ids.txt", "-q") == 2
    assert message in capsys.readouterr().err


def test_explain_says_what_the_library_says(index, capsys):
    assert run("explain", "index", "queries.npy", 7, "--query", 1, "--chains", 2) == 0
    expected = diffusion.load(index).explain(np.load("queries.npy")[1], 7, n_chains=2)
    assert capsys.readouterr().out == f"{expected}\n"
    np.save("one.npy", np.load("queries.npy")[1])
    assert run("explain", "index", "one.npy", 7, "--chains", 2, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(expected.as_dict()))


def test_explain_takes_the_ids_of_the_index(folder, vectors, capsys):
    names = [f"{i:03}" for i in range(120)]
    diffusion.Reranker(k=8).fit(vectors, ids=names).save("named")
    assert run("explain", "named", "queries.npy", "007", "--query", 1) == 0
    expected = diffusion.load("named").explain(np.load("queries.npy")[1], "007")
    assert capsys.readouterr().out == f"{expected}\n"
    assert run("explain", "named", "queries.npy", "7", "--query", 1) == 2
    assert "id: expected the id of an item, got '7'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["first.npz", "first.run"])
def test_explain_takes_first_stage_results(index, vectors, capsys, name):
    scores, ids = diffusion.nearest_neighbors(vectors, 20)
    runs.write_results(name, scores[:2], ids[:2])
    assert run("explain", "index", name, 7, "--query", 0) == 0
    expected = diffusion.load(index).explain(id=7, hits=(scores[0], ids[0]))
    assert capsys.readouterr().out == f"{expected}\n"


def test_evaluate_by_labels_and_by_qrels(index, capsys):
    run("search", "index", "queries.npy", "-k", 120, "-o", "out.npz", "-q")
    labels = ("--gallery-labels", "labels.npy", "--query-labels", "query_labels.npy")
    assert run("evaluate", "out.npz", *labels, "--json", "--at", 40) == 0
    by_labels = json.loads(capsys.readouterr().out)
    ids = np.load("out.npz")["ids"]
    hits = ids // 40 == np.arange(3)[:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, 121)
    assert by_labels["mAP"] == pytest.approx((precision * hits).sum() / 120)
    assert by_labels["mP@40"] == pytest.approx(hits[:, :40].mean())
    assert by_labels["recall@40"] == by_labels["mP@40"]
    with open("truth.qrels", "w") as file:
        for query in range(3):
            for item in range(40 * query, 40 * query + 40):
                file.write(f"{query} 0 {item} 1\n")
    assert run("evaluate", "out.npz", "--qrels", "truth.qrels", "--json", "--at", 40) == 0
    assert json.loads(capsys.readouterr().out) == by_labels
    # With every wrong item declared junk, the ranking is perfect.
    with open("truth.qrels", "a") as file:
        for query in range(3):
            for item in set(range(120)) - set(range(40 * query, 40 * query + 40)):
                file.write(f"{query} 0 {item} -1\n")
    run("evaluate", "out.npz", "--qrels", "truth.qrels", "--json")
    assert json.loads(capsys.readouterr().out)["mAP (trapezoidal)"] == 1


RUN = """\
\ufeffq1 Q0 docs/a.html 1 9.5 engine
q1 Q0 b 2 9.5 engine
q1\tQ0\tc\t1\t12\tengine
q2 Q0 a 0 1e-3 engine
q2 Q0 \u00e9t\u00e9 x 7 engine
q3 Q0 a 1 1 engine

"""
QRELS = """\
q1 0 b 1
q1 0 c -1
q1 0 z 2
q2 0 \u00e9t\u00e9 1
q2 0 a 0
q4 0 a 1
q5 0 a 0
"""


def test_evaluate_reads_names_as_trec_eval_does(folder, capsys):
    (folder / "names.run").write_text(RUN, encoding="utf-8")
    (folder / "names.qrels").write_text(QRELS, encoding="utf-8")
    assert run("evaluate", "names.run", "--qrels", "names.qrels", "--json", "--at", 1) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    # q1: the junk c leaves a, b: the first of two relevant items is at rank 2. q2: its only item
    # comes first by its score. q3 is not judged, q4 has no results, q5 has nothing to find.
    assert figures["mAP@3"] == pytest.approx((0.5 / 2 + 1 + 0) / 3)
    assert figures["mAP@3 (trapezoidal)"] == pytest.approx((0.25 / 2 + 1 + 0) / 3)
    assert figures["mP@1"] == pytest.approx(1 / 3)
    assert figures["recall@1"] == pytest.approx(1 / 3)
    assert figures["queries"] == 4
    assert figures["queries with relevant items"] == 3
    assert figures["queries without results"] == 1
    assert printed.err.count("\n") == 1
    assert "cut at 3 results and lack 2 of 4 relevant items" in printed.err


def test_lists_that_are_cut_have_no_map(index, capsys):
    """The mAP of 20 results is called mAP@20; that of full rankings keeps its name."""
    labels = ("--gallery-labels", "labels.npy", "--query-labels", "query_labels.npy")
    found = {}
    for k, name in ((120, "full.npz"), (20, "cut.npz"), (20, "cut.run")):
        assert run("search", "index", "queries.npy", "-k", k, "-o", name, "-q") == 0
        assert run("evaluate", name, *labels, "--json") == 0
        printed = capsys.readouterr()
        found[name] = json.loads(printed.out)
        note = "diffusion: note: the lists are cut at 20 results and lack 60 of 120 relevant items"
        assert printed.err.startswith(note if k == 20 else "")
        assert printed.err.count("\n") == (k == 20)
    full, cut = found["full.npz"], found["cut.npz"]
    assert found["cut.run"] == cut
    assert {"mAP", "mAP (trapezoidal)"} < set(full)
    assert {"mAP@20", "mAP@20 (trapezoidal)"} < set(cut)
    assert {"mAP", "mAP (trapezoidal)"}.isdisjoint(cut)
    assert cut["mAP@20"] <= 0.5 < full["mAP"]
    assert (full["longest list"], cut["longest list"]) == (120, 20)
    assert full["mP@5"] == cut["mP@5"]
    assert run("evaluate", "cut.npz", *labels) == 0
    assert "mAP@20" in capsys.readouterr().out


def test_a_run_with_one_list_of_another_length_is_not_padded(folder, capsys):
    with open("long.run", "w") as file:
        for query in range(3000):
            file.write(f"q{query} Q0 a 1 1 t\n")
        for item in range(8000):
            file.write(f"q Q0 d{item} {item} {-item} t\n")
    (folder / "a.qrels").write_text("q 0 d1 1\n")
    assert run("evaluate", "long.run", "--qrels", "a.qrels") == 2
    assert "long.run: expected lists of similar lengths" in capsys.readouterr().err


def test_a_run_is_evaluated_in_the_order_of_its_scores(folder, capsys):
    (folder / "a.run").write_text("0 Q0 3 1 0.5 t\n0 Q0 50 2 0.75 t\n0 Q0 4 3 0.5 t\n")
    np.save("query_labels.npy", np.array([1]))  # items 40 to 79
    (folder / "a.qrels").write_text("0 0 50 1\n")
    labels = ("--gallery-labels", "labels.npy", "--query-labels", "query_labels.npy")
    for truth in (labels, ("--qrels", "a.qrels")):
        assert run("evaluate", "a.run", *truth, "--json", "--at", 1) == 0
        assert json.loads(capsys.readouterr().out)["mP@1"] == 1


def test_json_is_strict(capsys):
    print_facts({"a": float("nan"), "b": [1.5, float("-inf")], "c": {"d": float("inf")}}, True)
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": None},
    }


def test_info(index, capsys):
    assert run("info", "index", "--verify") == 0
    printed = capsys.readouterr().out
    assert "120" in printed
    assert "verified" in printed
    assert run("info", "index", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["k"] == 8
    assert facts["items"] == 120
    file = next(index.rglob("vectors.npy"))
    file.write_bytes(file.read_bytes()[:-4] + b"ABCD")
    assert run("info", "index") == 0
    capsys.readouterr()
    assert run("info", "index", "--verify") == 2
    assert "vectors.npy: altered" in capsys.readouterr().err


def test_info_of_an_index_of_regions_and_of_one_with_parts(index, vectors, capsys):
    regional = diffusion.RegionalReranker(k=5).fit(vectors, np.arange(120) // 3)
    regional.save("regional")
    assert run("info", "regional", "--json", "--verify") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["items"], facts["images"], facts["pooling"]) == (120, 40, "gmp")
    assert facts["graph"]["n_items"] == 120
    names = {"image_names": np.frombuffer(b"a.jpg" * 120, np.uint8)}
    state = open_state("index").with_part("images", {"recipe": None}, names)
    save_state("photos", state)
    assert open_state("photos").parts == {"images": {"recipe": None}}
    assert run("info", "photos", "--verify") == 0
    assert "image_names uint8 (600,)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="taken"):
        state.with_part("sizes", {}, {})
    with pytest.raises(ValueError, match="taken"):
        state.with_part("more", {}, names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "nan.npy", "new"], "nan.npy: expected finite values, row 1 holds NaN"),
        (["build", "nothing.npy", "new"], "nothing.npy: cannot be read"),
        (["build", "text.npy", "new"], "text.npy: expected a .npy file"),
        (["build", "pickled.npy", "new"], "pickled.npy: expected a .npy file"),
        (["build", "vectors.npy", "new", "-k", "0"], "k: expected an integer of at least 1"),
        (["build", "vectors.npy", "new", "--alpha", "2"], "alpha: expected a number in"),
        (
            ["build", "vectors.npy", "new", "--metric", "euclidean", "--affinity", "cosine"],
            "affinity='context' or 'gaussian'",
        ),
        (["build", "vectors.npy", "text.npy"], "text.npy: expected a directory"),
        (["build", "new"], "VECTORS.npy: expected a file"),
        (["build", "new", "--neighbor-ids", "labels.npy"], "expected both or neither"),
        (["build", "new", "--neighbor-ids", "labels.npy", "--neighbor-scores", "labels.npy"],
         "labels.npy: expected shape (m, k)"),
        (["search", "nothing", "queries.npy", "-o", "new"], "nothing: expected an index"),
        (["search", "index", "labels.npy", "-o", "new"], "labels.npy: expected vectors of dimens"),
        (["search", "index", "nan.npy", "-o", "new"], "nan.npy: expected vectors of dimension 12"),
        (["search", "index", "queries.npy", "-o", "no/new"], "expected a file in a directory"),
        (["rerank", "index", "text.npy", "-o", "new"], "text.npy: line 1: expected 6 fields"),
        (["rerank", "index", "words.run", "-o", "new"], "words.run: line 1: item: expected a row"),
        (["rerank", "index", "empty.run", "-o", "new"], "empty.run: expected a TREC run"),
        (["rerank", "index", "vectors.npy", "-o", "new"], "vectors.npy: expected an .npz file"),
        (["explain", "index", "queries.npy", "7"], "--query: expected the number of a query in"),
        (["explain", "index", "queries.npy", "7", "--query", "3"], "from 0 to 2, got 3"),
        (["explain", "index", "queries.npy", "120", "--query", "0"], "id: expected the id of an"),
        (["explain", "index", "queries.npy", "cat", "--query", "0"], "expected int64 ids"),
        (["explain", "index", "absent.npy", "7"], "absent.npy: cannot be read"),
        (["explain", "index", "bad.npz", "7"], "bad.npz: expected arrays 'scores' and"),
        (["rerank", "index", "bad.npz", "-o", "new"], "bad.npz: expected arrays 'scores' and"),
        (["evaluate", "far.run"], "expected one of them"),
        (["evaluate", "far.run", "--qrels", "text.npy"], "text.npy: line 1: expected 4 fields"),
        (["evaluate", "far.run", "--qrels", "empty.run"], "something relevant to find"),
        (["evaluate", "far.run", "--qrels", "q.qrels"],
         "q.qrels: expected judgements of the queries of far.run, such as '0'; got those of"),
        (["evaluate", "far.npz", "--qrels", "q.qrels"], "q.qrels: line 1: query: expected a row"),
        (["evaluate", "words.run", "--gallery-labels", "labels.npy", "--query-labels",
          "labels.npy"], "words.run: line 1: item: expected a row number, got 'pear' (only"),
        (["evaluate", "twice.run", "--qrels", "q.qrels"],
         "twice.run: line 2: expected each item at most once per query, query 'q' has 'pear' twi"),
        (["evaluate", "nan.run", "--qrels", "q.qrels"], "nan.run: line 1: score: expected a num"),
        (["evaluate", "far.run", "--gallery-labels", "labels.npy", "--query-labels",
          "labels.npy"], "labels.npy: expected shape (1,)"),
        (["info", "nothing"], "nothing: expected an index"),
        (["frobnicate"], "invalid choice"),
        (["search", "index"], "QUERIES.npy: expected a file"),
        (["search", "index", "--image", "a.jpg"], "by `features search INDEX PHOTO...`"),
        (["search", "index", "--image", "a.jpg", "-k", "3", "-q", "--weights", "w"],
         "by `features search INDEX PHOTO...`"),
        (["build", "index", "new"], "built by `features index PHOTOS INDEX`"),
        (["demo", "--folder", "new", "-q"], "run `features demo`"),
        ([], "required: VERB"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(index, folder, capsys, arguments, message):
    np.save("nan.npy", np.array([[1.0, 2.0], [np.nan, 1.0]]))
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("bad.npz", other=np.ones(3))
    np.savez("far.npz", scores=np.ones((1, 1)), ids=np.array([[500]]))
    for name, text in {
        "text.npy": "some words\n",
        "far.run": "0 Q0 500 1 0.5 tag\n",
        "words.run": "0 Q0 pear 1 0.5 tag\n",
        "empty.run": "\n",
        "twice.run": "q Q0 pear 1 0.5 tag\nq Q0 pear 2 0.4 tag\n",
        "nan.run": "0 Q0 5 1 nan tag\n",
        "q.qrels": "7 0 1 1\n",
    }.items():
        (folder / name).write_text(text)
    before = sorted(folder.rglob("*"))
    try:
        status = run(*arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("diffusion: error: ")
    assert message in error
    assert sorted(folder.rglob("*")) == before


def test_a_warning_is_one_line(folder, capsys):
    solver = diffusion.CG(max_iter=1)
    diffusion.Reranker(k=8, solver=solver).fit(np.load("vectors.npy")).save("index")
    assert run("search", "index", "queries.npy", "-q") == 0
    error = capsys.readouterr().err
    assert error.startswith("diffusion: warning: 3 of 3 observations have not converged")
    assert error.count("\n") == 1


def test_the_command_itself(index, folder):
    """The installed command, its exit status and a reader that goes away."""
    command = [sys.executable, "-m", "diffusion.cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"diffusion-rerank {diffusion.__version__}"
    pipe = subprocess.run(
        f"'{sys.executable}' -m diffusion.cli search index queries.npy -k 120 -q | head -1",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert pipe.stdout.count("\n") == 1
    assert pipe.stderr == ""
    # A bar is shown where it can move: from the second batch of 4096 queries on.
    np.save("many.npy", np.tile(np.load("queries.npy"), (1400, 1)))
    for queries, bar in (("queries.npy", False), ("many.npy", True)):
        bars = subprocess.run(
            [*command, "search", "index", queries, "-k", "2", "-o", "out.npz"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ("diffuse: 100%" in bars.stderr) == bar
        assert bars.stdout == ""


def test_a_cautious_search_equals_that_of_the_library(index, folder, monkeypatch):
    # A model with low confidence in such queries, whatever the one fitted to the survey says.
    monkeypatch.setattr(diffusion.confidence, "_MODEL", (0.65, 3.33, -1.24))
    queries = np.random.default_rng(3).standard_normal((5, np.load("vectors.npy").shape[1]))
    np.save("queries.npy", queries)
    ranker = diffusion.load(index)
    plain = ranker.search(queries, 60)[1]
    ranker.cautious = True
    scores, ids = ranker.search(queries, 60)
    assert (ids != plain).any()
    first, _ = ranker.fitted().first_stage(queries, 120, query_k=10, progress=False)
    runs.write_results("hits.npz", *first)
    for verb, given in (("search", "queries.npy"), ("rerank", "hits.npz")):
        assert run(verb, index, given, "--cautious", "-k", 60, "-o", "out.npz", "-q") == 0
        found = runs.read_results("out.npz")
        assert (found[1] == ids).all()
        assert found[0] == pytest.approx(scores, abs=1e-6)
