"""What a person reads first: pass, check or fail, with the reason in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from registration.errors import InputError

Level = Literal["pass", "check", "fail"]

_ORDER: tuple[Level, ...] = ("pass", "check", "fail")


@dataclass(frozen=True)
class Verdict:
    """`level` and the sentence that says why; str() gives the line to show."""

    level: Level
    reason: str

    def __str__(self) -> str:
        return f"{self.level.upper()}: {self.reason}"


@dataclass(frozen=True)
class Limits:
    """Up to `check` all is well, above `fail` it is not to be used; between them a person decides.

    Raises:
        InputError: unless 0 < check <= fail.
    """

    check: float
    fail: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fail) and 0.0 < self.check <= self.fail):
            raise InputError(f"limits check = {self.check:g} and fail = {self.fail:g} need 0 < check <= fail.")


def judge(name: str, value: float, limits: Limits, unit: str, warnings: Sequence[str] = ()) -> Verdict:
    """Compare one figure with its limits; a warning turns a pass into a check. NaN fails."""
    shown = f"{name} {value:.3g} {unit}"
    if not value <= limits.fail:
        return Verdict("fail", f"{shown} exceeds the limit of {limits.fail:g} {unit}{_and(warnings)}")
    if value > limits.check:
        return Verdict("check", f"{shown} is above {limits.check:g} {unit}{_and(warnings)}")
    if warnings:
        return Verdict("check", f"{shown}, but: {warnings[0]}")
    return Verdict("pass", f"{shown}, at most {limits.check:g} {unit} wanted")


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The gravest of several verdicts, the first of its kind."""
    return max(verdicts, key=lambda verdict: _ORDER.index(verdict.level))


def _and(warnings: Sequence[str]) -> str:
    return f"; {warnings[0]}" if warnings else ""
