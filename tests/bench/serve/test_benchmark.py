"""`python -m bench serve`: its clients, its figures from a small service, and its check."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

import diffusion
from bench.serve import benchmark, load, overload, soak, updates
from bench.serve.client import Answer, Client, ask, get, post
from bench.serve.service import running

SIZES = benchmark.Sizes(items=500, dimension=16, queries=24)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return the index, queries and a service of its own process."""
    index = tmp_path_factory.mktemp("serve") / "index"
    queries = benchmark.built(index, SIZES)
    with running(index) as service:
        yield index, queries, service


@pytest.mark.slow
def test_the_service_answers_every_query(served, capfd):
    _, queries, service = served
    requests = load.searches(queries)
    figures, failures = load.service_run(service, requests, 3, 0.2)
    assert failures == 0
    assert len(figures) == 5
    assert min(figures) > 0
    assert figures[1] <= figures[2]


def test_the_library_is_asked_for_the_same_queries(served):
    index, queries, _ = served
    figures = load.library_run(diffusion.load(index), queries, 5, 0.05)
    assert len(figures) == 4
    assert min(figures) > 0


def test_overload_is_counted(served):
    _, queries, service = served
    row = overload.overloaded(service, load.searches(queries), 8, 0.2, patient=False)
    rate, refused, *_, failures, _, status, _ = row
    assert rate > 0
    # Eight clients are no overload.
    assert (refused, failures, status) == (0, 0, 200)


def test_a_soak_has_every_kind_of_request_and_no_errors(served):
    index, queries, service = served
    kinds = soak.every_kind(index, queries)
    assert [status for _, status in kinds[:11]] == [200] * 10 + [422]
    errors, *_, early, middle, late = soak.soaked(service, kinds, 66, 10)
    assert errors == 0
    assert min(early, middle, late) > 10
    wrong = [(request, 404) for request, _ in kinds]
    assert soak.soaked(service, wrong, 11, 5)[0] == 11


def test_every_answer_beside_updates_is_that_of_a_state(served):
    index, queries, service = served
    row = asyncio.run(updates.beside(service.address, index, queries, 3))
    span, searches, failures, states, wrong, *_ = row
    assert " to " in span
    assert searches > 8
    assert (failures, wrong) == (0, 0)
    assert 1 <= states <= 4


def test_a_mixed_answer_is_found(served):
    index, queries, _ = served
    old = diffusion.load(index)
    new = diffusion.load(index).add(queries + 0.001, ids=np.arange(10_000, 10_000 + len(queries)))
    states = {1: old, 2: new}

    def answer(version, ranker):
        scores, ids = ranker.search(queries[5], load.K)
        results = [{"id": int(i), "score": float(s)} for i, s in zip(ids, scores, strict=True)]
        body = json.dumps({"version": version, "queries": [{"results": results}]}).encode()
        return Answer(5, 200, 0.0, body)

    good = [answer(1, old), answer(2, new)]
    assert updates.checked(good, states, queries) == (2, 0)
    assert updates.checked([*good, answer(1, new), answer(3, new)], states, queries) == (3, 2)


def test_a_client_reads_any_status_and_connects_again():
    answers = iter(
        [
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\nConnection: close\r\n\r\nc",
            b"",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ]
    )
    seen = []

    async def handle(reader, writer):
        while (answer := next(answers, None)) is not None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if not answer or b"close" in answer:
                break
        writer.close()

    async def talk():
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = Client(address)
            found = [await client.ask(get("/a")) for _ in range(4)]
            client.close()
            return found

    assert asyncio.run(talk()) == [(200, b"ab"), (503, b"c"), (0, b""), (204, b"")]
    assert seen == [get("/a")] * 4


def test_clients_share_the_requests(served):
    _, queries, service = served
    given = [get("/healthz"), *load.searches(queries), post("/nowhere", {})]
    answers = asyncio.run(ask(service.address, iter(given), 5, bodies=True))
    assert sorted(answer.number for answer in answers) == list(range(len(given)))
    by_number = {answer.number: answer for answer in answers}
    assert by_number[0].status == 200
    assert by_number[len(given) - 1].status == 404
    for row, query in enumerate(queries, 1):
        found = json.loads(by_number[row].body)["queries"][0]["results"]
        assert len(found) == load.K, query


@pytest.mark.slow
def test_a_service_ends_without_a_word(tmp_path, capfd):
    benchmark.built(tmp_path / "index", SIZES)
    with running(tmp_path / "index") as service:
        assert service.processor_seconds() > 0
    assert capfd.readouterr().err == ""
