"""The processes of the service: real ones, on free ports, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import diffusion

for library in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
    pytest.importorskip(library)
server = pytest.importorskip("diffusion.serve.server")

TOKEN = "a-token-that-no-log-may-hold"
DIMENSION = 8

# After so long, a test has failed. Nothing waits for this.
PATIENCE = 120


def made(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((20, DIMENSION))
    return centres[rng.integers(0, 20, n)] + 0.4 * rng.standard_normal((n, DIMENSION))


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition, and return what it returned."""
    pause = threading.Event()
    for _ in range(PATIENCE * 50):
        found = condition()
        if found:
            return found
        pause.wait(0.02)
    raise AssertionError("waited in vain")


def _command(process: psutil.Process) -> list[str]:
    """Return the command line of a process, nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie, until its parent has asked how it ended
        return []


class Service:
    """A service that runs."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.log
        self.address = line.split()[-1]
        self.port = int(self.address.rpartition(":")[2])

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that map the index."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(_command(child))]

    @contextlib.contextmanager
    def connected(
        self, worker: psutil.Process | None = None
    ) -> Iterator[http.client.HTTPConnection]:
        """Yield a connection, if it matters to one of the workers: the others stand still."""
        others = [] if worker is None else [each for each in self.workers if each != worker]
        for each in others:
            each.suspend()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            ask(connection, "GET", "/healthz")
            for each in others:
                each.resume()
            yield connection
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status of an answer of any of the workers, and what it holds."""
        with self.connected() as connection:
            return ask(connection, method, path, body)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """Return the status of an answer and what it holds."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    content = None
    if body is not None:
        headers["Content-Type"], content = "application/json", json.dumps(body)
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@contextlib.contextmanager
def serving(index: Path, *options: str, token: str | None = TOKEN) -> Iterator[Service]:
    """Run the command, and end all of its processes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(diffusion.__file__).parents[1])}
    environment.pop("DIFFUSION_TOKEN", None)
    if token is not None:
        environment["DIFFUSION_TOKEN"] = token
    log = index.parent / "log.txt"
    command = [sys.executable, "-m", "diffusion.cli", "serve", str(index), "--port", "0", *options]
    with open(log, "w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
    watchdog = threading.Timer(2 * PATIENCE, lambda: end(process))
    watchdog.start()
    try:
        with process:
            try:
                yield Service(process, log)
            finally:
                end(process)
    finally:
        watchdog.cancel()


def end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "index"
    ids = [f"item {i}" for i in range(300)]
    diffusion.Reranker().fit(made(300), ids=ids).save(path)
    return path


@pytest.fixture
def index(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "index"))


QUERIES = made(2, seed=9)


def search(connection: http.client.HTTPConnection) -> tuple[int, list[list[tuple[Any, float]]]]:
    status, answer = ask(connection, "POST", "/search", {"vectors": QUERIES.tolist(), "k": 12})
    assert status == 200, answer
    return answer["version"], [
        [(one["id"], one["score"]) for one in query["results"]] for query in answer["queries"]
    ]


def expected(path: Path) -> list[list[tuple[Any, float]]]:
    """What the library answers for an index."""
    scores, ids = diffusion.load(path).search(QUERIES, 12)
    return [
        list(zip(*lists, strict=True)) for lists in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


# --- two workers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(original, tmp_path_factory):
    """A service with two workers, which tests use one after the other, and its index."""
    index = tmp_path_factory.mktemp("pair") / "index"
    shutil.copytree(original, index)
    with serving(index, "--workers", "2") as service:
        yield service, index
        assert TOKEN not in service.log
        assert "Traceback" not in service.log


def both(service: Service) -> list[psutil.Process]:
    return until(lambda: len(service.workers) == 2 and service.workers)


def test_workers_answer_as_the_library_and_see_each_others_updates(pair):
    service, index = pair
    one, other = both(service)
    with service.connected(one) as first, service.connected(other) as second:
        until(lambda: search(first)[0] == search(second)[0])
        begin, answer = search(first)
        states = {begin: expected(index)}
        assert answer == states[begin]
        assert search(second) == (begin, answer)
        for version in range(begin + 1, begin + 4):
            change = {
                "ids": [f"seen {version}"],
                "vectors": [QUERIES[0].tolist()],
                "remove": [answer[0][0][0]],
            }
            saving, seeing = (first, second) if version % 2 else (second, first)
            saved = 200, {"version": version, "items": 300}
            assert ask(saving, "POST", "/items", change) == saved
            states[version] = expected(index)
            assert search(saving) == (version, states[version])
            until(lambda: search(seeing)[0] == version)  # noqa: B023
            assert search(seeing) == (version, states[version])
            answer = states[version]
        assert ask(first, "POST", "/items", change)[0] == 422
    assert len({json.dumps(state) for state in states.values()}) == 4


def test_workers_share_the_cores_and_nobody_sees_the_token(pair):
    service, _ = pair
    cores = len(os.sched_getaffinity(0))
    for worker in both(service):
        assert worker.environ()["NUMBA_NUM_THREADS"] == str(max(1, cores // 2))
        assert TOKEN not in " ".join(worker.cmdline())
    assert TOKEN not in " ".join(psutil.Process(service.process.pid).cmdline())


def test_a_killed_worker_is_replaced_and_what_was_saved_is_there(pair):
    service, index = pair
    one, other = both(service)
    with service.connected(other) as left:
        with service.connected(one) as connection:
            added = {"ids": ["before the kill"], "vectors": [QUERIES[1].tolist()]}
            status, answer = ask(connection, "POST", "/items", added)
            assert status == 200
            one.kill()
            until(lambda: search(left)[0] == answer["version"])
        until(lambda: one not in service.workers)
        new = next(worker for worker in both(service) if worker != other)
        with service.connected(new) as connection:
            assert search(connection) == (answer["version"], expected(index))
            removed = {"remove": ["before the kill"]}
            assert ask(connection, "POST", "/items", removed)[0] == 200
    assert f"worker {one.pid} ended" in service.log


def test_a_worker_that_stands_still_holds_nothing_up(pair):
    service, _ = pair
    for step in (1, -1):
        one, other = both(service)[::step]
        other.suspend()
        try:
            one.kill()
            (new,) = until(lambda: set(service.workers) - {one, other})  # noqa: B023
            assert set(service.workers) == {new, other}
        finally:
            other.resume()
        with service.connected(new):  # it has started, for what comes next
            pass


class Worker:
    """What the supervisor knows of a worker, without its process."""

    def __init__(self, connection: Connection) -> None:
        self.parent_conn = connection


def test_the_sign_of_life_is_not_waited_for(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    mine, workers = multiprocessing.Pipe()
    process = Worker(mine)
    supervisor = object.__new__(server._Supervisor)  # without its handlers of signals
    supervisor._asked = {}
    assert not supervisor._hangs(process)
    assert workers.recv() == b"ping"
    assert not supervisor._hangs(process)
    workers.send(True)
    assert not supervisor._hangs(process)
    assert not supervisor._hangs(process)  # asked again
    now[0] = 60.0
    assert not supervisor._hangs(process)
    now[0] = 60.1
    assert supervisor._hangs(process)


def test_no_request_fails_beside_updates_and_no_answer_mixes_two_states(pair):
    service, index = pair
    one, other = both(service)
    seen: list[tuple[int, Any]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def search_on() -> None:
        try:
            with service.connected() as connection:
                while not done.is_set():
                    seen.append(search(connection))
        except Exception as failure:
            failures.append(failure)

    with service.connected(one) as first, service.connected(other) as second:
        until(lambda: search(first)[0] == search(second)[0])
        states = {search(first)[0]: expected(index)}
    searching = [threading.Thread(target=search_on) for _ in range(4)]
    for thread in searching:
        thread.start()
    try:
        for step in range(4):
            change = {"ids": [f"beside {step}"], "vectors": made(1, step).tolist()}
            status, answer = service.ask("POST", "/items", change)
            assert status == 200
            latest = answer["version"]
            states[latest] = expected(index)
            until(lambda: failures or any(version == latest for version, _ in seen))  # noqa: B023
    finally:
        done.set()
        for thread in searching:
            thread.join()
    assert not failures
    assert len(states) == 5
    assert {version for version, _ in seen} == set(states)
    assert all(answer == states[version] for version, answer in seen)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_finishes_the_request_in_flight(index):
    with serving(index, "--workers", "2") as service:
        body = json.dumps({"vectors": QUERIES.tolist(), "k": 12}).encode()
        with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as client:
            head = (
                f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
                "Content-Type: application/json\r\nExpect: 100-continue\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body[:10])
            assert client.recv(100).startswith(b"HTTP/1.1 100")  # it is being answered
            children = psutil.Process(service.process.pid).children()
            service.process.send_signal(signal.SIGTERM)
            until(lambda: refused(service.port))
            client.sendall(body[10:])
            response = http.client.HTTPResponse(client)
            response.begin()
            assert response.status == 200
            results = json.loads(response.read())["queries"][0]["results"]
            assert results[0]["id"] == expected(index)[0][0][0]
        assert service.process.wait() == 0
        # With the one that says what processes have left behind.
        assert not psutil.wait_procs(children, PATIENCE)[1]
        assert service.log == ""


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.slow
def test_a_worker_that_is_killed_during_an_update_leaves_the_state_before_or_after(index):
    with serving(index) as service:
        for step in range(2):
            [worker] = until(lambda: len(service.workers) == 1 and service.workers)
            folders = set(index.glob("arrays-*"))
            change = {"ids": [f"new {step}"], "vectors": [QUERIES[0].tolist()]}
            failed = threading.Event()

            def update(change=change, failed=failed) -> None:
                try:
                    service.ask("POST", "/items", change)
                except (OSError, http.client.HTTPException):
                    failed.set()

            updating = threading.Thread(target=update)
            updating.start()
            until(lambda: set(index.glob("arrays-*")) - folders)  # noqa: B023
            worker.kill()
            updating.join()
            ranker = diffusion.load(index, verify=True)
            after = expected(index)
            if not failed.is_set():
                assert f"new {step}" in ranker.ids_
            assert ranker.n_items_ - 300 == sum(f"new {i}" in ranker.ids_ for i in range(2))
            with service.connected() as connection:  # to the one that takes its place
                assert search(connection)[1] == after
        status, answer = service.ask("POST", "/items", {"remove": ["item 0"]})
        assert status == 200
        assert answer["items"] == diffusion.load(index).n_items_


@pytest.mark.slow
def test_workers_end_with_their_supervisor(index):
    with serving(index) as service:
        workers = service.workers
        service.process.kill()
        assert not psutil.wait_procs(workers, PATIENCE)[1]


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start_ends_all_of_them(index):
    """Nobody waits for a sign of life of each, which is more than the patience of a test."""
    command = [sys.executable, "-m", "diffusion.cli", "serve", str(index), "--port", "0"]
    with subprocess.Popen(
        [*command, "--workers", "3"],
        env={**os.environ, "PYTHONPATH": str(Path(diffusion.__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # Python says where each of them was
        start_new_session=True,
    ) as process:
        try:
            # With the one that says what processes have left behind.
            children = until(
                lambda: (
                    len(psutil.Process(process.pid).children()) == 4
                    and psutil.Process(process.pid).children()
                )
            )
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == 0
            assert not psutil.wait_procs(children, PATIENCE)[1]
        finally:
            end(process)


def test_answers_are_not_held_back():
    """Of sockets that are not of TCP by name, asyncio leaves Nagle's algorithm on."""
    with (
        server.listening("127.0.0.1", 0) as sock,
        socket.create_connection(sock.getsockname()),
    ):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_which_addresses_only_this_machine_can_reach(host, local):
    assert server.is_local(host) == local


# --- what cannot be served ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_service(index, tmp_path):
    """What it says is what the command says."""
    arrays = next(index.glob("arrays-*"))
    vectors = next(arrays.glob("vectors*.npy"), None) or next(arrays.glob("*.npy"))
    os.truncate(vectors, 100)
    with pytest.raises(AssertionError, match=r"diffusion: error: .*truncated"), serving(index):
        pass


@pytest.mark.slow
def test_what_others_can_reach_without_a_token_is_warned_of(index):
    with serving(index, "--host", "0.0.0.0", "--read-only", token=None) as service:
        assert service.log.startswith("diffusion: warning: http://0.0.0.0:")
        assert service.log.count("\n") == 1
        assert service.ask("POST", "/items", {"remove": ["item 1"]})[0] == 403
        assert service.ask("GET", "/info")[1]["read_only"]
