"""The page that the demo writes: one query before and after diffusion, and the table.

One file that needs no other, no script and no network; light and dark, wide and narrow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from diffusion.storage import replacing

from ..images.png import data_address


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    descriptors, method : str
    mean_ap : float
        Mean average precision in percent.
    milliseconds : float
        Online time of a query.
    """

    descriptors: str
    method: str
    mean_ap: float
    milliseconds: float


@dataclass(frozen=True)
class Ranking:
    """The first results of a query by one method.

    Attributes
    ----------
    method : str
    average_precision : float
        In percent, over the full ranking.
    images : ndarray, shape (r, h, w), float
        In [0, 1], best first.
    labels : ndarray, shape (r,), int
    """

    method: str
    average_precision: float
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A query with its results before and after.

    Attributes
    ----------
    image : ndarray, shape (h, w), float
        In [0, 1].
    label : int
    rule : str
        How the query was chosen, a sentence.
    before, after : Ranking
    """

    image: NDArray[np.float32]
    label: int
    rule: str
    before: Ranking
    after: Ranking


def write(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    example: Example,
    *,
    introduction: Sequence[str],
    reading: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Write the page; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
    rows : sequence of Row
        Those of the same descriptors next to each other; the last of them is set off.
    example : Example
    introduction, reading, notes : sequence of str
        Paragraphs of plain text: what was done, what one sees in the example, and what to know
        about the table.
    """
    text = _PAGE.format(
        style=_STYLE,
        introduction=_paragraphs(introduction),
        example=_example(example),
        reading=_paragraphs(reading),
        table=_table(rows),
        notes="".join(f"<li>{escape(note)}</li>\n" for note in notes),
    )
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def _image(image: NDArray[np.float32], alternative: str) -> str:
    """Show a grey image (h, w) in [0, 1]: dark ink, where it is 1, on white."""
    grey = np.round(255 * (1 - np.clip(image, 0, 1))).astype(np.uint8)
    return (
        f'<span class="frame"><img src="{data_address(grey)}" alt="{escape(alternative)}"></span>'
    )


def _example(example: Example) -> str:
    query = _image(example.image, f"The query, a handwritten {example.label}")
    return f"""<p>{escape(example.rule)}</p>
<div class="example">
<figure class="query">{query}<figcaption>query, digit {example.label}</figcaption></figure>
<div class="rankings">
{_ranking(example.before, example.label)}
{_ranking(example.after, example.label)}
</div>
</div>"""


def _ranking(ranking: Ranking, wanted: int) -> str:
    right = ranking.labels == wanted
    tiles = "".join(
        _tile(rank, image, int(label), bool(good))
        for rank, (image, label, good) in enumerate(
            zip(ranking.images, ranking.labels, right, strict=True), 1
        )
    )
    return f"""<section class="ranking">
<h3>{escape(ranking.method)} <span class="figures">{right.sum()} of {len(right)} right,
average precision {ranking.average_precision:.1f}&nbsp;%</span></h3>
<ol>{tiles}</ol>
</section>"""


def _tile(rank: int, image: NDArray[np.float32], label: int, good: bool) -> str:
    verdict, mark = ("right", "✓") if good else ("wrong", "✗")
    picture = _image(image, f"Result {rank}, a handwritten {label}")
    return (
        f'<li class="{verdict}"><figure>{picture}<figcaption>digit {label}<br>'
        f'<span class="mark"><span aria-hidden="true">{mark}</span> {verdict}</span>'
        "</figcaption></figure></li>"
    )


def _table(rows: Sequence[Row]) -> str:
    groups = []
    for descriptors, group in groupby(rows, key=lambda row: row.descriptors):
        members = list(group)
        lines = "".join(_line(row, row is members[-1]) for row in members)
        heading = f'<tr><th colspan="3" scope="rowgroup">{escape(descriptors)}</th></tr>'
        groups.append(f"<tbody>{heading}{lines}</tbody>")
    return "\n".join(groups)


