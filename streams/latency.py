"""Durations counted in bins of one per cent, so that percentiles of a long session take no memory."""

import math
from collections import Counter
from dataclasses import dataclass, field

BINS_PER_E = 100
"""Bins for each factor of e: 1 % wide."""


@dataclass
class LatencyHistogram:
    """Counts durations in ns.

    Attributes:
        count: how many.
        longest_ns: exact.
    """

    count: int = 0
    longest_ns: int = 0
    _bins: Counter[int] = field(default_factory=Counter)

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration."""
        duration_ns = max(1, duration_ns)
        self.count += times
        self.longest_ns = max(self.longest_ns, duration_ns)
        self._bins[int(math.log(duration_ns) * BINS_PER_E)] += times

    def percentile_ms(self, percentile: float) -> float | None:
        """A percentile [ms], to one per cent of itself; None where nothing was counted."""
        if not self.count:
            return None
        rank, seen = percentile / 100.0 * self.count, 0
        for bin_number in sorted(self._bins):
            seen += self._bins[bin_number]
            if seen >= rank:
                return min(math.exp((bin_number + 0.5) / BINS_PER_E), float(self.longest_ns)) / 1e6
        return self.longest_ns / 1e6
