"""A comparison as a page for people: one HTML file that needs no other, Markdown, a contact sheet and the figures.

Names of classes, layers, models and pictures come from anywhere: all text is escaped, and the page forbids itself
scripts and every request.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.evaluation.comparison import Comparison
from edgevision.evaluation.showcase import CELL_WIDTH, Shown
from edgevision.evaluation.tables import Table, class_table, comparison_tables
from edgevision.files import atomic_path
from edgevision.optional import require

PICTURES = 6
"""How many of the pictures on which graphs differ most a page shows."""
_JPEG_QUALITY = 85
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:110rem;padding:0 1rem;color:#222}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}p{color:#555;max-width:60rem}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}th{font-weight:600}.scroll{overflow-x:auto}"
    ".row{display:flex;gap:.6rem;overflow-x:auto;margin-bottom:1.2rem}figure{margin:0;flex:1 1 0;min-width:14rem}"
    "img{width:100%;max-height:30rem;object-fit:contain;object-position:left;display:block}"
    "figcaption{font-size:.85rem;color:#555}svg text{font:11px system-ui,sans-serif}"
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DIFFERENCES = (
    "Where the graphs differ most, beside the float graph. Magenta frames: boxes that only one of the two has; magenta "
    "pixels: of another class than in the float graph."
)


def make_folder(folder: Path | str) -> Path:
    """The folder of a report, made where it is not there: now, not after minutes of evaluation.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} for the comparison cannot be made: {error}") from error
    return Path(folder)


def write_report(folder: Path, comparison: Comparison) -> list[Path]:
    """Write `comparison.html`, `.md`, `.json` and, where pictures differ, `.png` into `folder`.

    Raises:
        UsageError: it cannot be written.
    """
    contents: dict[str, bytes] = {
        "comparison.html": html_page(comparison).encode(),
        "comparison.md": markdown_page(comparison).encode(),
        "comparison.json": (json.dumps(comparison.data, indent=1) + "\n").encode(),
    }
    if comparison.shown:
        contents["comparison.png"] = _encode(".png", _sheet(comparison.shown))
    try:
        for name, content in contents.items():
            with atomic_path(folder / name) as path:
                path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"the comparison cannot be written into {folder}: {error}") from error
    return [folder / name for name in contents]


def html_page(comparison: Comparison) -> str:
    """The whole page."""
    title = html.escape(_title(comparison.data))
    notes = "".join(f"<p>Note: {html.escape(warning)}</p>" for warning in comparison.data["warnings"])
    body = [f"<h1>{title}</h1><p>{html.escape(_summary(comparison.data))}</p>{notes}"]
    for table in comparison_tables(comparison.data):
        body.append(_html_table(table))
        if table.title == "Agreement with float":
            body.append(_histograms(comparison.data))
    if comparison.shown:
        body.append(f"<h2>Pictures</h2><p>{_DIFFERENCES}</p>{''.join(map(_html_row, comparison.shown))}")
    classes = class_table(comparison.data)
    if classes.rows:
        body.append(_html_table(classes))
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(body)}</body></html>\n'


def markdown_page(comparison: Comparison) -> str:
    """The tables, and the names of the pictures that differ."""
    lines = [f"# {_plain(_title(comparison.data))}", "", _plain(_summary(comparison.data))]
    lines += [f"- note: {_plain(warning)}" for warning in comparison.data["warnings"]]
    for table in comparison_tables(comparison.data):
        lines += _markdown_table(table)
    if comparison.shown:
        lines += ["", "## Pictures", "", _DIFFERENCES, "", "![contact sheet](comparison.png)", ""]
        lines += [
            f"- {_plain(shown.name)}: {'; '.join(f'{_plain(t)} {_plain(r)}' for t, r, _ in shown.cells[1:])}"
            for shown in comparison.shown
        ]
    classes = class_table(comparison.data)
    return "\n".join([*lines, *(_markdown_table(classes) if classes.rows else [])]) + "\n"


