"""What a report consists of, and how its words are written in HTML, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg.report import Block, Bullets, Code, Details, Figure, Notice, Page, Paragraph, Section, Table, literal
from sb3_pg.report.html import to_html
from sb3_pg.report.latex import to_latex
from sb3_pg.report.markdown import to_markdown
from sb3_pg.report.markup import Span, spans, without_marks
from sb3_pg.report.page import show

NASTY = "<script>alert('x')</script> & | \\ ` * _ [x](y) $5 100% #1 {a} ~ ^"


class Text(HTMLParser):
    """What a browser shows of the body, and the tags on the way."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()
        self.feed(html[html.index("<main>") : html.index("</main>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(*blocks: Block, heading: str = "Heading") -> Page:
    return Page("Title", "", [Section(heading, blocks)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [Span("plain", "plain")]),
        ("a `b*` c", [Span("plain", "a "), Span("code", "b*"), Span("plain", " c")]),
        ("**bold** and [a link](https://x.org/?a=1&b)", None),
        (r"\*\*not bold\*\*", [Span("plain", "**not bold**")]),
        ("2 * 3 * 4 and a ` alone", [Span("plain", "2 * 3 * 4 and a ` alone")]),
        ("[0.1, 0.2] (95%)", [Span("plain", "[0.1, 0.2] (95%)")]),
        ("[x](javascript:alert)", [Span("plain", "[x](javascript:alert)")]),
        ("[x](data:text/html)", [Span("plain", "[x](data:text/html)")]),
        ("[x](#anchor)", [Span("link", "x", "#anchor")]),
        ("[x](figures/a.svg)", [Span("link", "x", "figures/a.svg")]),
        ("", []),
    ],
)
def test_markup_is_taken_apart(text: str, expected: list[Span] | None) -> None:
    if expected is None:
        expected = [Span("bold", "bold"), Span("plain", " and "), Span("link", "a link", "https://x.org/?a=1&b")]
    assert list(spans(text)) == expected


@given(st.text())
def test_literal_text_is_shown_as_it_is(text: str) -> None:
    assert without_marks(literal(text)) == text
    assert all(span.style == "plain" for span in spans(literal(text)))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_no_text_becomes_html(text: str) -> None:
    html = to_html(
        page(
            Paragraph(literal(text)),
            Bullets([literal(text)]),
            Notice(literal(text)),
            Code(text),
            Table(literal(text), [text], [[text]]),
            Details(literal(text), [Code(text)]),
            heading=text,
        )
    )
    seen = Text(html)
    assert seen.text.count(text) >= 9 or not text.strip()
    assert not {"script", "b", "i", "img"} & set(seen.tags)


def test_what_looks_like_a_tag_is_text_in_title_and_subtitle() -> None:
    html = to_html(Page(NASTY, literal(NASTY), []))
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 3


def test_a_page_without_figures_needs_no_script() -> None:
    html = to_html(page(Paragraph("words")))
    assert "<script" not in html
    assert len(html) < 20_000


def test_headings_get_anchors_of_their_own_and_a_table_of_contents() -> None:
    sections = [
        Section("Über A & B!", [Section("Same", [Section("Deep", [])]), Section("Same", [])]),
        Section("Same", []),
    ]
    html = to_html(Page("T", "", sections))
    anchors = re.findall(r'<section id="([^"]*)">', html)
    assert anchors == ["ber-a-b", "same", "deep", "same-2", "same-3"]
    nav = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r'href="#([^"]*)"', nav) == ["ber-a-b", "same", "same-2", "same-3"]
    for tag in ("ol", "li"):
        assert nav.count(f"<{tag}>") == nav.count(f"</{tag}>")
    assert [len(found) for found in (re.findall(rf"<h{i}>", html) for i in (1, 2, 3, 4))] == [1, 2, 2, 1]


TABLE = Table(
    "Scores of `ppo` & **co**",
    ["name", "score", "n"],
    [["a|b", 1.23456, 10], ["[0.1, 0.2] & 5%", float("nan"), None]],
    formats=("", ".2f", "d"),
    highlight=(0,),
    name="scores",
)


def test_table_in_html() -> None:
    html = to_html(page(TABLE))
    assert '<tr class="highlight"><th scope="row" class="l short">a|b</th><td class="r short">1.23</td>' in html
    assert '<td class="r short">–</td><td class="r short">–</td>' in html  # noqa: RUF001
    assert html.count("&amp; 5%") == 1


def test_table_in_markdown() -> None:
    lines = to_markdown(page(TABLE)).splitlines()
    assert lines[4:] == [
        r"*Scores of `ppo` \& **co***",
        "",
        "| name | score | n |",
        "| :-- | --: | --: |",
        r"| **a\|b** | **1.23** | **10** |",
        r"| \[0.1, 0.2\] \& 5% | – | – |",  # noqa: RUF001
    ]


def test_table_in_latex() -> None:
    assert to_latex(TABLE).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{Scores of \texttt{ppo} \& \textbf{co}}",
        r"\label{tab:scores}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"name & score & n \\",
        r"\midrule",
        r"\textbf{a\textbar{}b} & \textbf{1.23} & \textbf{10} \\",
        r"{}[0.1, 0.2] \& 5\% & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_latex_specials_are_escaped() -> None:
    latex = to_latex(Table(literal("&%$#_{}~^\\"), ["h"], [["&%$#_{}~^\\"]]))
    escaped = r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert latex.count(escaped) == 2


def test_markdown_of_every_block() -> None:
    blocks: list[Block] = [
        Paragraph("**a** `b` [c](https://x.org)"),
        Bullets(["one", "two"]),
        Notice("look", "warning"),
        Code("x = '```'\n"),
        Details("More", [Paragraph("inside")]),
        Section(
            "Sub", [Paragraph("# no heading"), Paragraph("1. no list"), Paragraph("- no list"), Paragraph("0.5 x")]
        ),
    ]
    assert to_markdown(Page("T_1", "sub", [Section("H", blocks)])) == (
        "# T\\_1\n\nsub\n\n## H\n\n**a** `b` [c](https://x.org)\n\n- one\n- two\n\n> [!WARNING]\n> look\n\n"
        "````\nx = '```'\n````\n\n<details>\n<summary>More</summary>\n\ninside\n\n</details>\n\n"
        "### Sub\n\n\\# no heading\n\n1\\. no list\n\n\\- no list\n\n0.5 x\n"
    )


@pytest.mark.parametrize(
    ("cell", "fmt", "text"),
    [
        ("words", ".2f", "words"),
        (1234.5, ",.0f", "1,234"),
        (3, "d", "3"),
        (0.123456, ".4g", "0.1235"),
        (float("inf"), ".2f", "inf"),
    ],
)
def test_cells_are_shown_by_their_format(cell: str | float, fmt: str, text: str) -> None:
    assert show(cell, fmt) == text


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Table("c", ["a", "b"], [[1.0]]), "row 0 has 1 cells, the header has 2"),
        (lambda: Table("c", ["a"], [["x"]], align="lr"), "align 'lr' should be 1 letters"),
        (lambda: Table("c", ["a"], [["x"]], align="x"), "align 'x'"),
        (lambda: Table("c", ["a"], [["x"]], formats=("", "")), "2 formats for 1 columns"),
        (lambda: Table("c", ["a"], [["x"]], highlight=(1,)), "no row 1"),
        (lambda: Table("c", ["a"], [["x"]], name="a/b"), "'a/b' names a file"),
        (lambda: Figure("../up", None, ""), "'../up' names a file"),  # type: ignore[arg-type]
        (lambda: Figure("", None, ""), "'' names a file"),  # type: ignore[arg-type]
        (lambda: page(*(Details("d", [Figure(n, None, "")]) for n in "aA")), "same file, 'A'"),  # type: ignore[arg-type]
        (lambda: page(*(Table("c", ["a"], [], name="t") for _ in range(2))), "two tables .* same file, 't'"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)
