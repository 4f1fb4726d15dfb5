"""A page in a folder: HTML, Markdown, figures and tables, each file there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from sb3_pg.files import whole_file
from sb3_pg.report import drawing
from sb3_pg.report.html import to_html
from sb3_pg.report.latex import to_latex
from sb3_pg.report.markdown import to_markdown
from sb3_pg.report.page import Page, figures, named_tables
from sb3_pg.report.theme import light


def write_page(page: Page, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, ``report.md``, ``figures/NAME.png``, ``figures/NAME.svg`` and ``tables/NAME.tex``.

    ``report.html`` comes last: where it is, the rest is there too.

    :return: its path
    :raises ValueError: if the folder cannot be written
    :raises ImportError: for a page with figures, without the extra ``compare``
    """
    folder = Path(folder)
    try:
        for figure in figures(page):
            svg = drawing.svg(drawing.whole(figure.chart), background=light("paper"))
            write_whole(folder / "figures" / f"{figure.name}.svg", svg.encode())
            write_whole(folder / "figures" / f"{figure.name}.png", drawing.png(svg))
        for table in named_tables(page):
            write_whole(folder / "tables" / f"{table.name}.tex", to_latex(table).encode())
        write_whole(folder / "report.md", to_markdown(page).encode())
        write_whole(folder / "report.html", to_html(page).encode())
    except OSError as error:
        raise ValueError(f"a report cannot be written to {folder}: {error.strerror or error}") from error
    return folder / "report.html"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step, with the folders above it: whoever reads it never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)
