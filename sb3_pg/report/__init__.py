"""Reports: a page of words, tables and figures, and the files that it is written to.

A :class:`Page` is data. :func:`write_page` writes it as HTML, Markdown, LaTeX tables, PNG and SVG. The figures are
made by :mod:`sb3_pg.report.charts`, the one module here that needs the extra ``compare`` to be imported.
"""

from sb3_pg.report.files import write_page
from sb3_pg.report.markup import literal
from sb3_pg.report.page import (
    Block,
    Bullets,
    Code,
    Details,
    Figure,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from sb3_pg.report.theme import Palette

__all__ = [
    "Block",
    "Bullets",
    "Code",
    "Details",
    "Figure",
    "Notice",
    "Page",
    "Palette",
    "Paragraph",
    "Section",
    "Table",
    "literal",
    "write_page",
]