def _line(row: Row, set_off: bool) -> str:
    kind = ' class="ours"' if set_off else ""
    return (
        f'<tr{kind}><th scope="row">{escape(row.method)}</th>'
        f'<td class="quality"><span class="value">{row.mean_ap:.1f}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{row.mean_ap:.1f}%"></i></span></td>'
        f"<td>{row.milliseconds:.3f}</td></tr>"
    )


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1d1f21; --faint: #5c6166; --line: #dcdad2;
  --right: #0b5c8f; --wrong: #a63c06; --bar: #b9c3cb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181a; --card: #202326; --ink: #e8e6e1; --faint: #a5abb0; --line: #373b3f;
    --right: #7cc4f2; --wrong: #f5a36c; --bar: #4c545b;
  }
  img { filter: invert(1); }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 58rem; margin: 0 auto; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p, .notes { max-width: 44rem; }
p { margin: 0 0 .75rem; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem; margin-top: 1.25rem;
}
.card > :last-child { margin-bottom: 0; }
.figures { color: var(--faint); font-weight: 400; }
figure { margin: 0; }
figcaption { font-size: .8rem; line-height: 1.35; text-align: center; margin-top: .25rem; }
img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
.frame { display: block; overflow: hidden; border-radius: 5px; }
.example { display: flex; gap: 1.5rem; align-items: flex-start; margin: 1.25rem 0; }
.query { flex: 0 0 7.5rem; padding: 4px; }
.query .frame { outline: 2px solid var(--ink); outline-offset: 2px; }
.query figcaption { margin-top: .5rem; }
.rankings { flex: 1; min-width: 0; }
.ranking + .ranking { margin-top: 1.25rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .6rem .5rem;
  grid-template-columns: repeat(10, minmax(0, 1fr)); }
li.right .frame { outline: 2px solid var(--right); }
li.wrong .frame { outline: 3px dashed var(--wrong); }
.mark { white-space: nowrap; }
.right .mark { color: var(--right); }
.wrong .mark { color: var(--wrong); font-weight: 700; }
table { border-collapse: collapse; width: 100%; }
td { font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .5rem; }
th, td { padding: .35rem .5rem; text-align: right; font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; }
td:last-child, thead th:last-child { padding-right: 0; white-space: nowrap; }
thead th { color: var(--faint); font-size: .85rem; vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
tbody th[scope=rowgroup] { font-weight: 700; padding-top: 1rem; }
.ours th, .ours td { font-weight: 700; }
th:nth-child(2), .quality { text-align: left; }
.quality { width: 60%; white-space: nowrap; }
.value { display: inline-block; width: 3.25rem; text-align: right; white-space: nowrap; }
.bar { display: inline-block; width: calc(100% - 4rem); margin-left: .75rem; height: .6rem; }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: 0 3px 3px 0; }
.ours .bar i { background: var(--right); }
.notes { padding-left: 1.1rem; margin: 1rem 0 0; font-size: .9rem; color: var(--faint); }
.notes li { margin-bottom: .3rem; }
@media (max-width: 44rem) {
  body { padding-top: 1.25rem; }
  .card { padding: 1rem; }
  .example { flex-direction: column; }
  .query { width: 7.5rem; flex-basis: auto; }
  .rankings { width: 100%; }
  ol { grid-template-columns: repeat(5, minmax(0, 1fr)); }
  figcaption { font-size: .75rem; }
  tbody th { white-space: nowrap; }
  th, td { padding-left: .3rem; padding-right: .3rem; }
  .quality { width: 35%; }
}
@media (max-width: 30rem) {
  .bar { display: none; }
  .quality { width: auto; }
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Diffusion re-ranking on handwritten digits</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Diffusion re-ranking on handwritten digits</h1>
{introduction}
<section class="card">
<h2>One query, before and after</h2>
{example}
{reading}
</section>
<section class="card">
<h2>All queries</h2>
<table>
<caption>Mean average precision over the full ranking, and time to answer a query</caption>
<thead><tr><th scope="col">method</th><th scope="col"><span class="value">mAP %</span></th>
<th scope="col">ms a query</th></tr></thead>
{table}
</table>
<ul class="notes">
{notes}</ul>
</section>
</main>
</body>
</html>
"""