def _markdown_table(table: Table) -> list[str]:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    cells = [list(map(_plain, table.header)), rule, *(list(map(_plain, row)) for row in table.rows)]
    return ["", f"## {_plain(table.title)}", "", _plain(table.note), "", *(f"| {' | '.join(row)} |" for row in cells)]


def _title(data: Mapping[str, Any]) -> str:
    kind = "accuracy" if data["labelled"] else "agreement with float"
    return f"{data['bundle']}: {kind} of its graphs"


def _summary(data: Mapping[str, Any]) -> str:
    labels = "labelled pictures" if data["labelled"] else "pictures without labels, so nothing here is accuracy"
    runs = f", {data['repeats']} runs with the input dithered by half a grey level" if data["repeats"] > 1 else ""
    return f"{data['task']}, {data['images']} {labels}{runs}."


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


def _html_table(table: Table) -> str:
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
        f'<div class="scroll"><table><tr>{header}</tr>{rows}</table></div>'
    )


def _histograms(data: Mapping[str, Any]) -> str:
    drawn = [
        f"<figure>{_histogram(counts, data['threshold'])}"
        f"<figcaption>{html.escape(graph['graph'])}: scores of matched boxes</figcaption></figure>"
        for graph in data["graphs"].values()
        if (counts := graph.get("agreement", {}).get("score_histogram"))
    ]
    if not drawn:
        return ""
    return f'<p>Grey: float. Blue: the graph. Line: the threshold.</p><div class="row">{"".join(drawn)}</div>'


def _histogram(counts: Mapping[str, list[int]], threshold: float) -> str:
    width, height = 400, 120
    highest = max(1, *counts["float"], *counts["graph"])
    step = width / len(counts["float"])
    bars = []
    for series, (colour, offset) in {"float": ("#999", 0.08), "graph": ("#36c", 0.5)}.items():
        for i, count in enumerate(counts[series]):
            tall = height * count / highest
            place = f'x="{(i + offset) * step:.1f}" y="{height - tall:.1f}"'
            bars.append(f'<rect {place} width="{0.42 * step:.1f}" height="{tall:.1f}" fill="{colour}"/>')
    ticks = "".join(f'<text x="{width * t:.0f}" y="{height + 14}">{t:g}</text>' for t in (0, 0.25, 0.5, 0.75))
    line = f'<line x1="{width * threshold:.1f}" x2="{width * threshold:.1f}" y1="0" y2="{height}" stroke="#c33"/>'
    axis = f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="#999"/>'
    return f'<svg viewBox="0 0 {width} {height + 18}" role="img">{"".join(bars)}{axis}{line}{ticks}</svg>'


def _html_row(shown: Shown) -> str:
    cells = [
        f'<figure><img alt="" src="data:image/jpeg;base64,{_base64(image)}">'
        f"<figcaption><b>{html.escape(title)}</b>: {html.escape(remark)}</figcaption></figure>"
        for title, remark, image in shown.cells
    ]
    return f'<h3>{html.escape(shown.name)}</h3><div class="row">{"".join(cells)}</div>'


def _base64(image: NDArray[np.uint8]) -> str:
    return base64.b64encode(_encode(".jpg", image)).decode()


def _encode(suffix: str, image: NDArray[np.uint8]) -> bytes:
    cv2 = require("cv2", "drawing results")
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    data: bytes = cv2.imencode(suffix, image, options)[1].tobytes()
    return data


def _sheet(shown: list[Shown]) -> NDArray[np.uint8]:
    from edgevision.contact_sheet import contact_sheet

    titles = [title for title, _, _ in shown[0].cells]
    cell_wh = (CELL_WIDTH, CELL_WIDTH * 3 // 4)
    sheet: NDArray[np.uint8] = contact_sheet(titles, [[cell[2] for cell in s.cells] for s in shown], cell_wh)
    return sheet
