"""Pages and figures of queries of an index on disk."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import diffusion
from bench.cluster import pages, queries
from diffusion import DiffusionError
from diffusion.index_state import open_state

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not pages.supported(), reason="counts pages of Linux"
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("index") / "index"
    scores, ids = diffusion.nearest_neighbors(rng.standard_normal((3000, 4)), k=20)
    diffusion.Reranker(k=20).fit_neighbors(scores, ids).save(path)
    return path, scores[:4], ids[:4]


def test_pages_that_are_read_are_counted(index):
    arrays, files = open_state(index[0]).arrays, pages.mapped_files(index[0])
    assert arrays.keys() == files.keys()
    pages.make_cold(arrays, files)
    pages.advise(arrays, pages.READ_ONE)
    assert not any(pages.resident(arrays).values())
    array = arrays["affinity_ids"].reshape(-1)
    per_page = pages.PAGE // array.itemsize
    expected = array[2 * per_page] + array[9 * per_page]
    counts = pages.resident(arrays)
    # The system may use pages of another size than that of a mapping.
    assert 2 <= counts.pop("affinity_ids") <= 32
    assert not any(counts.values())
    pages.make_cold(arrays, files)
    assert not any(pages.resident(arrays).values())
    assert array[2 * per_page] + array[9 * per_page] == expected


def test_what_is_no_index_or_is_patched_is_refused(index, tmp_path):
    with pytest.raises(DiffusionError, match="expected an index"):
        pages.mapped_files(tmp_path)
    manifest = json.loads((index[0] / "manifest.json").read_text())
    manifest["arrays"]["graph_order"]["patch"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DiffusionError, match="expected an index that was not changed"):
        pages.mapped_files(tmp_path)


def test_queries_are_measured_in_a_process_of_their_own(index):
    path, scores, ids = index
    figures = queries.measure_queries(path, scores, ids, k=10, cold=2)
    assert figures["n"] == 3000
    assert figures["solver"] == "local"
    assert 0 < figures["support"]["median"] <= figures["support"]["p90"] <= 3000
    assert figures["pushes"]["median"] > 0
    stored = sum(
        -(-file.stat().st_size // pages.PAGE) for file in pages.mapped_files(path).values()
    )
    assert 0 < figures["pages_median"] <= figures["pages_p90"] <= stored
    assert figures["pages"]["graph_indices"] > 0
    assert figures["anonymous_mb"] > figures["before_mb"] > 0
    assert "3,000" in str(queries.table_of([figures]))
    assert "graph_indices" in str(queries.pages_table([figures]))
