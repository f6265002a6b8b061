"""What is known at one moment, and whether it is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from viewer.alerts import MISFIT, SILENT, doubts
from viewer.guidance import Guidance

if TYPE_CHECKING:
    from streams.messages import TwinState


@dataclass(frozen=True, eq=False)
class Moment:
    """The newest state, and what the viewer itself knows beside it.

    Attributes:
        state: the newest; None before the first.
        guidance: distances from the tip; None where it is not known.
        silent_s: seconds since the twin was last heard, if it has fallen silent.
        problem: why the newest state cannot be shown, if so.
        planning: there is no procedure: what is shown is the plan, and no tip is missed.
    """

    state: TwinState | None = None
    guidance: Guidance | None = None
    silent_s: float | None = None
    problem: str | None = None
    planning: bool = False

    @property
    def own_doubts(self) -> tuple[str, ...]:
        """What the viewer itself holds against the picture, beside the state's own flags."""
        words = []
        if self.problem is not None:
            words.append(self.problem)
        if self.silent_s is not None:
            words.append(f"no state from the twin for {self.silent_s:.1f} s")
        elif self.state is None:
            words.append("no state received yet")
        return tuple(words)

    @property
    def trusted(self) -> bool:
        """Whether it is shown as trusted."""
        return self.state is not None and not doubts(self.state.flags) and not self.own_doubts

    @property
    def doubt(self) -> str | None:
        """Words over a curve that is not to be trusted."""
        return None if self.trusted else "NOT TRUSTED"

    @property
    def conditions(self) -> tuple[str, ...]:
        """What an alert is raised for: the state's flags, and the viewer's own conditions."""
        found: list[str] = []
        if self.problem is not None:
            found.append(MISFIT)
        if self.silent_s is not None:
            found.append(SILENT)
        if self.state is not None:
            found += self.state.flags
        if self.guidance is not None and self.silent_s is None:
            found += self.guidance.conditions
        return tuple(found)
