"""Whether a pressure transducer measures an artery at all, from its samples alone.

Samples are looked at in windows of about a second. What a window shows is named by what a person at the bedside would
check; the first that applies:

* ``stuck``: the same number over and over;
* ``flushing``: beyond 250 mmHg most of the time: the line is open to the flush bag;
* ``zeroing``: at atmospheric pressure, without a pulse: the line is open to the air, or zeroed;
* ``disconnected``: samples that jump about as no pressure does (no plug, a loose wire), or none of a beat and below
  what any living artery has;
* ``unzeroed``: a pulse, at a mean that no artery has.

Limits are those of arteries of people: a mean below 15 mmHg is none (in cardiac arrest mean arterial pressure falls to
some 10 to 20 mmHg; Schipke et al., Pacing Clin. Electrophysiol. 26, 2003), and what changes by more than 15 mmHg within
8 ms, again and again and up and down, is no pressure (the steepest upstroke of an artery, 2000 mmHg/s, is 16 mmHg in 8
ms, once a beat).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

WINDOW_S = 0.8
FLUSH_MMHG = 250.0
LEAST_MEAN_MMHG = 15.0
AIR_MMHG = 8.0
"""Nearer to zero than this, a transducer may be open to the air."""

LEAST_PULSE = 8.0
"""mmHg, peak to peak over a window, beyond what noise makes."""

JUMP_MMHG_PER_S = 15.0 / 0.008
JUMPING_SHARE = 0.15
"""Of all steps from sample to sample."""

NOISE_SPREADS = 5.0
"""Peak to peak of noise alone, in its standard deviations, over a window of samples."""


@dataclass(frozen=True)
class SignalWatch:
    """What is known of a sensor's samples. A value: `see` returns a new one."""

    condition: str = ""
    """what the last whole window showed; empty where it looks like an artery"""
    begin_ns: int | None = None
    """of the window that is being filled"""
    samples: tuple[float, ...] = ()
    period_ns: int = 0

    def see(self, time_ns: int, period_ns: int, values: tuple[float, ...]) -> SignalWatch:
        """Take some samples, the first measured at ``time_ns``."""
        begin = self.begin_ns
        if begin is None or time_ns < begin or time_ns - begin > 2e9 * WINDOW_S:
            return SignalWatch(self.condition, time_ns, values, period_ns)._whole()
        return SignalWatch(self.condition, begin, self.samples + values, period_ns)._whole()

    def _whole(self) -> SignalWatch:
        if len(self.samples) * self.period_ns < WINDOW_S * 1e9 or len(self.samples) < 5:
            return self
        return SignalWatch(condition_of(self.samples, self.period_ns * 1e-9), None, (), self.period_ns)


def condition_of(samples: tuple[float, ...], period_s: float) -> str:
    """What a window of samples [mmHg] shows, see the module; empty where it looks like an artery's."""
    count = len(samples)
    mean = math.fsum(samples) / count
    lowest, highest = min(samples), max(samples)
    if highest - lowest < 1e-6 and abs(mean) > AIR_MMHG:
        return "stuck"
    if sorted(samples)[count // 2] > FLUSH_MMHG:
        return "flushing"
    steps = [abs(after - before) for before, after in pairwise(samples)]
    jump = max(JUMP_MMHG_PER_S * period_s, 15.0)
    if sum(step > jump for step in steps) > JUMPING_SHARE * count:
        return "disconnected"
    # Noise from what changes between neighboring samples; a pulse moves little in that time.
    steps.sort()
    noise = steps[len(steps) // 2] / (0.6745 * math.sqrt(2.0))
    pulse = (highest - lowest) - NOISE_SPREADS * noise
    if mean >= LEAST_MEAN_MMHG:
        return ""
    if pulse >= LEAST_PULSE:
        return "unzeroed"
    return "zeroing" if abs(mean) < AIR_MMHG else "disconnected"
