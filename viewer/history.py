"""What the last seconds of states said: for waveforms, the trail of the tip, and means over a beat."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewer.alerts import doubts

if TYPE_CHECKING:
    from streams.messages import TwinState

Array = NDArray[np.float64]

KEPT_S = 12.0
"""How much of the past is kept."""

SAMPLES_PER_S = 60.0
"""At most so many samples a second are kept: more than a screen shows."""

FALLBACK_BEAT_S = 3.0
"""Where no heart beat is heard of, means are taken over so many seconds."""

LEAST_BEAT_S = 0.2
"""Hearts beat 300 times a minute at most."""

_NAN = float("nan")


class History:
    """A window of fixed length onto the past; its memory does not grow.

    It is emptied when time goes back by more than a second, as when a replay is begun again.
    """

    def __init__(self, kept_s: float = KEPT_S) -> None:
        count = int(kept_s * SAMPLES_PER_S) + 2
        self._rows: deque[tuple[float, ...]] = deque(maxlen=count)
        self._tips: deque[tuple[float, float, float]] = deque(maxlen=count)
        self._last_s = -np.inf
        self._beat: _BeatMean | None = None

    def add(self, state: TwinState) -> bool:
        """Take a state; whether it was kept (those that follow too closely are not)."""
        now_s = state.source_time_ns * 1e-9
        if now_s < self._last_s - 1.0:
            self.clear()
        if self._beat is None:
            self._beat = _BeatMean()
        self._beat.add(state, now_s)
        if now_s - self._last_s < 0.9 / SAMPLES_PER_S:
            return False
        self._last_s = now_s
        tip = state.tip_pressure_mmhg
        # What is not trusted leaves a gap in the curve instead of a confident line.
        known = tip is not None and not doubts(state.flags)
        predicted = (tip.value, tip.lower, tip.upper) if known and tip is not None else (_NAN, _NAN, _NAN)
        measured = _NAN if state.measured_pressure_mmhg is None else state.measured_pressure_mmhg
        self._rows.append((now_s, *predicted, measured))
        if state.tip is not None and state.tip_valid:
            self._tips.append(state.tip)
        else:
            self._tips.append((_NAN, _NAN, _NAN))
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._tips.clear()
        self._last_s = -np.inf
        self._beat = None

    def waves(self) -> Array:
        """(n, 5) time [s], predicted tip pressure, its lower and upper 95 % end, measured [mmHg]; NaN where unknown."""
        return np.array(self._rows, dtype=float).reshape(-1, 5)

    def trail(self, seconds: float) -> Array:
        """(n, 3) mm LPS where the tip was in the last `seconds`; NaN rows where it was not known."""
        tips, rows = np.array(self._tips, dtype=float).reshape(-1, 3), self.waves()
        if not len(rows):
            return tips
        return np.asarray(tips[rows[:, 0] >= rows[-1, 0] - seconds])

    def beat_share(self, state: TwinState) -> float | None:
        """How much of the beat is over at a state, 0 to 1; None where no two heart beats have been heard of."""
        length = None if self._beat is None else self._beat.length_s
        r_wave = _newest_r_wave(state)
        if length is None or r_wave is None:
            return None
        # A beat that is longer than the last one stays at its end until the next R-wave.
        return float(np.clip((state.source_time_ns * 1e-9 - r_wave) / length, 0.0, 0.999))

    @property
    def beat(self) -> BeatMeans | None:
        """Means over the last whole beat (or `FALLBACK_BEAT_S`); None before one is over."""
        return None if self._beat is None else self._beat.done


class BeatMeans:
    """Means over one beat.

    Attributes:
        coefficients: (K,) of the pressure field.
        axis_mmhg: (n, 3) value, lower, upper at the stations along the vessel.
        inlet_mmhg: mean pressure of the inlet (the first port).
        whole_beat: False where no heart beat was heard of and a fixed time stands for it.
    """

    def __init__(self, coefficients: Array, axis_mmhg: Array, inlet_mmhg: float, *, whole_beat: bool) -> None:
        self.coefficients, self.axis_mmhg = coefficients, axis_mmhg
        self.inlet_mmhg, self.whole_beat = inlet_mmhg, whole_beat


class _BeatMean:
    """Sums states up until the R-wave changes."""

    def __init__(self) -> None:
        self.done: BeatMeans | None = None
        self._r_wave_s: float | None = None
        self.length_s: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._field: Array = np.zeros(0)
        self._axis: Array = np.zeros((0, 3))
        self._inlet = 0.0
        self._since: float | None = None

    def add(self, state: TwinState, now_s: float) -> None:
        if self._since is None:
            self._since = now_s
        r_wave = _newest_r_wave(state)
        if r_wave is not None and (self._r_wave_s is None or abs(r_wave - self._r_wave_s) > 0.2):
            if self._r_wave_s is not None:
                self._finish(whole_beat=True)
                if LEAST_BEAT_S < r_wave - self._r_wave_s < FALLBACK_BEAT_S:
                    self.length_s = r_wave - self._r_wave_s
            self._r_wave_s = r_wave
            self._begin()
            self._since = now_s
        elif now_s - self._since > FALLBACK_BEAT_S:
            self._finish(whole_beat=False)
            self._begin()
            self._since = now_s
        if doubts(state.flags) or not state.field_coefficients or not state.port_pressure_mmhg:
            return
        field = np.array(state.field_coefficients, dtype=float)
        axis = np.array([(e.value, e.lower, e.upper) for e in state.axis_pressure_mmhg], dtype=float).reshape(-1, 3)
        if self._count and (field.shape != self._field.shape or axis.shape != self._axis.shape):
            self._begin()
        self._field = field if not self._count else self._field + field
        self._axis = axis if not self._count else self._axis + axis
        self._inlet += next(iter(state.port_pressure_mmhg.values())).value
        self._count += 1

    def _finish(self, *, whole_beat: bool) -> None:
        # A beat of a few states (the first one, or a stream with gaps) has no mean worth the name.
        if self._count >= 8:
            n = self._count
            self.done = BeatMeans(self._field / n, self._axis / n, self._inlet / n, whole_beat=whole_beat)


def _newest_r_wave(state: TwinState) -> float | None:
    """Time [s] of the newest heart beat: the age of the stream that carries R-waves."""
    # Streams are named KIND/NAME; R-waves come as triggers, or as an ECG's.
    age = next((age for name, age in state.age_ns.items() if name.rpartition("/")[2] in ("r_wave", "ecg")), None)
    return None if age is None else (state.source_time_ns - age) * 1e-9
