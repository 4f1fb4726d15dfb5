"""How our commands read their arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """What is wrong with the arguments is said in one line, not on argparse's page of usage."""

    def error(self, message: str) -> NoReturn:
        """:raises ValueError: in place of leaving the process"""
        raise ValueError(f"{message} (--help lists the arguments)")
