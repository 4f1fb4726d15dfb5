"""A page as one HTML file that needs nothing else: no network, no second file, no JavaScript to be read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from sb3_pg.report import drawing
from sb3_pg.report.drawing import Panels, Picture
from sb3_pg.report.markup import spans, without_marks
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
    figures,
)
from sb3_pg.report.theme import SERIES, Palette, chart_config, dark_figures, variables

# Vega's symbols of about ten pixels around the origin.
_SYMBOLS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "square": "M-3.6,-3.6h7.2v7.2h-7.2Z",
    "triangle-up": "M0,-4.4L4.6,3.6H-4.6Z",
    "diamond": "M0,-5L4.2,0L0,5L-4.2,0Z",
    "cross": "M-4.4,-1.5h2.9v-2.9h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9Z",
    "triangle-down": "M0,4.4L4.6,-3.6H-4.6Z",
    "triangle-right": "M4.4,0L-3.6,4.6V-4.6Z",
}


def to_html(page: Page) -> str:
    """The whole file.

    :raises ImportError: for a page with figures, without the extra ``compare``
    """
    anchors = _Anchors()
    sections = "\n".join(_section(section, 2, anchors) for section in page.sections)
    return Template(_asset("page.html")).substitute(
        title=escape(page.title),
        subtitle=f'<p class="subtitle">{_inline(page.subtitle)}</p>' if page.subtitle else "",
        light=variables(is_dark=False),
        dark=variables(is_dark=True),
        dark_figures=dark_figures(),
        style=_asset("page.css"),
        contents=_contents(anchors.entries),
        sections=sections,
        scripts=_scripts(page),
    )


@dataclass
class _Anchors:
    """The headings met so far: level, anchor, text."""

    entries: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, level: int, heading: str) -> str:
        stem = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
        taken = {anchor for _, anchor, _ in self.entries}
        anchor = next(name for i in range(len(taken) + 1) if (name := f"{stem}-{i + 1}" if i else stem) not in taken)
        self.entries.append((level, anchor, heading))
        return anchor


def _contents(entries: Sequence[tuple[int, str, str]]) -> str:
    if len(entries) < 2:
        return ""
    items = ""
    for i, (level, anchor, heading) in enumerate(entries):
        if level > 3:
            continue
        following = next((other for other, _, _ in entries[i + 1 :] if other <= 3), 2)
        items += f'<li><a href="#{anchor}">{escape(heading)}</a>'
        items += "<ol>" if following > level else "</li>" if following == level else "</li></ol></li>"
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _section(section: Section, level: int, anchors: _Anchors) -> str:
    anchor = anchors.add(level, section.heading)
    tag = f"h{min(level, 6)}"
    heading = f'<{tag}><a href="#{anchor}">{escape(section.heading)}</a></{tag}>'
    return f'<section id="{anchor}">\n{heading}\n{_blocks(section.blocks, level + 1, anchors)}\n</section>'


def _blocks(blocks: Sequence[Block], level: int, anchors: _Anchors) -> str:
    return "\n".join(_block(block, level, anchors) for block in blocks)


def _block(block: Block, level: int, anchors: _Anchors) -> str:
    match block:
        case Section():
            return _section(block, level, anchors)
        case Details():
            inside = _blocks(block.blocks, level, anchors)
            return (
                f'<details><summary>{_inline(block.summary)}</summary><div class="folded">\n{inside}\n</div></details>'
            )
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Bullets():
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
        case Notice():
            kind = f'<strong class="kind">{block.kind.capitalize()}</strong>'
            return f'<div class="notice {block.kind}" role="note">{kind}{_inline(block.text)}</div>'
        case Code():
            return f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)


def _inline(text: str) -> str:
    parts = []
    for span in spans(text):
        words = escape(span.text)
        match span.style:
            case "code":
                parts.append(f"<code>{words}</code>")
            case "bold":
                parts.append(f"<strong>{words}</strong>")
            case "link":
                parts.append(f'<a href="{escape(span.address)}" rel="noopener noreferrer">{words}</a>')
            case "plain":
                parts.append(words)
    return "".join(parts)


def _table(table: Table) -> str:
    align = table.alignment()
    head = "".join(
        f'<th scope="col" class="{side}">{escape(text)}</th>' for side, text in zip(align, table.headers, strict=True)
    )
    body = ""
    for i, row in enumerate(table.cells()):
        cells = "".join(_cell(text, side, j == 0) for j, (side, text) in enumerate(zip(align, row, strict=True)))
        body += f'<tr class="highlight">{cells}</tr>\n' if i in table.highlight else f"<tr>{cells}</tr>\n"
    label = escape(without_marks(table.caption))
    return (
        f'<figure class="table"><figcaption>{_inline(table.caption)}</figcaption>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table aria-label="{label}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div></figure>"
    )


def _cell(text: str, side: str, is_first: bool) -> str:
    # What is short stays in one line; a phone scrolls the table.
    kind = f"{side} short" if len(text) <= 24 else side
    if is_first and side == "l":
        return f'<th scope="row" class="{kind}">{escape(text)}</th>'
    return f'<td class="{kind}">{escape(text)}</td>'


def _figure(figure: Figure) -> str:
    shown = drawing.pictures(figure.chart)
    panels = "\n".join(_panel(picture, f"{figure.name}-{i}") for i, picture in enumerate(shown))
    columns = figure.chart.columns if isinstance(figure.chart, Panels) else 1
    kind = "panels single" if columns == 1 else "panels"
    label = escape(without_marks(figure.caption))
    return (
        f'<figure id="figure-{figure.name}">\n{_legend(figure.chart) if isinstance(figure.chart, Panels) else ""}'
        f'<div class="{kind}" style="--columns:{columns}" role="img" aria-label="{label}">\n{panels}\n</div>\n'
        f"<figcaption>{_inline(figure.caption)}</figcaption>\n</figure>"
    )


def _panel(picture: Picture, prefix: str) -> str:
    # Vega numbers what it refers to inside of a picture from 0: two pictures on a page would share it.
    own = picture.svg.replace('id="', f'id="{prefix}-').replace("url(#", f"url(#{prefix}-")
    kind = "panel fluid" if picture.is_fluid else "panel"
    width = f' style="min-width:{picture.least_width}px"' if picture.least_width else ""
    return f'<div class="{kind}"><div class="picture"{width}>{own}</div>{_json(picture.spec)}</div>'


def _legend(chart: Panels) -> str:
    if not chart.legend:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{escape(name)}" disabled>'
        f"{_swatch(name, chart.palette, chart.has_points)}{escape(name)}</button>"
        for name in chart.legend
    )
    return f'<div class="legend" role="group" aria-label="Series">{buttons}</div>\n'


def _swatch(name: str, palette: Palette, has_points: bool) -> str:
    dashes = " ".join(map(str, palette.dash(name)))
    color = f"--series-{palette.index(name) % len(SERIES)}"
    symbol = f'<path d="{_SYMBOLS[palette.shape(name)]}" transform="translate(15,6)"/>' if has_points else ""
    return (
        f'<svg width="30" height="12" aria-hidden="true" style="color:var({color})">'
        f'<line x1="0" x2="30" y1="6" y2="6" stroke-dasharray="{dashes}"/>{symbol}</svg>'
    )


def _scripts(page: Page) -> str:
    shown = figures(page)
    if not shown:
        return ""
    palettes = [figure.chart.palette for figure in shown if isinstance(figure.chart, Panels)]
    series = {name: palette.index(name) % len(SERIES) for palette in palettes for name in palette.names}
    settings = _json({"config": chart_config(), "series": series}, "settings")
    return "\n".join([settings, _script(drawing.bundle()), _script(_asset("page.js"))])


def _json(value: Any, identifier: str = "") -> str:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    name = f' id="{identifier}"' if identifier else ""
    return f'<script type="application/json"{name}>{text}</script>'


def _script(text: str) -> str:
    return "<script>" + text.replace("</script", "<\\/script").replace("<!--", "<\\!--") + "</script>"


def _asset(name: str) -> str:
    return (files("sb3_pg.report") / "assets" / name).read_text(encoding="utf-8")
