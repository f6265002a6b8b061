"""What the flow benchmarks print: figures with their goals, and where real data are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

Figures = dict[str, dict[str, Any]]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
console = Console(width=120)


def figure(value: float | None, goal: str, unit: str, why: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"value": None if value is None else round(float(value), 9), "goal": goal, "unit": unit}
    if why:
        made["why"] = why
    return made


def percent(value: float, exact: float) -> float:
    return 100 * abs(value / exact - 1)
