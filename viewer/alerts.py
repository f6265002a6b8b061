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
REPLAY = "replay"
"""The one flag that does not say that a state is wrong, only that it was: shown as such, and not as untrusted."""

SILENT, MISFIT = "twin_silent", "state_unreadable"
PLAN_CHANGED = "plan_changed"

# HIGH: the tool may be elsewhere than shown, or nothing shown is current. MEDIUM: numbers are not to be relied on.
# LOW: a person did it on purpose, or something is less good than planned and the intervals say so.
_CONDITIONS: dict[str, tuple[Priority, str]] = {
    # the viewer's own
    BREACH: (Priority.HIGH, "tip may be through the vessel wall"),
    NEAR_WALL: (Priority.MEDIUM, "tip is close to the vessel wall"),
    SILENT: (Priority.HIGH, "no state from the twin"),
    MISFIT: (Priority.HIGH, "the twin's state cannot be shown"),
    PLAN_CHANGED: (Priority.MEDIUM, "the plan has changed since it was approved"),
    REPLAY: (Priority.LOW, "replay of a recording: not the patient now"),
    # where the tip is
    "registration_drifted": (Priority.HIGH, "registration has drifted: register again"),
    "registration_doubtful": (Priority.HIGH, "the tip jumped: touch the fiducials again"),
    "tip_outside_lumen": (Priority.HIGH, "tip is outside the lumen"),
    "registration_problem": (Priority.MEDIUM, "touched fiducials cannot be registered"),
    "not_registered": (Priority.MEDIUM, "not registered"),
    "tip_unknown": (Priority.MEDIUM, "tip not tracked"),
    # the heart
    "no_heart_beat": (Priority.LOW, "no heart beat yet"),
    "heart_beat_lost": (Priority.MEDIUM, "heart beat lost"),
    # what is measured
    "pressure_stale": (Priority.MEDIUM, "no catheter pressure"),
    "pressure_implausible": (Priority.MEDIUM, "measured pressure is beyond belief"),
    "flow_implausible": (Priority.MEDIUM, "measured flow is beyond belief"),
    "velocity_implausible": (Priority.MEDIUM, "measured velocity is beyond belief"),
    "place_unknown": (Priority.LOW, "a measurement at an unknown place is not used"),
    "section_outside_lumen": (Priority.LOW, "flow measured outside the vessel is not used"),
    "sample_volume_outside_lumen": (Priority.LOW, "velocity measured outside the vessel is not used"),
    "transducer_stuck": (Priority.MEDIUM, "{name}: stuck at one number"),
    "transducer_flushing": (Priority.LOW, "{name}: open to the flush bag"),
    "transducer_zeroing": (Priority.LOW, "{name}: open to air, or being zeroed"),
    "transducer_disconnected": (Priority.MEDIUM, "{name}: disconnected? check the line"),
    "transducer_unzeroed": (Priority.MEDIUM, "{name}: too low for an artery: zero it"),
    "transducer_moved": (Priority.MEDIUM, "{name}: height or zero has changed"),
    "line_damped": (Priority.MEDIUM, "{name}: damped (clot, kink or bubble?)"),
    "line_distorted": (Priority.MEDIUM, "{name}: distorted (whip or resonance?)"),
    "sensors_swapped": (Priority.MEDIUM, "two pressure sensors are swapped"),
    "silent": (Priority.MEDIUM, "{name}: silent"),
    # the patient and the filter
    "circulation_changed": (Priority.MEDIUM, "circulation has changed (clamp, drug, bleeding?)"),
    "filter_diverged": (Priority.MEDIUM, "filter had lost the patient, and begins anew"),
    "out_of_trained_range": (Priority.MEDIUM, "flow is outside of the trained range"),
    "flow_model_estimated": (Priority.LOW, "flow model is an estimate: 3D runs not done"),
    # the session
    "not_started": (Priority.LOW, "session not started"),
    "overloaded": (Priority.MEDIUM, "the twin is overloaded and late"),
    "restarted": (Priority.LOW, "the twin was started again: a moment is lost"),
    "recording_failed": (Priority.LOW, "the recording is not complete"),
    "insecure_plain_text": (Priority.LOW, "open network without keys"),
}
"""Priority and words by a flag without the name behind its colon, which stands for ``{name}``."""

OWN_CONDITIONS = (BREACH, NEAR_WALL, SILENT, MISFIT, PLAN_CHANGED, REPLAY)
"""Those that no state of a live twin carries."""


def doubts(flags: Iterable[str]) -> tuple[str, ...]:
    """The flags for which a state is not to be trusted."""
    return tuple(flag for flag in flags if flag != REPLAY)


def known_conditions() -> tuple[str, ...]:
    """Every condition that has words of its own here, without the name of a sensor or stream."""
    return tuple(_CONDITIONS)


def priority_of(condition: str) -> Priority:
    """Priority of a state's flag or of one of the viewer's own conditions; a flag not known here is medium."""
    known = _CONDITIONS.get(condition.partition(":")[0])
    return Priority.MEDIUM if known is None else known[0]


def words_of(condition: str) -> str:
    """A flag in words for a person; one not known here is told as it came."""
    kind, _, name = condition.partition(":")
    known = _CONDITIONS.get(kind)
    if known is None:
        return condition.replace("_", " ")
    return known[1].format(name=stream_name(name) or "a sensor")


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
