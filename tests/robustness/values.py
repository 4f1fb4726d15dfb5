"""Values of every kind, sensible for some arguments and nonsense for the others."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule


def late(value: Any) -> Any:
    """A function that says 0.1 until a third of the progress is left, then something else."""
    return lambda progress: 0.1 if progress > 0.5 else value


def fails(progress: float) -> float:
    """A function with a mistake."""
    return {}["x"]  # type: ignore[index]


VALUES: dict[str, Any] = {
    **{repr(value): value for value in (0, 1, 2, 8, 64, -1, -5, 0.0, 1.0, 0.1, 0.5, -0.5, 1.5, 1e-300, 5e-324, 1e30)},
    **{repr(value): value for value in (2**31, 2**70, True, False, None, math.nan, math.inf, -math.inf, 1j)},
    "10**400": 10**400,
    **{repr(value): value for value in ("", "x", "0.1", "1", "auto", "cpu", "gpu0", "no", "MlpPolicy", b"x", b"1")},
    **{repr(value): value for value in ("value", "none", "gae", "step", "timestep", "stop", "carry", "stored")},
    **{
        repr(value): value for value in ([], [1], [8, 8], [0], [-1], ["x"], (), (8,), {}, {"x": 1}, {"pi": [8]}, {1: 2})
    },
    "a set": {8},
    "np.int64(3)": np.int64(3),
    "np.uint8(1)": np.uint8(1),
    "np.float32(0.25)": np.float32(0.25),
    "np.float16(0.25)": np.float16(0.25),
    "np.longdouble(0.25)": np.longdouble(0.25),
    "np.float64(nan)": np.float64("nan"),
    "np.bool_(True)": np.bool_(True),
    "np.array(0.1)": np.array(0.1),
    "np.array([0.1])": np.array([0.1]),
    "np.ones(2)": np.ones(2),
    "th.tensor(0.1)": th.tensor(0.1),
    "th.ones(2)": th.ones(2),
    "Fraction": Fraction(1, 4),
    "Decimal": Decimal("0.25"),
    "lambda: 0.1": lambda: 0.1,
    "lambda p: 0.1 * p": lambda progress: 0.1 * progress,
    "lambda p: -0.1 * p": lambda progress: -0.1 * progress,
    "lambda p: '0.1'": lambda progress: "0.1",
    "lambda p: None": lambda progress: None,
    "lambda p: True": lambda progress: True,
    "lambda p: nan": lambda progress: math.nan,
    "lambda p: array": lambda progress: np.ones(2),
    "lambda p, q: 0.1": lambda one, other: 0.1,
    "a function that fails": fails,
    **{f"late {value!r}": late(value) for value in (math.nan, math.inf, -1.0, "0.1", None, True)},
    "ConstantSchedule": ConstantSchedule(0.1),
    "FloatSchedule of text": FloatSchedule(ConstantSchedule("0.1")),  # type: ignore[arg-type]
    "LinearSchedule": LinearSchedule(0.1, 0.0, 1.0),
    **{cls.__name__: cls for cls in (int, float, str, object, th.nn.Tanh, th.nn.Linear, th.nn.GLU)},
    **{cls.__name__: cls for cls in (th.optim.Adam, th.optim.SGD, th.optim.LBFGS, th.optim.SparseAdam)},
    "object()": object(),
    "range(3)": range(3),
    "a module": th.nn.Identity(),
    "th.device": th.device("cpu"),
}
