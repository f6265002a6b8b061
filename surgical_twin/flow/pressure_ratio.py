"""Fractional flow reserve and instantaneous wave-free ratio from pressures over a beat.

    FFR(s) = mean over the beat of P(s) / mean of P(proximal),    under hyperemia,
    iFR(s) = the same over the wave-free period of diastole,      at rest,

(Pijls et al., N. Engl. J. Med. 334 (1996) 1703-1708; Sen et al., J. Am. Coll. Cardiol. 59 (2012) 1392-1402). The
wave-free period begins a quarter into diastole and ends 5 ms before its end. Whether a run is one of hyperemia or of
rest is said by its inflow and its beds; both ratios are the model's, and the wave-free one needs a proximal pressure
with an incisura.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError

Array = NDArray[np.float64]

WAVE_FREE_DELAY = 0.25
"""Part of diastole before the wave-free period."""
WAVE_FREE_END = 0.005
"""s before the end of diastole at which it ends."""
LATEST_SYSTOLE = 0.6
"""Systole ends before this part of the beat after the foot of the pressure."""


@dataclass(frozen=True)
class PressureRatios:
    """At places (s,) along a vessel."""

    ffr: Array
    ifr: Array
    window: tuple[float, float]
    """s from the beat's first time: the wave-free period; its end may lie beyond the beat's."""


def wave_free_window(time: Array, pressure: Array) -> tuple[float, float]:
    """Begin and end [s from the first time] of the wave-free period of one beat of proximal pressure.

    Diastole is taken from the incisura, where the pressure's second derivative is largest between the peak and
    the latest end of systole, to the foot of the next upstroke, where the pressure is lowest.

    Args:
        time: (t,) s; the last is one period after the first.
        pressure: (t,) Pa.

    Raises:
        InputError: the pressure does not pulse.
    """
    period = float(time[-1] - time[0])
    count = 512
    even = np.interp(np.arange(count) * period / count, time - time[0], pressure)
    if np.ptp(even) <= 1e-9 * max(1.0, float(np.abs(even).max())):
        raise InputError("The proximal pressure does not pulse: there is no wave-free period; run a pulsatile inflow.")
    harmonics = np.fft.rfft(even)
    harmonics[24:] = 0.0
    smooth = np.fft.irfft(harmonics, count)
    curvature = np.fft.irfft(-harmonics * (2 * np.pi / period * np.arange(len(harmonics))) ** 2, count)
    foot = int(np.argmin(smooth))
    rolled, bent = np.roll(smooth, -foot), np.roll(curvature, -foot)
    peak = int(np.argmax(rolled))
    latest = max(peak + 2, int(LATEST_SYSTOLE * count))
    incisura = peak + 1 + int(np.argmax(bent[peak + 1 : latest]))
    begin = (foot + incisura + WAVE_FREE_DELAY * (count - incisura)) * period / count
    end = (foot + count) * period / count - WAVE_FREE_END
    early = period if begin >= period else 0.0
    return begin - early, end - early


def pressure_ratios(time: Array, proximal: Array, pressure: Array) -> PressureRatios:
    """FFR and iFR of pressures (t, s) at places, against the proximal pressure (t,) [Pa], over one beat (t,) [s].

    Raises:
        InputError: the proximal pressure is not positive, or does not pulse.
    """
    period = float(time[-1] - time[0])
    mean = np.trapezoid(proximal, time) / period
    if mean <= 0:
        raise InputError(f"The mean proximal pressure is {mean:.0f} Pa; a pressure ratio needs a positive one.")
    begin, end = wave_free_window(time, proximal)
    fine = np.linspace(begin, end, 200) % period
    clock = time - time[0]
    low = np.trapezoid(np.interp(fine, clock, proximal))
    places = np.array([np.trapezoid(np.interp(fine, clock, column)) for column in pressure.T])
    ffr = np.asarray(np.trapezoid(pressure, time, axis=0)) / period / mean
    return PressureRatios(ffr, places / low, (begin, end))
