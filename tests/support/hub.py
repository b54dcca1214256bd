"""A Hugging Face hub on this machine, for tests of downloads."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COMMIT = "0" * 40


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Serve models, each in a folder OWNER/NAME; yield the port and what has been asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.wfile.write(self.answer())

        def answer(self) -> bytes:
            asked.append(f"{self.command} {self.path}")
            parts = self.path.strip("/").split("/")
            file = folder.joinpath(*parts[:2], *parts[4:])
            if parts[2:3] != ["resolve"] or not file.is_file():
                known = folder.joinpath(*parts[:2]).is_dir()
                missing = "EntryNotFound" if known else "RepoNotFound"
                self.send_response(404)
                self.send_header("X-Error-Code", missing)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return b""
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_resnet(folder: Path) -> None:
    """Write a small classifier of random weights in the layout of those of the hub."""
    import torch
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
    described = {
        "image_processor_type": "ConvNextImageProcessor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
