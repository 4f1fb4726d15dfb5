"""A page as Markdown, in GitHub's flavour, with its figures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from sb3_pg.report.markup import spans, without_marks
from sb3_pg.report.page import Block, Bullets, Code, Details, Figure, Notice, Page, Paragraph, Section, Table

_RULES = {"l": ":--", "r": "--:", "c": ":-:"}


def to_markdown(page: Page, figures_folder: str = "figures") -> str:
    """The whole file.

    :param figures_folder: where the figures lie, seen from the file
    """
    subtitle = f"{_inline(page.subtitle)}\n\n" if page.subtitle else ""
    body = _blocks(page.sections, 2, figures_folder)
    return f"# {_plain(page.title)}\n\n{subtitle}{body}\n"


def _blocks(blocks: Sequence[Block], level: int, folder: str) -> str:
    return "\n\n".join(_block(block, level, folder) for block in blocks)


def _block(block: Block, level: int, folder: str) -> str:
    match block:
        case Section():
            heading = f"{'#' * min(level, 6)} {_plain(block.heading)}"
            return "\n\n".join(filter(None, [heading, _blocks(block.blocks, level + 1, folder)]))
        case Details():
            inside = _blocks(block.blocks, level, folder)
            summary = escape(without_marks(block.summary))
            return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"
        case Paragraph():
            return _inline(block.text)
        case Bullets():
            return "\n".join(f"- {_inline(item)}" for item in block.items)
        case Notice():
            return f"> [!{block.kind.upper()}]\n> {_inline(block.text)}"
        case Code():
            return _fenced(block.text)
        case Table():
            return _table(block)
        case Figure():
            path = f"{folder}/{block.name}"
            alt = _plain(without_marks(block.caption))
            return f"[![{alt}]({path}.png)]({path}.svg)\n\n*{_inline(block.caption)}*"


def _inline(text: str) -> str:
    parts = []
    for span in spans(text):
        match span.style:
            case "code":
                parts.append(_code(span.text))
            case "bold":
                parts.append(f"**{_plain(span.text)}**")
            case "link":
                parts.append(f"[{_plain(span.text)}]({span.address})")
            case "plain":
                parts.append(_plain(span.text))
    return "".join(parts)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = " ".join(text.split("\n"))
    marked = re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", line)
    # At a line's beginning: headings, lists, quotations.
    return (
        re.sub(r"^(\s*)([#+-]|\d+(?=[.)]))", r"\1\\\2", marked) if not re.match(r"\s*\d", line) else _numbered(marked)
    )


def _numbered(text: str) -> str:
    return re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def _code(text: str) -> str:
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _fenced(text: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _table(table: Table) -> str:
    rows = [
        [f"**{_plain(cell)}**" if i in table.highlight and cell.strip() else _plain(cell) for cell in row]
        for i, row in enumerate(table.cells())
    ]
    lines = [[_plain(header) for header in table.headers], [_RULES[side] for side in table.alignment()], *rows]
    return "\n".join([f"*{_inline(table.caption)}*", "", *("| " + " | ".join(line) + " |" for line in lines)])
