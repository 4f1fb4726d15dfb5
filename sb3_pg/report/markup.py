"""The minimal markup of a report's text: `code`, **bold**, [link](address); a backslash takes a mark literally."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_MARKED = re.compile(
    r"\\(?P<escaped>[\\`*\[\]])"
    r"|`(?P<code>[^`]+)`"
    r"|\*\*(?P<bold>.+?)\*\*"
    r"|\[(?P<link>(?:\\.|[^\]\\])+)\]\((?P<address>[^()\s]+)\)",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\([\\`*\[\]])")
# What a link may lead to: the web, a letter, a place on the page, a file beside it; never a script.
_ADDRESS = re.compile(r"(https?://|mailto:|#|[\w./-]+$)", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """A piece of text in one style.

    :param address: where a link leads
    """

    style: Literal["plain", "code", "bold", "link"]
    text: str
    address: str = ""


def spans(text: str) -> Iterator[Span]:
    """Take marked text apart; what is no markup is plain."""
    plain, end = "", 0
    for found in _MARKED.finditer(text):
        plain, end = plain + text[end : found.start()], found.end()
        span = _span(found)
        if span.style == "plain":
            plain += span.text
            continue
        if plain:
            yield Span("plain", plain)
        plain = ""
        yield span
    if plain or text[end:]:
        yield Span("plain", plain + text[end:])


def _span(found: re.Match[str]) -> Span:
    match found.lastgroup:
        case "escaped":
            return Span("plain", found["escaped"])
        case "code":
            return Span("code", found["code"])
        case "bold":
            return Span("bold", _ESCAPED.sub(r"\1", found["bold"]))
    if not _ADDRESS.match(found["address"]):
        return Span("plain", found[0])
    return Span("link", _ESCAPED.sub(r"\1", found["link"]), found["address"])


def literal(text: str) -> str:
    """The marked text that shows ``text`` as it is, whatever is in it."""
    return re.sub(r"([\\`*\[\]])", r"\\\1", text)


def without_marks(text: str) -> str:
    """What is left of marked text where there are no styles: in an ``aria-label``, say."""
    return "".join(span.text for span in spans(text))
