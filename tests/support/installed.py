"""Tries the installed package in an environment that holds nothing else; run by `make package`."""

import importlib.util
import sys
from pathlib import Path

import diffusion


def main() -> None:
    loaded = {"torch", "sklearn", "numba", "faiss"} & set(sys.modules)
    assert not loaded, f"import diffusion loads {loaded}"
    assert importlib.util.find_spec("torch") is None, "the engine brings torch"
    assert Path(diffusion.__file__).is_relative_to(sys.prefix), diffusion.__file__

    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 8))
    X = centres[np.repeat([0, 1, 2], 20)] + 0.1 * rng.standard_normal((60, 8))
    ranker = diffusion.Reranker(k=10).fit(X)
    ids = ranker.search(centres, k=20)[1]
    assert (np.sort(ids, axis=1) == np.arange(60).reshape(3, 20)).all()
    ranker.save("index")
    assert (diffusion.load("index").search(centres, k=20)[1] == ids).all()
    # Its style and script are files of the package.
    from diffusion import page

    data, _ = page.answers(ranker, centres, ["a", "b", "c"])
    page.write("page.html", data)
    assert "prefers-color-scheme" in Path("page.html").read_text(encoding="utf-8")
    print("the installed package searches", diffusion.__version__)


main()
