"""Requests that arrive together are answered together, from one state, and from a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import diffusion
from diffusion.serve.batching import Batcher, FullError
from tests.support.serving import Gate, app_of, asking, figure, saved, vectors, waiting


class Thread:
    """What a Batcher calls: it keeps the batches, and answers when it may."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()

    def answer(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        assert self.free.wait(60)
        if "bad" in items:
            raise ValueError("bad")
        return [f"{item}!" for item in items]

    async def begun(self, count: int) -> None:
        while len(self.batches) < count:
            await asyncio.sleep(0)


def run(
    test: Callable[[Batcher, Thread], Any], *, most: int = 8, waiting: int = 100, **more: Any
) -> Thread:
    thread = Thread()
    batcher = Batcher("test", thread.answer, most=most, waiting=waiting, **more)

    async def whole() -> None:
        async with asyncio.timeout(60):
            await test(batcher, thread)

    try:
        asyncio.run(whole())
    finally:
        thread.free.set()
        batcher.close()
    return thread


def ask(batcher: Batcher, item: Any, key: Any = None, size: int = 1) -> asyncio.Task[Any]:
    return asyncio.create_task(batcher.ask(key, item, size))


def test_what_arrives_in_one_turn_is_one_batch():
    async def test(batcher, thread):
        thread.free.set()
        tasks = [ask(batcher, item) for item in "abc"]
        assert await asyncio.gather(*tasks) == ["a!", "b!", "c!"]

    assert run(test).batches == [["a", "b", "c"]]


def test_what_arrives_meanwhile_is_the_next_batch():
    async def test(batcher, thread):
        first = ask(batcher, "a")
        await thread.begun(1)
        others = [ask(batcher, item) for item in "bcd"]
        await asyncio.sleep(0)
        assert batcher.held == 4
        thread.free.set()
        assert await asyncio.gather(first, *others) == ["a!", "b!", "c!", "d!"]
        assert batcher.held == 0

    assert run(test).batches == [["a"], ["b", "c", "d"]]


def test_keys_do_not_mix_and_take_turns():
    async def test(batcher, thread):
        tasks = [ask(batcher, "first")]
        await thread.begun(1)
        tasks += [ask(batcher, f"a{i}", "a") for i in range(6)]
        tasks += [ask(batcher, f"b{i}", "b") for i in range(2)]
        await asyncio.sleep(0)
        thread.free.set()
        await asyncio.gather(*tasks)

    assert run(test, most=2).batches == [
        ["first"], ["a0", "a1"], ["b0", "b1"], ["a2", "a3"], ["a4", "a5"],
    ]  # fmt: skip


def test_a_batch_is_bounded_by_the_sizes_and_a_large_request_is_answered_alone():
    sizes: list[int] = []

    async def test(batcher, thread):
        thread.free.set()
        tasks = [
            ask(batcher, item, size=size)
            for item, size in zip("abcde", (2, 2, 1, 9, 3), strict=True)
        ]
        await asyncio.gather(*tasks)

    assert run(test, most=4, watch=sizes.append).batches == [["a", "b"], ["c"], ["d"], ["e"]]
    assert sizes == [4, 1, 9, 3]


def test_one_that_fails_does_not_fail_the_others():
    async def test(batcher, thread):
        thread.free.set()
        tasks = [ask(batcher, item) for item in ("a", "bad", "c")]
        a, bad, c = await asyncio.gather(*tasks, return_exceptions=True)
        assert (a, c) == ("a!", "c!")
        assert isinstance(bad, ValueError)

    assert run(test).batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


def test_answers_that_are_too_few_are_an_error():
    batcher = Batcher("test", lambda items: [], most=4, waiting=4)

    async def test():
        with pytest.raises(RuntimeError, match="0 answers to 1"):
            await batcher.ask(None, "a")

    asyncio.run(test())
    batcher.close()


def test_what_exceeds_the_queue_is_refused_until_there_is_room():
    async def test(batcher, thread):
        tasks = [ask(batcher, "a", size=2)]
        await thread.begun(1)
        tasks += [ask(batcher, "b"), ask(batcher, "c")]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await batcher.ask(None, "d")
        thread.free.set()
        assert await asyncio.gather(*tasks) == ["a!", "b!", "c!"]
        assert await batcher.ask(None, "d") == "d!"
        assert await batcher.ask(None, "larger than the queue", size=50) == "larger than the queue!"

    run(test, waiting=4)


def test_what_is_cancelled_costs_nothing():
    async def test(batcher, thread):
        tasks = [ask(batcher, item) for item in "a"]
        await thread.begun(1)
        others = [ask(batcher, "gone", key) for key in (None, "other")]
        tasks.append(ask(batcher, "b"))
        await asyncio.sleep(0)
        for other in others:
            other.cancel()
        assert await asyncio.gather(*others, return_exceptions=True)
        assert batcher.held == 2
        thread.free.set()
        await asyncio.gather(*tasks)

    assert run(test).batches == [["a"], ["b"]]


def test_what_is_cancelled_while_it_is_answered_leaves_the_others():
    async def test(batcher, thread):
        tasks = [ask(batcher, item) for item in "abc"]
        await thread.begun(1)
        tasks[1].cancel()
        thread.free.set()
        a, _, c = await asyncio.gather(*tasks, return_exceptions=True)
        assert (a, c, batcher.held) == ("a!", "c!", 0)

    run(test)


def test_what_waits_when_the_service_ends_is_refused():
    async def test(batcher, thread):
        first = ask(batcher, "a")
        await thread.begun(1)
        second = ask(batcher, "b")
        await asyncio.sleep(0)
        thread.free.set()
        batcher.close()
        assert await first == "a!"
        with pytest.raises(FullError):
            await second
        with pytest.raises(FullError):
            await batcher.ask(None, "c")

    assert run(test).batches == [["a"]]


# --- in the application ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("batching"))


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def assert_answers(reply: Any, expected: Any, version: int = 1) -> None:
    assert reply.status_code == 200, reply.text
    assert reply.json()["version"] == version
    results = [query["results"] for query in reply.json()["queries"]]
    for found, scores, ids in zip(results, *map(np.atleast_2d, expected), strict=True):
        kept = scores > -np.inf
        assert [result["id"] for result in found] == ids[kept].tolist()
        assert [r["score"] for r in found] == pytest.approx(scores[kept].tolist(), abs=1e-5)


def test_queries_that_arrive_together_are_solved_together(path, gate):
    Q = vectors(20, seed=1)
    ranker = diffusion.load(path)

    async def test():
        async with asking(app_of(path)) as client:
            first = asyncio.create_task(client.post("/search", json={"vectors": [Q[0].tolist()]}))
            await gate.entered()
            others = [
                asyncio.create_task(client.post("/search", json={"vectors": Q[i : i + 2].tolist()}))
                for i in range(1, 19, 2)
            ]
            await waiting(client, 19)
            gate.open.set()
            assert_answers(await first, ranker.search(Q[:1], 10))
            for i, other in zip(range(1, 19, 2), others, strict=True):
                assert_answers(await other, ranker.search(Q[i : i + 2], 10))
            counted = await figure(client, 'diffusion_batch_size_sum{queue="queries"}')
            assert counted == 19

    asyncio.run(test())
    assert [len(batch) for batch in gate.batches] == [1, 9]


def test_batches_are_of_equal_requests(path, gate):
    ranker = diffusion.load(path)
    q = vectors(1, seed=2)[0]
    ids = ranker.ids_.tolist()
    scores0, ids0 = (part[0].tolist() for part in ranker.with_parameters(None).search(q[None], 12))
    few = ids[::3]
    one = {"vectors": [q.tolist()]}
    hits = {"hits": [{"ids": ids0, "scores": scores0}]}
    other = diffusion.load(path).set_params(query_k=3)
    asked = [
        ("/search", one, ranker.search(q, 10)),
        ("/search", {**one, "k": 4}, ranker.search(q, 4)),
        ("/search", {**one, "allow": few}, ranker.search(q, 10, allow=few)),
        ("/search", {**one, "query_k": 3}, other.search(q, 10)),
        ("/rerank", hits, ranker.rerank(scores0, ids0, 12)),
        ("/rerank", {**hits, "k": 4}, ranker.rerank(scores0, ids0, 4)),
        ("/rerank", {**hits, "allow": few}, ranker.rerank(scores0, ids0, 12, allow=few)),
        ("/rerank", {**hits, "restrict_to_candidates": True},
         ranker.rerank(scores0, ids0, 12, restrict_to_candidates=True)),
    ]  # fmt: skip

    async def test():
        async with asking(app_of(path)) as client:
            first = asyncio.create_task(client.post("/search", json={**one, "k": 7}))
            await gate.entered()
            tasks = [
                asyncio.create_task(client.post(door, json=body)) for door, body, _ in 3 * asked
            ]
            await waiting(client, 1 + len(tasks))
            gate.open.set()
            await first
            for task, (_, _, expected) in zip(tasks, 3 * asked, strict=True):
                assert_answers(await task, expected)

    asyncio.run(test())
    assert [len(batch) for batch in gate.batches] == [1] + len(asked) * [3]


def test_beyond_capacity_there_is_503_at_once_and_then_answers_again(path, gate):
    body = {"vectors": vectors(2, seed=3).tolist()}

    async def test():
        async with asking(app_of(path, waiting=5)) as client:
            tasks = [asyncio.create_task(client.post("/search", json=body)) for _ in range(2)]
            await waiting(client, 4)
            for _ in range(3):
                refused = await client.post("/search", json=body)
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json() == {"detail": "too many requests wait"}
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.post("/explain", content=b"{")).status_code != 503
            gate.open.set()
            assert [(await task).status_code for task in tasks] == [200, 200]
            assert (await client.post("/search", json=body)).status_code == 200

    asyncio.run(test())


