"""The report of a comparison: what the analysis says, as a page of words, figures and tables."""

from sb3_pg.compare.page.page import comparison_page

__all__ = ["comparison_page"]
