"""The heart's phase, from the R-waves seen so far."""

from dataclasses import dataclass

SHORTEST_PERIOD_S = 0.25
LONGEST_PERIOD_S = 2.5
NEW_INTERVAL_WEIGHT = 0.3
"""Weight of a new interval between R-waves in the running period: follows a change within some five beats."""


@dataclass(frozen=True)
class Beat:
    """The present heart beat: when it began and how long beats are."""

    start_ns: int
    period_ns: int

    def phase(self, time_ns: int) -> float:
        """Phase in beats since the last R-wave; beyond 1 where the next one is overdue."""
        return (time_ns - self.start_ns) / self.period_ns

    def next(self, trigger_ns: int) -> "Beat":
        """The beat after another R-wave.

        An interval outside 0.25–2.5 s is no heart beat of its own (a missed or doubled trigger): it moves the start and
        leaves the period.
        """
        interval = trigger_ns - self.start_ns
        if interval <= 0:
            return self
        if not SHORTEST_PERIOD_S <= interval * 1e-9 <= LONGEST_PERIOD_S or interval > 1.6 * self.period_ns:
            return Beat(trigger_ns, self.period_ns)
        period = round((1 - NEW_INTERVAL_WEIGHT) * self.period_ns + NEW_INTERVAL_WEIGHT * interval)
        return Beat(trigger_ns, period)
