"""What the planning page needs of a case: rows to show, and what a person may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from numpy.typing import ArrayLike

from viewer.what_if_panel import Answer

Place = tuple[float, ...]


class PlanRefused(ValueError):
    """What a person asked for cannot be done; the message says why, in words for that person."""


@dataclass(frozen=True)
class PortRow:
    """A port: name, inlet or outlet, center (3,) mm LPS, radius mm, planned mean flow in words, mL/min."""

    name: str
    role: str
    center: Place
    radius_mm: float
    flow: str


@dataclass(frozen=True)
class LandmarkRow:
    """A fiducial (registration touches it) or a landmark: name, kind, place (3,) mm LPS."""

    name: str
    kind: str
    at: Place


@dataclass(frozen=True)
class CheckRow:
    """A check of the plan: name, whether it holds, and its figures in words."""

    name: str
    verdict: Literal["good", "caution", "failed"]
    words: str


class PlanDesk(Protocol):
    """Everything that changes something raises `PlanRefused` where it cannot be done."""

    def ports(self) -> list[PortRow]:
        """Inlet first."""

    def rename_port(self, old: str, new: str) -> None:
        """Call a port otherwise."""

    def landmarks(self) -> list[LandmarkRow]:
        """In the order of their files."""

    def place_landmark(self, name: str, point: ArrayLike, *, fiducial: bool = False) -> None:
        """Put a landmark at a point (3,) mm LPS, or move the one of that name there."""

    def rename_landmark(self, old: str, new: str) -> None:
        """Call a landmark otherwise."""

    def remove_landmark(self, name: str) -> None:
        """Take a landmark away."""

    def outlets(self) -> list[str]:
        """Names of what may be clamped."""

    def present(self) -> tuple[float, float]:
        """Planned flow through the inlet [L/min] and heart rate [1/min]."""

    def ask(self, wishes: Sequence[tuple[str, str]]) -> Answer:
        """What would happen if: kinds and values as those of the command ``what-if``. Never raises."""

    def checks(self) -> list[CheckRow]:
        """Of the plan as it is."""

    def segmentation_picture(self) -> bytes | None:
        """PNG of the image with the lumen's outline."""

    def approval(self) -> tuple[str, str]:
        """``approved``, ``changed`` or ``none``, and words."""

    def approve(self, who: str, reason: str, *, seen: bool) -> str:
        """Approve the plan as it is; returns words."""

    def withdraw(self, who: str) -> str:
        """Take the approval back; returns words."""
