"""The commands on the pages: all of them are accepted, and those of the overview run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffusion.cli import verbs
from tests.support.photos import CHINA, write_photos

from .test_pages import DOCS, PAGES, README, ROOT

COMMANDS = DOCS / "howto" / "commands.md"
GUIDES = [*PAGES, ROOT / "CONTRIBUTING.md"]


def commands_of(text: str, *programs: str) -> list[list[str]]:
    """Return the words of the lines of fenced blocks that begin with one of the programs."""
    blocks = re.findall(r"^(?:```|````)[^\n]*\n(.*?)^(?:```|````)$", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(programs)]
    return [words for words in found if words[0] in programs]


def parser_of(program: str):
    if program == "diffusion":
        return verbs._parser()
    return pytest.importorskip("features.cli.main")._parser()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_are_accepted(page, capsys):
    for words in commands_of(page.read_text("utf-8"), "diffusion", "features"):
        try:
            parser_of(words[0]).parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_targets_and_programs_of_a_page_exist(page):
    text = page.read_text("utf-8")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for _, *arguments in commands_of(text, "make"):
        assert next(word for word in arguments if "=" not in word) in targets
    from bench.__main__ import parser

    for _, *arguments in commands_of(text, "python"):
        if arguments[:2] == ["-m", "bench"] and arguments[2] != "NAME":
            parser().parse_args(arguments[2:])


def test_there_are_commands():
    found = [words for page in GUIDES for words in commands_of(page.read_text("utf-8"), "features")]
    assert len(found) > 20
    assert commands_of(
        "```sh\ndiffusion a \\\n  b # c\nmake d\n```\ndiffusion e\n", "diffusion"
    ) == [["diffusion", "a", "b"]]


def test_an_option_that_does_not_exist_is_found(capsys):
    with pytest.raises(SystemExit):
        parser_of("diffusion").parse_args(["build", "vectors.npy", "index/", "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err


# --- the overview ---------------------------------------------------------------------------------


def run(program, words):
    if program == "diffusion":
        main = verbs.main
    else:
        from features.cli.main import main
    assert main(words) == 0, shlex.join([program, *words])


@pytest.mark.parametrize(
    "page", [README, DOCS / "howto" / "commands.md"], ids=lambda page: page.stem
)
def test_the_commands_for_vectors_run(page, tmp_path, monkeypatch, capsys):
    X, labels = load_digits(return_X_y=True)
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", X[:1300].astype(np.float32))
    np.save("more.npy", X[1300:1400].astype(np.float32))
    np.save("queries.npy", X[1400:1420].astype(np.float32))
    similarity = X[1400:1420] @ X[:1300].T
    ids = np.argsort(-similarity, axis=1)[:, :200]
    np.savez("first_stage.npz", scores=np.take_along_axis(similarity, ids, axis=1), ids=ids)
    with open("relevant.qrels", "w", encoding="utf-8") as file:
        for query, label in enumerate(labels[1400:1420]):
            # Without the items that the page removes.
            for item in np.setdiff1d(np.flatnonzero(labels[:1300] == label), [17, 42]):
                file.write(f"{query} 0 {item} 1\n")
    np.save("labels.npy", labels[:1400])
    np.save("query_labels.npy", labels[1400:1420])
    found = commands_of(page.read_text("utf-8"), "diffusion")
    assert len(found) >= 4
    for program, *words in found:
        # The service does not end by itself; its tests run it.
        if words[0] != "serve":
            run(program, words)
    assert not list(Path().rglob("*.tmp"))


# Options that the page leaves out, of the commands that describe photos.
NETWORK = ["--weights", "alexnet.safetensors", "--backbone", "alexnet", "--size", "90", "-q"]
WITH_BLOCKS = ["--weights", "mobilenet_v2.safetensors", "--backbone", "mobilenet_v2", "-q"]
SHORT = {
    "index": [*NETWORK, "-k", "5"],
    "extract": NETWORK,
    "train": [*NETWORK, "--epochs", "1"],
    "discover": NETWORK,
    "inspect": [*WITH_BLOCKS, "--size", "64"],
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_commands_for_photos_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    import features
    from features.networks.weights import write_file

    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos"))
    shutil.copy(CHINA, "photo.jpg")
    shutil.copy(CHINA, "new.jpg")
    for name in ("alexnet", "mobilenet_v2"):
        network = features.backbone(name, head=False)
        write_file(f"{name}.safetensors", network.state_dict())
    for program, *words in commands_of(COMMANDS.read_text("utf-8"), "features"):
        # The demo has a test of its own.
        if words[0] != "demo":
            run(program, [*words, *SHORT.get(words[0], [])])
    assert {"out.html", "new.html", "trained", "whitening.npz"} <= set(os.listdir())
