from __future__ import annotations

import json

from bench.table import Table, write_json


def test_table_layout(tmp_path):
    table = Table("title", ("name", "n"), [["a", 1.23456], ["bb", 1000], ["c", None]], ["a note"])
    assert str(table).splitlines() == [
        "title", "",
        "| name   |    n |",
        "|:-------|-----:|",
        "| a      | 1.23 |",
        "| bb     | 1000 |",
        "| c      |      |",
        "", "a note",
    ]  # fmt: skip
    write_json(str(tmp_path / "t.json"), [table])
    assert json.loads((tmp_path / "t.json").read_text())[0]["rows"][0] == ["a", 1.23456]