@pytest.mark.parametrize("route", ["/search", "/rerank"])
def test_a_full_queue_refuses_before_it_looks_at_the_body(path, gate, route):
    body = {"vectors": vectors(4, seed=3).tolist()}

    async def test():
        async with asking(app_of(path, waiting=4)) as client:
            task = asyncio.create_task(client.post("/search", json=body))
            await waiting(client, 4)
            refused = await client.post(route, content=b"{")
            assert refused.status_code == 503
            assert refused.json() == {"detail": "too many requests wait"}
            # Its body has been read, so that the next request may use the same connection.
            assert refused.headers["connection"] == "keep-alive"
            gate.open.set()
            assert (await task).status_code == 200
            assert (await client.post(route, content=b"{")).status_code == 415

    asyncio.run(test())


def test_a_change_while_queries_wait_does_not_mix_states(tmp_path, gate):
    path = saved(tmp_path)
    before, after = diffusion.load(path), diffusion.load(path)
    new = vectors(1, seed=4)
    gone = before.search(new[0], 1)[1].tolist()
    after.remove(gone).add(new, ids=["new"])
    body = {"vectors": new.tolist(), "first": True}

    async def test():
        async with asking(app_of(path)) as client:
            tasks = [asyncio.create_task(client.post("/search", json=body)) for _ in range(3)]
            await gate.entered()
            tasks.append(asyncio.create_task(client.post("/search", json=body)))
            await waiting(client, 4)
            change = {"ids": ["new"], "vectors": new.tolist(), "remove": gone}
            changed = await client.post("/items", json=change)
            assert changed.json() == {"version": 2, "items": 90}
            # Explanations have a thread of their own as well.
            explained = await client.post("/explain", json={"vector": new[0].tolist(), "id": "new"})
            assert explained.json()["version"] == 2
            late = asyncio.create_task(client.post("/search", json=body))
            await waiting(client, 5)
            gate.open.set()
            for task in tasks:
                assert_answers(await task, before.search(new, 10))
                assert (await task).json()["queries"][0]["first"][0]["id"] == gone[0]
            assert_answers(await late, after.search(new, 10), version=2)
            assert (await late).json()["queries"][0]["first"][0]["id"] == "new"

    asyncio.run(test())


