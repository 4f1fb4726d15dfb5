"""What a report consists of: words, tables, figures. Data only; how it looks is decided where it is written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from sb3_pg.report.drawing import Drawable

# What a file may be called on every system, and what an address can hold without being escaped.
_FILE_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

Cell: TypeAlias = "str | float | None"


@dataclass(frozen=True)
class Paragraph:
    """Words.

    :param text: with the markup of :mod:`sb3_pg.report.markup`
    """

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short things, each marked text as in a paragraph."""

    items: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """Something that must not be overlooked, marked text as in a paragraph."""

    text: str
    kind: Literal["warning", "note"] = "note"


@dataclass(frozen=True)
class Code:
    """Commands, or other text that is shown as it stands."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    :param caption: marked text
    :param headers: one a column, plain text like the cells
    :param rows: strings are shown as they are, numbers by ``formats``; None and nan are a dash
    :param align: ``l``, ``r`` or ``c`` a column, as in LaTeX; the default has columns of numbers on the right
    :param formats: a format specification a column (``".1f"``), for its numbers; the default is ``".4g"``
    :param highlight: the indices of rows that stand out
    :param name: the stem of its LaTeX file; without one it has none
    :raises ValueError: for a row, an alignment, formats or a highlight that does not fit, or a name that is no file's
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str = ""
    formats: Sequence[str] = ()
    highlight: Sequence[int] = ()
    name: str = ""

    def __post_init__(self) -> None:
        n = len(self.headers)
        for i, row in enumerate(self.rows):
            if len(row) != n:
                raise ValueError(f"table {self.caption!r}: row {i} has {len(row)} cells, the header has {n}")
        if self.align and (len(self.align) != n or set(self.align) - set("lrc")):
            raise ValueError(f"table {self.caption!r}: align {self.align!r} should be {n} letters of l, r and c")
        if self.formats and len(self.formats) != n:
            raise ValueError(f"table {self.caption!r}: {len(self.formats)} formats for {n} columns")
        outside = [i for i in self.highlight if not 0 <= i < len(self.rows)]
        if outside:
            raise ValueError(f"table {self.caption!r}: no row {outside[0]} to highlight, it has {len(self.rows)}")
        if self.name:
            check_stem(self.name)

    def cells(self) -> list[list[str]]:
        """The rows as they are shown."""
        formats = self.formats or [".4g"] * len(self.headers)
        return [[show(cell, fmt) for cell, fmt in zip(row, formats, strict=True)] for row in self.rows]

    def alignment(self) -> str:
        """One letter a column."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.headers))]
        return self.align or "".join("r" if _are_numbers(column) else "l" for column in columns)


def _are_numbers(column: Sequence[Cell]) -> bool:
    there = [cell for cell in column if cell is not None]
    return bool(there) and not any(isinstance(cell, str) for cell in there)


def show(cell: Cell, fmt: str = ".4g") -> str:
    """A cell as text, a dash where there is no number."""
    if isinstance(cell, str):
        return cell
    if cell is None or math.isnan(cell):
        return "–"  # noqa: RUF001
    return format(cell, fmt)


@dataclass(frozen=True)
class Figure:
    """A chart with its caption.

    :param name: the stem of its files
    :param chart: what a function of :mod:`sb3_pg.report.charts` returned, or any altair chart
    :param caption: marked text, which is also what a screen reader says
    :raises ValueError: for a name that is no file's
    """

    name: str
    chart: Drawable
    caption: str

    def __post_init__(self) -> None:
        check_stem(self.name)


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for: tracebacks, an audit.

    :param summary: marked text, always seen
    """

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; a section among them is a subsection.

    :param heading: plain text
    """

    heading: str
    blocks: Sequence[Block]


Block: TypeAlias = "Paragraph | Bullets | Notice | Code | Table | Figure | Details | Section"


@dataclass(frozen=True)
class Page:
    """A report.

    :param title: plain text
    :param subtitle: marked text: what was compared, when, with what
    :raises ValueError: if two figures or two tables would be written to the same file
    """

    title: str
    subtitle: str
    sections: Sequence[Section]

    def __post_init__(self) -> None:
        _check_distinct("figures", [figure.name for figure in figures(self)])
        _check_distinct("tables", [table.name for table in named_tables(self)])


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """All blocks, in the order in which they are read."""
    for block in blocks:
        yield block
        if isinstance(block, (Details, Section)):
            yield from walk(block.blocks)


def figures(page: Page) -> list[Figure]:
    """The figures of a page, in the order in which they are read."""
    return [block for block in walk(page.sections) if isinstance(block, Figure)]


def named_tables(page: Page) -> list[Table]:
    """The tables of a page that have a file, in the order in which they are read."""
    return [block for block in walk(page.sections) if isinstance(block, Table) and block.name]


def check_stem(name: str) -> None:
    """:raises ValueError: for a name that cannot be a file's on every system"""
    if not _FILE_STEM.fullmatch(name):
        raise ValueError(
            f"{name!r} names a file: it should start with a letter or digit and go on with those, '_', '-' or '.'"
        )


def _check_distinct(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:  # some file systems do not tell upper and lower case apart
            raise ValueError(f"two {what} would be written to the same file, {name!r}: give one of them another name")
        seen.add(name.lower())
