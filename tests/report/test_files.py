"""A report in a folder."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sb3_pg.report import Figure, Page, Palette, Paragraph, Section, Table, charts, write_page
from sb3_pg.report.series import Curve

PALETTE = Palette(["a"])
CHART = charts.profiles([Curve("a", [0, 1], [0, 1])], PALETTE, x_title="x", y_title="y")
PAGE = Page("T", "", [Section("S", [Figure("curve", CHART, "A | curve"), Table("c", ["h"], [["x"]], name="numbers")])])
FILES = ["figures/curve.png", "figures/curve.svg", "report.html", "report.md", "tables/numbers.tex"]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_files_are_there_and_nothing_else(tmp_path: Path) -> None:
    assert write_page(PAGE, tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "report.html"
    folder = tmp_path / "new" / "folder"
    assert files_in(folder) == FILES
    assert (folder / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figures" / "curve.svg").read_text().startswith("<svg")
    links = re.findall(r"\((figures/[^)]*)\)", (folder / "report.md").read_text())
    assert links == ["figures/curve.png", "figures/curve.svg"]
    assert r"\toprule" in (folder / "tables" / "numbers.tex").read_text()
    before = {name: (folder / name).read_bytes() for name in FILES}
    write_page(PAGE, str(folder))
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_html_is_one_file_that_names_no_other(tmp_path: Path) -> None:
    html = write_page(PAGE, tmp_path).read_text(encoding="utf-8")
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", markup)
    assert "@import" not in html and "url(" not in re.sub(r"url\(#", "", markup)
    assert '<meta name="viewport"' in html
    assert len(html) < 1_200_000


def test_what_is_there_stays_whole_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(PAGE, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(ValueError, match=r"cannot be written to .*: No space left on device"):
        write_page(Page("other", "", PAGE.sections), tmp_path)
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    assert files_in(tmp_path) == FILES


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/report"])
def test_a_folder_that_cannot_be_written_is_one_clear_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=f"a report cannot be written to .*{where}: ") as caught:
        write_page(Page("T", "", [Section("S", [Paragraph("words")])]), tmp_path / where)
    assert "\n" not in str(caught.value)


def test_words_and_tables_need_nothing_but_the_package() -> None:
    """In a process of its own, since here altair is loaded."""
    code = (
        "import sys; sys.modules['altair'] = sys.modules['vl_convert'] = None\n"
        "from sb3_pg.report import Page, Paragraph, Section, write_page\n"
        "from sb3_pg.report.series import Curve\n"
        "import tempfile; write_page(Page('T', '', [Section('S', [Paragraph('w')])]), tempfile.mkdtemp())\n"
        "from sb3_pg.report import charts\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: figures need altair and vl-convert-python: pip install 'sb3-pg[compare]'"
    )


def test_figures_without_the_extra_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def missing(name: str, scope: Mapping[str, Any] | None = None, *rest: Any) -> Any:
        if name == "vl_convert":
            raise ModuleNotFoundError(name=name)
        return find(name, scope, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'sb3-pg\[compare\]'"):
        write_page(PAGE, tmp_path)