def test_a_client_that_goes_away_is_not_answered(path, gate):
    def body(seed: int) -> dict[str, Any]:
        return {"vectors": vectors(1, seed).tolist()}

    async def test():
        async with asking(app_of(path)) as client:
            first = asyncio.create_task(client.post("/search", json=body(1)))
            await gate.entered()
            gone = asyncio.create_task(client.post("/search", json=body(2)))
            await waiting(client, 2)
            gone.cancel()
            await waiting(client, 1)
            gate.open.set()
            assert (await first).status_code == 200
            assert (await client.post("/search", json=body(3))).status_code == 200

    asyncio.run(test())
    asked = [search.queries for batch in gate.batches for search in batch]
    np.testing.assert_allclose(np.concatenate(asked), [vectors(1, 1)[0], vectors(1, 3)[0]])


def test_lists_that_together_look_like_distances_are_answered_each_for_itself(path, gate):
    # Scores of a call that rise ten times and fall nowhere are refused; three lists of five that
    # rise four times each are not of one call.
    ranker = diffusion.load(path)
    ids = ranker.ids_[:5].tolist()
    body = {"hits": [{"ids": ids, "scores": [0.5, 0.6, 0.7, 0.8, 0.9]}]}

    async def test():
        async with asking(app_of(path)) as client:
            first = asyncio.create_task(client.post("/rerank", json={**body, "k": 3}))
            await gate.entered()
            tasks = [asyncio.create_task(client.post("/rerank", json=body)) for _ in range(3)]
            await waiting(client, 4)
            gate.open.set()
            await first
            for task in tasks:
                assert_answers(await task, ranker.rerank(body["hits"][0]["scores"], ids, 5))

    asyncio.run(test())
    assert [len(batch) for batch in gate.batches] == [1, 3, 1, 1, 1]
