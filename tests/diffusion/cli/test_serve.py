"""The verb `serve`: what it refuses before it starts anything."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

import diffusion
from diffusion import cli


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch):
    """A service that is started by mistake would not end."""
    for library in ("fastapi", "prometheus_client", "python_multipart", "uvicorn"):
        pytest.importorskip(library)
    from diffusion.serve import server

    monkeypatch.setattr(server.Multiprocess, "run", lambda *_: pytest.fail("it has started"))


@pytest.fixture
def index(vectors, tmp_path, monkeypatch):
    monkeypatch.delenv("DIFFUSION_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    diffusion.Reranker(k=8).fit(vectors).save("index")
    return "index"


def refused(capsys, *arguments: object) -> str:
    assert cli.main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("diffusion: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_port_that_is_taken(index, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refused(capsys, index, "--port", port)
    assert error.endswith(f"cannot listen on 127.0.0.1, port {port}: Address already in use\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", 65536], "port: expected an integer of at most 65535"),
        (["--port", -1], "port: expected"),
        (["--workers", 0], "workers: expected"),
        (["--host", "nobody.invalid"], "cannot listen on nobody.invalid"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--host", ""], "host: expected an address to listen on"),
        (["--allow-host", "example.org:8000"], "--allow-host: expected a name or an address"),
        (["--max-queue", 0], "--max-queue: expected"),
        (["--weights", "weights.safetensors"], "--weights: expected --photos"),
        (["--token-file", "nothing"], "nothing"),
    ],
)
def test_options_that_are_impossible(index, capsys, options, message):
    assert message in refused(capsys, index, *options)


def test_no_index(index, capsys):
    assert "expected an index, found no manifest.json" in refused(capsys, "nothing")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"caf\xc3\xa9", b"one\ntwo\n", b"\0", b"x" * 5000]
)
def test_a_token_that_cannot_be_sent_is_not_shown(index, capsys, content, tmp_path):
    (tmp_path / "token").write_bytes(content)
    error = refused(capsys, index, "--token-file", "token")
    assert "token: expected a token of 1 to 4096 visible ASCII characters" in error
    for word in content.split():
        assert word.decode() not in error.replace("token", "")


@pytest.mark.parametrize("value", ["", "two words", "café"])
def test_a_token_in_the_environment_that_cannot_be_sent(index, capsys, monkeypatch, value):
    """An empty one is an error: a variable that was forgotten must not open the service."""
    monkeypatch.setenv("DIFFUSION_TOKEN", value)
    assert "DIFFUSION_TOKEN: expected a token of 1 to" in refused(capsys, index)


def test_two_tokens(index, capsys, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("one")
    monkeypatch.setenv("DIFFUSION_TOKEN", "another")
    assert "expected one of them, got both" in refused(capsys, index, "--token-file", "token")


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["uvicorn", "fastapi"])
def test_without_the_extra_it_is_named(index, missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from diffusion import cli; sys.exit(cli.main(['serve', 'index', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"diffusion: error: serve: {missing} is not installed "
        "(pip install 'diffusion-rerank[serve]')\n"
    )


def test_the_settings_that_the_options_make(index, monkeypatch, tmp_path):
    from diffusion.serve import server

    (tmp_path / "token").write_text("secret\n")
    made = []
    monkeypatch.setattr(server, "serve", lambda service, **how: made.append((service, how)))

    def settings(*options: str) -> server.Service:
        assert cli.main(["serve", index, *options]) == 0
        return made[-1][0]

    plain = settings()
    assert plain.settings.token is None
    assert set(plain.settings.hosts) == {"localhost", "127.0.0.1", "[::1]"}
    assert (plain.read_only, plain.photos, plain.folder) == (False, False, None)
    assert made[-1][1]["host"] == "127.0.0.1"
    assert settings("--token-file", "token").settings.token == "secret"
    assert "secret" not in repr(made[-1])
    assert settings("--host", "0.0.0.0").settings.hosts is None
    assert "example.org" in settings("--allow-host", "Example.org").settings.hosts
    assert settings("--host", "0.0.0.0", "--allow-host", "a.b").settings.hosts is not None
    assert "127.0.0.9" in settings("--host", "127.0.0.9").settings.hosts
    for address in ("FD00::2", "[fd00:0::2]"):  # requests have it in brackets
        assert "[fd00::2]" in settings("--allow-host", address).settings.hosts
    assert settings("--max-queue", "7").settings.waiting == 7
    assert settings("--photos").photos
    assert settings("--photos", "folder", "--weights", "w").folder == "folder"
    assert settings("--read-only").read_only
