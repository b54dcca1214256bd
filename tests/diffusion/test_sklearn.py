"""scikit-learn's contract: its own checks, pipelines and their picture."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils import estimator_html_repr, get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

import diffusion
from diffusion import RegionalReranker, Reranker

_TYPE_ERROR = "one error type for bad input, DiffusionError, which is a ValueError and no TypeError"
FAILED = {
    Reranker: {
        "check_n_features_in_after_fitting": "`score` is a parameter, which the check calls",
        "check_dtype_object": _TYPE_ERROR,
    },
    RegionalReranker: {
        "check_fit_score_takes_y": "the second argument is called `images`",
        "check_requires_y_none": "the error about missing numbers of images names `images`, not y",
        "check_estimators_nan_inf": "passes floats as y; numbers of images are integers",
        "check_dtype_object": _TYPE_ERROR,
    },
}


@pytest.mark.parametrize("kind", FAILED)
def test_the_estimator_checks_pass(kind):
    with warnings.catch_warnings():
        # We do not derive from BaseEstimator: its import takes longer than ours.
        warnings.simplefilter("ignore")
        results = check_estimator(kind(), expected_failed_checks=FAILED[kind], on_skip=None)
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert failed == set(FAILED[kind])  # no exception that is not needed
    assert sum(r["status"] == "passed" for r in results) > 25


def test_check_is_fitted(vectors):
    for ranker in (Reranker(k=5), RegionalReranker(k=5)):
        with pytest.raises(NotFittedError):
            check_is_fitted(ranker)
        check_is_fitted(ranker.fit(vectors, np.arange(120) // 3))
        assert ranker.n_features_in_ == 12
    scores, ids = diffusion.nearest_neighbors(vectors, 5)
    lists = Reranker(k=5).fit(vectors).fit_neighbors(scores, ids)
    check_is_fitted(lists)
    assert not hasattr(lists, "n_features_in_")  # the lists have no dimension
    assert Reranker(k=5).fit_neighbors(scores, ids, vectors).n_features_in_ == 12


def test_an_index_keeps_the_number_of_features(vectors, tmp_path):
    Reranker(k=5).fit(vectors).save(tmp_path / "index")
    loaded = diffusion.load(tmp_path / "index")
    check_is_fitted(loaded)
    assert loaded.n_features_in_ == 12


def test_tags():
    assert not get_tags(Reranker()).target_tags.required
    assert get_tags(RegionalReranker()).target_tags.required
    assert get_tags(Reranker()).estimator_type is None


def test_clone_copies_the_parameters_and_no_state(vectors):
    ranker = Reranker(k=5, solver=diffusion.CG(tol=1e-3), affinity=diffusion.Context(size=9))
    ranker.fit(vectors)
    other = clone(ranker)
    assert repr(other) == repr(ranker)
    assert not hasattr(other, "graph_")
    assert (other.fit(vectors).search(vectors)[1] == ranker.search(vectors)[1]).all()


def test_a_pipeline_fits_the_last_step_to_what_the_others_return(vectors):
    pipe = make_pipeline(PCA(6, random_state=0), Normalizer(), Reranker(k=5))
    assert pipe.fit(vectors) is pipe
    transformed = pipe[:-1].transform(vectors)
    expected = Reranker(k=5).fit(transformed).search(transformed[:7], 9)
    found = pipe[-1].search(pipe[:-1].transform(vectors[:7]), 9)
    assert (found[1] == expected[1]).all()
    assert pipe[-1].n_features_in_ == 6
    check_is_fitted(pipe)
    pipe.set_params(reranker__k=7)
    assert clone(pipe).get_params()["reranker__k"] == 7
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(pipe)[-1])


def test_a_pipeline_passes_the_images_of_regions_on(vectors):
    images = np.arange(120) // 3
    pipe = make_pipeline(Normalizer(), RegionalReranker(k=5)).fit(vectors, images)
    expected = RegionalReranker(k=5).fit(vectors, images).search(vectors[:3], k=4)
    assert (pipe[-1].search(pipe[:-1].transform(vectors[:3]), k=4)[1] == expected[1]).all()


def test_the_picture_of_a_pipeline(vectors):
    pipe = make_pipeline(Normalizer(), Reranker(k=5, alpha=0.9))
    assert "Reranker(k=5, alpha=0.9)" in estimator_html_repr(pipe)
    picture = estimator_html_repr(pipe.fit(vectors))
    assert "Reranker(k=5, alpha=0.9)" in picture
    assert "Not fitted" not in picture


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda ranker: pickle.loads(pickle.dumps(ranker))]
)
def test_copies_answer_and_keep_the_report(vectors, copied):
    for ranker in (
        Reranker(k=5).fit(vectors),
        RegionalReranker(k=5).fit(vectors, np.arange(120) // 3),
    ):
        expected = ranker.search(vectors[0])
        other = copied(ranker)
        assert (other.report_.residual == ranker.report_.residual).all()
        assert (other.search(vectors[0])[1] == expected[1]).all()


def test_neither_import_nor_fit_imports_scikit_learn():
    code = """if True:
        import sys, numpy as np, diffusion
        diffusion.Reranker(k=2).fit(np.eye(4) + 0.1).get_params()
        print("sklearn" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_packages_say_that_they_are_typed():
    root = Path(diffusion.__file__).parents[1]
    assert (root / "diffusion" / "py.typed").is_file()
    assert (root / "features" / "py.typed").is_file()
