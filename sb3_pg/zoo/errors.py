"""Errors of a command: one line for what the user wrote, a traceback for what broke while it ran."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator
from types import CodeType, FunctionType, TracebackType
from typing import Any


def passes_through(error: BaseException, functions: Collection[Any]) -> bool:
    """Whether an exception came up through a call of one of these functions."""
    codes = {function.__code__ for function in functions if isinstance(function, FunctionType)}
    return any(code in codes for code in _codes(error.__traceback__))


def _codes(trace: TracebackType | None) -> Iterator[CodeType]:
    return (frame.f_code for frame, _ in traceback.walk_tb(trace))


def one_line(error: BaseException) -> str:
    """What went wrong, without line breaks; with the error's kind where the text alone says too little."""
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, AssertionError, FileNotFoundError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
