"""Alerts with a priority each, after the categories of IEC 60601-1-8, and their acknowledgement.

The standard sorts an alarm condition by the harm that follows if nobody reacts, and by how soon it follows: high is red
and flashes at 1.4 to 2.8 Hz, medium is yellow and flashes at 0.4 to 0.8 Hz, low is cyan or yellow and stays on
(IEC 60601-1-8:2020, table 2). The twin is no alarm system of a medical device; it uses the categories so that its words
are read as those of the monitors beside it. Acknowledging stops the flashing, not the condition: an acknowledged
alert stays on the list until its cause is gone, and flashes again when the cause comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

RED, YELLOW, CYAN = "#e5484d", "#f5c542", "#4cc3d9"


class Priority(IntEnum):
    """How urgent a reaction is; a larger number is more urgent."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3

    @property
    def color(self) -> str:
        """#rrggbb after the standard."""
        return {Priority.HIGH: RED, Priority.MEDIUM: YELLOW, Priority.LOW: CYAN}[self]

    @property
    def marks(self) -> str:
        """Exclamation marks, for those who do not see the color."""
        return "!" * int(self)

    @property
    def flash_hz(self) -> float:
        """How often per second an alert flashes; 0 for one that stays on."""
        return {Priority.HIGH: 2.0, Priority.MEDIUM: 0.6, Priority.LOW: 0.0}[self]


BREACH, NEAR_WALL = "wall_breach", "near_wall"
SILENT, MISFIT = "twin_silent", "state_unreadable"

# HIGH: the tool may be elsewhere than shown, or nothing shown is current. MEDIUM: numbers are not to be relied on.
# LOW: something is less good than planned, and the intervals say so.
_PRIORITY = {
    BREACH: Priority.HIGH,
    SILENT: Priority.HIGH,
    MISFIT: Priority.HIGH,
    "registration_drifted": Priority.HIGH,
    "registration_problem": Priority.HIGH,
    "registration_poor": Priority.HIGH,
    "tip_outside_lumen": Priority.HIGH,
    NEAR_WALL: Priority.MEDIUM,
    "tip_unknown": Priority.MEDIUM,
    "not_registered": Priority.MEDIUM,
    "tracker_stale": Priority.MEDIUM,
    "pressure_stale": Priority.MEDIUM,
    "pressure_implausible": Priority.MEDIUM,
    "heart_beat_lost": Priority.MEDIUM,
    "overloaded": Priority.MEDIUM,
    "out_of_trained_range": Priority.MEDIUM,
    "flow_implausible": Priority.MEDIUM,
    "recording_failed": Priority.MEDIUM,
    "flow_model_estimated": Priority.LOW,
    "no_heart_beat": Priority.LOW,
    "not_started": Priority.LOW,
    "insecure_plain_text": Priority.LOW,
    "replay": Priority.LOW,
}

_WORDS = {
    BREACH: "tip may be through the vessel wall",
    NEAR_WALL: "tip is close to the vessel wall",
    SILENT: "no state from the twin",
    MISFIT: "the twin's state cannot be shown",
    "registration_drifted": "registration has drifted: register again",
    "registration_problem": "the touched fiducials cannot be registered",
    "tip_outside_lumen": "tip is outside the lumen",
    "tip_unknown": "tip not tracked",
    "not_registered": "not registered",
    "pressure_stale": "no catheter pressure",
    "pressure_implausible": "measured pressure is beyond belief",
    "flow_implausible": "measured flow is beyond belief",
    "heart_beat_lost": "heart beat lost",
    "no_heart_beat": "no heart beat yet",
    "overloaded": "the twin is overloaded and late",
    "out_of_trained_range": "flow is outside of the trained range",
    "flow_model_estimated": "flow model is an estimate: 3D runs not done",
    "recording_failed": "the recording is not complete",
    "insecure_plain_text": "open network without keys",
    "replay": "replay of a recording: not the patient now",
    "not_started": "session not started",
}


def priority_of(condition: str) -> Priority:
    """Priority of a state's flag or of one of the viewer's own conditions; a flag not known here is medium."""
    if condition.startswith("silent:"):
        return Priority.MEDIUM
    return _PRIORITY.get(condition, Priority.MEDIUM)


def words_of(condition: str) -> str:
    """A flag in words for a person."""
    if condition.startswith("silent:"):
        return f"{stream_name(condition.partition(':')[2])} silent"
    return _WORDS.get(condition, condition.replace("_", " "))


def stream_name(stream: str) -> str:
    """A stream's name (KIND/NAME) for a person: its own name without its kind."""
    return (stream.rpartition("/")[2] or stream).replace("_", " ")


@dataclass(frozen=True)
class Alert:
    """One condition that holds now.

    Attributes:
        condition: the state's flag, or the viewer's own word.
        since_s: when it began, on the board's clock.
        acknowledged: whether a person has seen it.
    """

    condition: str
    since_s: float
    acknowledged: bool = False

    @property
    def priority(self) -> Priority:
        """After `priority_of`."""
        return priority_of(self.condition)

    @property
    def words(self) -> str:
        """After `words_of`."""
        return words_of(self.condition)

    def lit(self, now_s: float) -> bool:
        """Whether it is drawn bright at a time: always, unless it flashes and is in the dark half."""
        rate = 0.0 if self.acknowledged else self.priority.flash_hz
        return rate == 0.0 or ((now_s - self.since_s) * rate) % 1.0 < 0.6


class AlertBoard:
    """What holds now, the most urgent first and of equal urgency the newest first."""

    def __init__(self) -> None:
        self._alerts: dict[str, Alert] = {}

    def take(self, conditions: Iterable[str], now_s: float) -> None:
        """Replace what holds: new conditions begin now, those gone are forgotten with their acknowledgement."""
        wanted = dict.fromkeys(conditions)
        self._alerts = {name: self._alerts.get(name, Alert(name, now_s)) for name in wanted}

    def acknowledge(self, condition: str | None = None) -> int:
        """A person has seen one condition, or all of them; how many that were not acknowledged before."""
        count = 0
        for name, alert in self._alerts.items():
            if (condition is None or name == condition) and not alert.acknowledged:
                self._alerts[name] = replace(alert, acknowledged=True)
                count += 1
        return count

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Ordered for display; acknowledged ones after the others of their priority."""
        return tuple(
            sorted(self._alerts.values(), key=lambda a: (-int(a.priority), a.acknowledged, -a.since_s, a.condition))
        )

    @property
    def highest(self) -> Priority | None:
        """The most urgent priority that nobody has acknowledged."""
        return max((a.priority for a in self._alerts.values() if not a.acknowledged), default=None)
