"""Grids: every algorithm on every environment with every seed, trained and evaluated alike."""

from sb3_pg.compare.grid.contenders import Contender, parse_contenders
from sb3_pg.compare.grid.grid import run_grid
from sb3_pg.compare.grid.questions import CellResult

__all__ = ["CellResult", "Contender", "parse_contenders", "run_grid"]
