"""The service over a folder of photos: the command itself, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import diffusion
from diffusion.index_state import open_state
from features import cli
from features.index.photos import describe_queries
from tests.features.index.test_index import NETWORK, SHORT
from tests.support.folders import contents
from tests.support.photos import CHINA, pattern, png, with_exif, write_photos

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

# Names that a page, a path or a line must not take at their word.
NAMES = [
    "<img src=x onerror=alert(1)>.png",
    "a&b=c?d#e%2e%2e.png",
    "'\";--.png",
    "line\u202e gnp.png",
    "caf\u00e9 \U0001f33b.png",
    os.fsdecode(b"\xff\xfe.png"),
]

# After so long, a test has failed. Nothing waits for this.
PATIENCE = 120


@pytest.fixture(scope="module")
def home(weights, tmp_path_factory):
    """A folder with photos, an index of them and query photos."""
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    for number, name in enumerate(NAMES):
        (home / "photos" / name).write_bytes(png(pattern(64, 96, seed=40 + number)))
    shutil.copy(weights, home / "w.safetensors")
    (home / "query.jpg").write_bytes(with_exif(CHINA.read_bytes(), 6))
    (home / "query.png").write_bytes(png(pattern(64, 96, seed=41)))
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["index", "photos", "index", *NETWORK, *SHORT]) == 0
    return home


class Service:
    """A service that runs."""

    def __init__(self, address):
        self.port = int(address.rpartition(":")[2])

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, **headers):
        status, _, content = self.ask(method, path, body, **headers)
        return status, json.loads(content)

    def upload(self, *parts):
        body, kind = form(*parts)
        return self.json("POST", "/photos", body, Content_Type=kind)


def form(*parts):
    """Return a multipart body of fields (name, text) and files (name, content, file name)."""
    lines = []
    for name, content, *file in parts:
        told = f'; filename="{file[0]}"' if file else ""
        lines += [
            b"--limit",
            f'Content-Disposition: form-data; name="{name}"{told}'.encode(),
            b"",
            content if isinstance(content, bytes) else content.encode(),
        ]
    return b"\r\n".join([*lines, b"--limit--", b""]), "multipart/form-data; boundary=limit"


SERVE = (sys.executable, "-m", "diffusion.cli", "serve", "index", "--port", "0")


def environment():
    """Return the environment of a service of this code, without a token."""
    own = {name: value for name, value in os.environ.items() if name != "DIFFUSION_TOKEN"}
    return {**own, "PYTHONPATH": str(Path(diffusion.__file__).parents[1])}


@contextlib.contextmanager
def serving(home, *options):
    """Run `diffusion serve`, and end all of its processes."""
    with open(home / "log.txt", "w") as log:
        process = subprocess.Popen(
            [*SERVE, *options],
            cwd=home,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            line = process.stdout.readline()
            assert line, (home / "log.txt").read_text()
            yield Service(line.split()[-1])
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def service(home):
    with serving(home, "--photos") as service:
        yield service


def until(condition):
    """Wait for a condition, and return what it returned."""
    pause = threading.Event()
    for _ in range(PATIENCE * 50):
        found = condition()
        if found:
            return found
        pause.wait(0.02)
    raise AssertionError("waited in vain")


def searched(home, photo, k):
    """Return the names and scores that `features search` finds."""
    with contextlib.chdir(home):
        assert cli.main(["search", "index", photo, "-k", str(k), "-o", "r.json", "-q"]) == 0
        found = json.loads(Path("r.json").read_text())[0]["results"]
    return [each["name"] for each in found], [each["score"] for each in found]


@pytest.mark.parametrize("photo", ["query.jpg", "query.png", "photos/b/04.png"])
def test_an_upload_finds_what_a_search_with_its_file_finds(home, service, photo):
    content = (home / photo).read_bytes()
    status, found = service.upload(("photo", content, "photo"), ("options", '{"k": 8}'))
    assert status == 200, found
    names, scores = searched(home, photo, 8)
    results = found["queries"][0]["results"]
    assert [each["id"] for each in results] == names
    np.testing.assert_allclose([each["score"] for each in results], scores, rtol=1e-5, atol=1e-7)
    vectors = describe_queries(open_state(home / "index"), [content])
    np.testing.assert_allclose(found["vectors"], vectors, atol=1e-6)
    # Each of them can be shown, with the size that it has.
    for name in names:
        address = f"/picture?id={quote(name, errors='surrogateescape')}"
        picture, headers, jpeg = service.ask("GET", address)
        assert picture == 200
        assert headers["Content-Type"] == "image/jpeg"
        with Image.open(io.BytesIO(jpeg)) as image, Image.open(home / "photos" / name) as original:
            assert image.size == original.size


def test_names_are_data_whatever_they_are(home, service):
    listed = json.dumps({"items": ["00.png"], "k": 26})
    status, found = service.json("POST", "/search", listed, Content_Type="application/json")
    assert status == 200
    assert set(NAMES) <= {each["id"] for each in found["queries"][0]["results"]}
    for name in NAMES:
        status, _, jpeg = service.ask("GET", f"/picture?id={quote(name, errors='surrogateescape')}")
        assert status == 200
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.size == (96, 64)


@pytest.mark.parametrize(
    "id",
    [
        "../w.safetensors",
        "../query.png",
        "/etc/passwd",
        "",
        "b",
        ".",
        "a/../00.png",
        "0",
        "00.png%00",
    ],
)
def test_nothing_else_is_shown(service, id):
    status, _, content = service.ask("GET", f"/picture?id={id}")
    assert status == 404
    assert b"PNG" not in content


@pytest.mark.parametrize("query", ["", "?", "?id", "?id=00.png&id=03.png", "?name=00.png"])
def test_a_picture_is_asked_for_by_one_id(service, query):
    assert service.ask("GET", f"/picture{query}")[0] in (404, 422)


PHOTO = png(pattern(64, 96, seed=41))


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([("photo", b"", "a.jpg")], 422, "photo: not an image"),
        ([("photo", b"no photo", "a.jpg")], 422, "photo: not an image"),
        ([("photo", b"<svg onload=alert(1)>", "a.svg")], 422, "photo: not an image"),
        ([("photo", CHINA.read_bytes()[:9000], "a.jpg")], 422, "photo: .*truncated"),
        ([("photo", png(np.zeros((1, 1)), "L", size=(30000, 30000)), "a")], 422, "too many pixels"),
        ([], 422, ""),
        ([("photo", "a text")], 422, "photo: expected one file"),
        ([("picture", PHOTO, "a.png")], 422, "photo: expected one file"),
        ([("photo", PHOTO, "a.png"), ("photo", PHOTO, "b.png")], 400, "files"),
        ([("photo", PHOTO, "a.png"), ("options", "{")], 422, ""),
        ([("photo", PHOTO, "a.png"), ("options", '{"k": -1}')], 422, "k"),
        ([("photo", PHOTO, "a.png"), ("options", '{"vectors": [[1]]}')], 422, "vectors"),
    ],
)
def test_bad_uploads_are_refused(service, parts, status, said):
    got, answer = service.upload(*parts)
    assert 400 <= got < 500
    assert got == status or not parts
    assert said.partition(".*")[2] in json.dumps(answer)
    assert said.partition(".*")[0] in json.dumps(answer)
    assert "Traceback" not in json.dumps(answer)


def test_what_is_no_form_is_refused(service):
    for kind in ("application/json", "multipart/form-data", "text/plain", "image/png"):
        assert 400 <= service.json("POST", "/photos", PHOTO, Content_Type=kind)[0] < 500


def test_an_upload_that_is_too_large_is_refused_unread(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/photos")
        connection.putheader("Content-Type", "multipart/form-data; boundary=limit")
        connection.putheader("Content-Length", str(100 << 20))
        connection.endheaders(b"--limit\r\n")
        assert connection.getresponse().status == 413


@pytest.mark.parametrize("name", ["../../../x.png", "/etc/x.png", "a\\0.png", "<script>.png", "."])
def test_the_name_of_an_upload_is_not_used(home, service, name):
    before = contents(home / "photos"), contents(home / "index"), sorted(os.listdir(home))
    status, found = service.upload(("photo", PHOTO, name))
    assert status == 200
    assert name.strip("./") not in json.dumps(found) or name == "."
    assert before == (contents(home / "photos"), contents(home / "index"), sorted(os.listdir(home)))


def test_an_update_of_the_folder_is_served(home):
    """A copy of its own, since others compare the folder with what it was."""
    shutil.copytree(home, home / "copy", ignore=shutil.ignore_patterns("copy", "log.txt"))
    home = home / "copy"
    with contextlib.chdir(home):
        assert cli.main(["index", "photos", "index", *NETWORK, *SHORT]) == 0
        with serving(home, "--photos") as service:
            new = png(pattern(64, 96, seed=90))
            Path("photos/new photo.png").write_bytes(new)
            Path("photos/00.png").unlink()
            assert service.ask("GET", "/picture?id=00.png")[0] == 404
            assert service.ask("GET", "/picture?id=new%20photo.png")[0] == 404
            version = service.json("GET", "/info")[1]["version"]
            assert cli.main(["index", "photos", "index", "-q"]) == 0
            until(lambda: service.json("GET", "/info")[1]["version"] > version)
            status, found = service.upload(("photo", new, "q"), ("options", '{"k": 26}'))
            assert status == 200
            names = [each["id"] for each in found["queries"][0]["results"]]
            assert names == searched(home, "photos/new photo.png", 26)[0]
            assert "new photo.png" in names
            assert "00.png" not in names
            status, _, jpeg = service.ask("GET", "/picture?id=new%20photo.png")
            assert status == 200
            with Image.open(io.BytesIO(jpeg)) as image:
                assert image.size == (96, 64)
            # Items are changed by `features index` alone.
            body = json.dumps({"remove": ["03.png"]})
            status, answer = service.json("POST", "/items", body, Content_Type="application/json")
            assert status in (403, 409)
            assert "features index" in answer["detail"]


def test_photos_that_cannot_be_served_end_the_command(home):
    done = subprocess.run(
        [*SERVE, "--photos", "--weights", "nothing.safetensors"],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing.safetensors" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_page_is_there(service):
    status, headers, page = service.ask("GET", "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b'type="file"' in page
