"""Quantities that repeat with the heart beat: inflows [m^3/s], and pressures [Pa] at a port or of the heart muscle."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from surgical_twin.errors import InputError

Array = NDArray[np.float64]

# Flow over its mean at equal steps of a beat from the R-wave on. Shapes of resting arteries as ultrasound and
# phase-contrast MR show them: a systolic peak shortly after the R-wave, a dicrotic notch, run-off through diastole.
_SHAPES: dict[str, tuple[float, ...]] = {
    "peripheral": (
        0.62, 0.66, 0.95, 1.55, 2.00, 2.02, 1.78, 1.45, 1.12, 0.88,
        0.78, 0.82, 0.88, 0.88, 0.84, 0.79, 0.74, 0.70, 0.66, 0.63,
    ),
    "carotid": (
        0.66, 0.68, 1.00, 1.75, 2.00, 1.60, 1.35, 1.30, 1.22, 1.05,
        0.90, 0.88, 0.90, 0.88, 0.84, 0.80, 0.77, 0.74, 0.70, 0.67,
    ),
    "aorta": (
        0.10, 0.20, 0.90, 2.60, 3.70, 3.65, 2.95, 2.10, 1.20, 0.35,
        0.00, 0.15, 0.30, 0.32, 0.28, 0.24, 0.20, 0.16, 0.13, 0.11,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PeriodicWaveform:
    """A flow [m^3/s] (or a pressure [Pa]) that repeats with the heart beat, as a periodic cubic spline through a table
    (C2).

    Time 0 is the R-wave.
    """

    period: float
    """s"""
    spline: CubicSpline
    integral: CubicSpline

    @classmethod
    def from_table(cls, time: ArrayLike, value: ArrayLike) -> "PeriodicWaveform":
        """Make a waveform from one period.

        Args:
            time: (n,) s, increasing; the first and last are one period apart.
            value: (n,) m^3/s; the last equals the first.

        Raises:
            InputError: fewer than 4 points, times that do not increase, values that are not finite or not periodic.
        """
        times, values = np.asarray(time, dtype=float), np.asarray(value, dtype=float)
        if times.ndim != 1 or times.shape != values.shape or len(times) < 4:
            raise InputError(
                f"A waveform needs at least 4 pairs of time and flow; got {times.shape} times and {values.shape} flows."
            )
        if not (np.isfinite(times).all() and np.isfinite(values).all() and (np.diff(times) > 0).all()):
            raise InputError("A waveform's times must increase and all its values be finite; mend the table.")
        size = float(np.abs(values).max())
        if abs(values[-1] - values[0]) > 1e-3 * max(size, 1e-30):
            raise InputError(
                f"The waveform is not periodic: it begins with {values[0]:g} and ends with {values[-1]:g} m^3/s; "
                "give one whole period whose last value repeats the first."
            )
        closed = values.copy()
        closed[-1] = closed[0]
        spline = CubicSpline(times - times[0], closed, bc_type="periodic")
        return cls(float(times[-1] - times[0]), spline, spline.antiderivative())

    @classmethod
    def named(cls, name: str, *, mean: float, period: float) -> "PeriodicWaveform":
        """A usual shape by name ("peripheral", "carotid", "aorta"), with a mean flow [m^3/s] and a period [s].

        Raises:
            InputError: an unknown name, or a mean or period that is not positive.
        """
        if name not in _SHAPES:
            raise InputError(f'There is no waveform "{name}"; take one of {", ".join(sorted(_SHAPES))}.')
        if not (np.isfinite(mean) and mean > 0 and np.isfinite(period) and period > 0):
            raise InputError(f"A waveform needs a positive mean flow and period; got {mean:g} m^3/s and {period:g} s.")
        shape = np.array([*_SHAPES[name], _SHAPES[name][0]])
        raw = cls.from_table(np.linspace(0.0, period, len(shape)), shape)
        return raw.scaled(mean / raw.mean)

    @classmethod
    def constant(cls, value: float, period: float) -> "PeriodicWaveform":
        """The same value all the time; the period [s] says how long a beat is."""
        return cls.from_table(np.linspace(0.0, period, 5), np.full(5, float(value)))

    @classmethod
    def from_function(cls, function: Callable[[Array], ArrayLike], period: float) -> "PeriodicWaveform":
        """A formula of time (takes (n,) s, gives (n,)), taken at 512 times of a period [s].

        Raises:
            InputError: the period is not positive, or the formula is not periodic with it.
        """
        _check_period(period)
        times = np.linspace(0.0, period, 513)
        return cls.from_table(times, np.broadcast_to(np.asarray(function(times), dtype=float), times.shape))

    @classmethod
    def from_fourier(cls, cosine: ArrayLike, sine: ArrayLike, period: float) -> "PeriodicWaveform":
        """The sum over k of cosine[k] cos(k w t) + sine[k] sin(k w t) with w = 2 pi / period; sine[0] counts for
        nothing.

        Raises:
            InputError: lists of different lengths, values that are not finite, or a period that is not positive.
        """
        _check_period(period)
        even, odd = np.atleast_1d(np.asarray(cosine, dtype=float)), np.atleast_1d(np.asarray(sine, dtype=float))
        if even.ndim != 1 or even.shape != odd.shape or not len(even):
            raise InputError(
                f"Fourier coefficients come as many cosines as sines; got {even.shape} and {odd.shape}; the first of "
                "each belongs to the mean."
            )
        times = np.linspace(0.0, period, max(64, 32 * len(even)) + 1)
        phase = 2 * np.pi * np.outer(times / period, np.arange(len(even)))
        return cls.from_table(times, np.cos(phase) @ even + np.sin(phase) @ odd)

    @classmethod
    def from_csv(cls, path: Path, *, time_unit: float = 1.0, value_unit: float = 1.0) -> "PeriodicWaveform":
        """One period from a file of two columns, time and value, a header line allowed; units as factors to SI.

        Raises:
            InputError: the file cannot be read, a line is no pair of numbers, or the table is no period.
        """
        pairs: list[tuple[float, float]] = []
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                for number, row in enumerate(csv.reader(stream), start=1):
                    if not row or row[0].lstrip().startswith("#"):
                        continue
                    try:
                        first, second = row
                        pairs.append((float(first), float(second)))
                    except ValueError as error:
                        if number > 1:
                            raise InputError(
                                f"{path}, line {number}: a waveform has two numbers a line, time and value, with a "
                                "comma between them and points for decimals."
                            ) from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{path} cannot be read as a waveform ({error}); give a CSV file of time and flow."
            ) from error
        table = np.array(pairs, dtype=float).reshape(-1, 2)
        try:
            return cls.from_table(table[:, 0] * time_unit, table[:, 1] * value_unit)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @property
    def mean(self) -> float:
        """Mean over a period, m^3/s."""
        return float(self.integral(self.period) - self.integral(0.0)) / self.period

    def value(self, time: float) -> float:
        """Flow [m^3/s] at a time [s]."""
        return float(self.spline(time % self.period))

    def derivative(self, time: float) -> float:
        """Its rate of change [m^3/s^2]."""
        return float(self.spline(time % self.period, 1))

    def scaled(self, factor: float) -> "PeriodicWaveform":
        """The same shape with all values multiplied."""
        times = self.spline.x
        return PeriodicWaveform.from_table(times, factor * self.spline(times))


def _check_period(period: float) -> None:
    if not (np.isfinite(period) and period > 0):
        raise InputError(f"A waveform's period must be positive; it is {period:g} s.")
