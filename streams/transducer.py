"""A catheter and its transducer: what they make of the pressure at the tip.

A fluid-filled line is a second-order system (R. M. Gardner, "Direct blood pressure measurement: dynamic response
requirements", Anesthesiology 54, 1981):

    p'' + 2 zeta w p' + w^2 p = w^2 p_tip,     w = 2 pi f

with natural frequency f and damping zeta. Good lines have f > 20 Hz. An air bubble makes the line softer, which
lowers f; a clot or a kink damps it (zeta > 1). A transducer h above the tip reads rho g h too little: 0.78 mmHg for
each cm of blood. Whip is the catheter's own swinging when it is struck by each beat. The zero drifts; the range ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

Array = NDArray[np.float64]

BLOOD_DENSITY = 1060.0
GRAVITY = 9.80665
PASCAL_PER_MMHG = 133.322387415
MMHG_PER_CM = BLOOD_DENSITY * GRAVITY * 0.01 / PASCAL_PER_MMHG
"""Of a column of blood."""

STEP_S = 0.0005
"""The line's equation is solved exactly over steps of this length, for a pressure that is linear within each."""

SAMPLE_S = 0.001
"""The pressure at the tip is asked for at times this far apart."""

FLUSH_MMHG = 300.0
"""Pressure of the flush bag."""


@dataclass(frozen=True)
class Line:
    """The line's dynamics from a time on."""

    begin_s: float = 0.0
    frequency_hz: float | None = None
    """natural frequency; None for a tip manometer, which has no line"""
    damping: float = 0.3


@dataclass(frozen=True)
class Transducer:
    """All that lies between the pressure at the tip and the number on the wire."""

    lines: tuple[Line, ...] = (Line(),)
    """in the order of their times: a bubble or a clot is another line from then on"""
    height_cm: float = 0.0
    """of the transducer above the tip"""
    zero_drift_mmhg_per_h: float = 0.0
    whip_mmhg: float = 0.0
    """amplitude of the first swing after each beat"""
    whip_hz: float = 12.0
    whip_decay_s: float = 0.08
    beats: tuple[float, ...] = ()
    """when a beat strikes the catheter [s]"""
    lowest_mmhg: float = -math.inf
    highest_mmhg: float = math.inf
    flushes: tuple[tuple[float, float], ...] = ()
    """begin and end [s] of each time that the line was opened to the flush bag"""
    zeroings: tuple[tuple[float, float], ...] = ()
    """begin and end [s] of each time that the transducer was opened to the air"""

    def measure(self, pressure_mmhg: Callable[[float], float], times: Array) -> Array:
        """What is read at some increasing times [s].

        Args:
            pressure_mmhg: true pressure at the tip, at a time [s].
            times: (n,) s.
        """
        if self.lines == (Line(),) and not self.whip_mmhg and not self.flushes:
            through = np.array([pressure_mmhg(float(time)) for time in times])
        else:
            through = self._through_the_line(pressure_mmhg, times)
        read = through - self.height_cm * MMHG_PER_CM
        for begin, end in self.zeroings:
            read = np.where((times >= begin) & (times < end), 0.0, read)
        read = read + self.zero_drift_mmhg_per_h * times / 3600.0
        clipped: Array = np.clip(read, self.lowest_mmhg, self.highest_mmhg)
        return clipped

    def _through_the_line(self, pressure_mmhg: Callable[[float], float], times: Array) -> Array:
        steps = math.ceil(float(times[-1]) / STEP_S) + 1
        grid: Array = np.arange(steps + 1, dtype=float) * STEP_S
        coarse = grid[:: round(SAMPLE_S / STEP_S)]
        coarse = np.append(coarse, grid[-1]) if coarse[-1] < grid[-1] else coarse
        tip = np.interp(grid, coarse, [pressure_mmhg(float(time)) for time in coarse]) + self._whip(grid)
        for begin, end in self.flushes:
            tip[(grid >= begin) & (grid < end)] = FLUSH_MMHG
        out = tip.copy()
        begins = [line.begin_s for line in self.lines] + [math.inf]
        state = np.array([tip[0], 0.0])
        for line, begin, end in zip(self.lines, begins, begins[1:], strict=False):
            inside = np.flatnonzero((grid >= begin) & (grid < end))
            if not len(inside):
                continue
            if line.frequency_hz is None:
                state = np.array([tip[inside[-1]], 0.0])
                continue
            advance, from_start, from_slope = _transition(line.frequency_hz, line.damping)
            for index in inside.tolist():
                before = max(index - 1, 0)
                slope = (tip[index] - tip[before]) / STEP_S
                if index:
                    state = advance @ state + from_start * tip[before] + from_slope * slope
                out[index] = state[0]
        measured: Array = np.interp(times, grid, out)
        return measured

    def _whip(self, grid: Array) -> Array:
        swing = np.zeros_like(grid)
        if not self.whip_mmhg:
            return swing
        for beat in self.beats:
            after = grid - beat
            near = (after >= 0) & (after < 8 * self.whip_decay_s)
            phase = 2 * math.pi * self.whip_hz * after[near]
            swing[near] += self.whip_mmhg * np.exp(-after[near] / self.whip_decay_s) * np.sin(phase)
        return swing


def _transition(frequency_hz: float, damping: float) -> tuple[Array, Array, Array]:
    """One step of the line, exactly: the state's own part, and those of the input's start and slope.

    The input is carried as two more states (its value, and its constant slope) of one matrix exponential.
    """
    w = 2 * math.pi * frequency_hz
    system = np.zeros((4, 4))
    system[0, 1] = 1.0
    system[1] = [-(w**2), -2 * damping * w, w**2, 0.0]
    system[2, 3] = 1.0
    whole = expm(system * STEP_S)
    return whole[:2, :2], whole[:2, 2], whole[:2, 3]
