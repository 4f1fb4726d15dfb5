"""A table as LaTeX, as it goes into a paper: with the rules of the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_pg.report.markup import spans
from sb3_pg.report.page import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",  # noqa: RUF001
    "—": "---",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",  # noqa: RUF001
    "−": r"\ensuremath{-}",  # noqa: RUF001
    "≥": r"\ensuremath{\geq}",
    "≤": r"\ensuremath{\leq}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def to_latex(table: Table) -> str:
    r"""The table in an environment of its own; ``\label`` is ``tab:`` and its name."""
    body = [_row(row, i in table.highlight) for i, row in enumerate(table.cells())]
    label = [f"\\label{{tab:{table.name}}}"] if table.name else []
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_inline(table.caption)}}}",
            *label,
            f"\\begin{{tabular}}{{{table.alignment()}}}",
            "\\toprule",
            _row(table.headers),
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_SPECIAL.get(mark, mark) for mark in " ".join(text.split("\n")))


def _row(cells: Sequence[str], is_bold: bool = False) -> str:
    shown = [f"\\textbf{{{escaped(cell)}}}" if is_bold else escaped(cell) for cell in cells]
    # A bracket after \\ would be taken for its argument.
    return " & ".join(f"{{}}{cell}" if cell.startswith("[") else cell for cell in shown) + r" \\"


def _inline(text: str) -> str:
    styles = {"code": "\\texttt{%s}", "bold": "\\textbf{%s}", "link": "%s", "plain": "%s"}
    return "".join(styles[span.style] % escaped(span.text) for span in spans(text))
