"""What the service counts."""

from __future__ import annotations

import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.serving import N, client_of, figure_in, names, saved, vectors


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("metrics"))


@pytest.fixture
def client(path):
    with client_of(path, max_body=10_000) as client:
        yield client


def figure(client, name: str) -> float | None:
    return figure_in(client.get("/metrics").text, name)


def test_requests_are_counted_by_route_and_status(client):
    client.post("/search", json={"vectors": vectors(3).tolist()})
    client.post("/search", json={"items": names()[:1]})
    client.post("/search", json={})
    client.post("/search", content=b"x" * 20_000)
    client.get("/nothing?token=secret")
    client.get("/other/secret")
    text = client.get("/metrics").text
    assert figure_in(text, 'diffusion_requests_total{route="/search",status="200"}') == 2
    assert figure_in(text, 'diffusion_requests_total{route="/search",status="422"}') == 1
    assert figure_in(text, 'diffusion_requests_total{route="/search",status="413"}') == 1
    assert figure_in(text, 'diffusion_requests_total{route="other",status="404"}') == 2
    assert figure_in(text, 'diffusion_request_seconds_count{route="/search"}') == 4
    assert figure_in(text, 'diffusion_batch_size_count{queue="queries"}') == 2
    assert figure_in(text, 'diffusion_batch_size_sum{queue="queries"}') == 4
    assert figure_in(text, 'diffusion_queue_length{queue="queries"}') == 0
    assert "secret" not in text


def test_the_collection_and_the_process(tmp_path):
    with client_of(saved(tmp_path)) as client:
        assert figure(client, "diffusion_items") == N
        client.post("/items", json={"remove": names()[:2]})
        assert figure(client, "diffusion_items") == N - 2
        assert figure(client, "diffusion_version") == 2
        assert figure(client, f'diffusion_worker_info{{pid="{os.getpid()}"}}') == 1
        assert figure(client, "process_resident_memory_bytes") > 1 << 20


def test_it_is_prometheus_text(client):
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = {family.name for family in text_string_to_metric_families(reply.text)}
    assert {"diffusion_requests", "diffusion_request_seconds", "diffusion_batch_size"} <= families


def test_two_services_count_apart(path, client):
    client.get("/info")
    with client_of(path) as other:
        assert figure(other, 'diffusion_requests_total{route="/info",status="200"}') is None
    assert figure(client, 'diffusion_requests_total{route="/info",status="200"}') == 1
