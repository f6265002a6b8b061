"""Three-element Windkessels, and their constants from what a clinic knows.

    P = Pc + Rp Q,      C dPc/dt = Q - (Pc - Pd) / Rd

(Westerhof, Lankhaar & Westerhof, Med. Biol. Eng. Comput. 47 (2009) 131-141.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from surgical_twin.errors import InputError
from surgical_twin.flow.beds import LinearCircuit
from surgical_twin.flow.waveform import PeriodicWaveform

PROXIMAL_SHARE = 0.09
"""Proximal part of an outlet's whole resistance (Laskey et al., Ann. Biomed. Eng. 18 (1990) 91-108: 0.056-0.1)."""

_HARMONICS = 24


@dataclass(frozen=True)
class Windkessel:
    """The bed behind one outlet; SI.

    Raises:
        InputError: at construction, for constants that no bed has.
    """

    proximal_resistance: float
    """Pa s / m^3"""
    distal_resistance: float
    """Pa s / m^3"""
    compliance: float
    """m^3 / Pa"""
    distal_pressure: float = 0.0
    """Pa"""

    def __post_init__(self) -> None:
        for name in ("proximal_resistance", "distal_resistance", "compliance"):
            value = getattr(self, name)
            lowest_is_zero = name == "proximal_resistance"
            if not np.isfinite(value) or value < 0 or (value == 0 and not lowest_is_zero):
                raise InputError(f"A Windkessel's {name} must be positive; it is {value:g}.")
        if not np.isfinite(self.distal_pressure):
            raise InputError("A Windkessel's distal_pressure must be finite.")

    def circuit(self) -> LinearCircuit:
        """Its one stored pressure, that of the capacitor."""
        source = np.array([self.distal_pressure / (self.distal_resistance * self.compliance)])
        return LinearCircuit(
            rates=np.array([[-1.0 / (self.distal_resistance * self.compliance)]]),
            charge=np.array([1.0 / self.compliance]),
            reading=np.array([1.0]),
            resistance=self.proximal_resistance,
            source=lambda time: source,
        )


def periodic_pressure(
    waveform: PeriodicWaveform, proximal: float, distal: float, compliance: float, count: int = 512
) -> np.ndarray:
    """(count,) pressure [Pa] over one beat in the periodic state, by the impedance Rp + Rd / (1 + i w Rd C)."""
    times = np.arange(count) * waveform.period / count
    flow = np.fft.rfft([waveform.value(time) for time in times])
    omega = 2 * np.pi * np.arange(len(flow)) / waveform.period
    return np.fft.irfft(flow * (proximal + distal / (1 + 1j * omega * distal * compliance)), count)


def tune_windkessels(
    waveform: PeriodicWaveform,
    radii: Mapping[str, float],
    *,
    mean_pressure: float,
    pulse_pressure: float,
    distal_pressure: float = 0.0,
) -> dict[str, Windkessel]:
    """Windkessels that give the wanted mean and pulse pressure at the outlets.

    Flow is split by Murray's law, in proportion to r^3, and compliance with it, so that all outlets have the same
    pressure; the tree's own pressure drop is left out.

    Args:
        waveform: inflow.
        radii: of each outlet, m.
        mean_pressure: Pa.
        pulse_pressure: Pa.
        distal_pressure: Pa.

    Raises:
        InputError: there is no outlet, or no compliance gives this pulse pressure.
    """
    if not radii or min(radii.values()) <= 0:
        raise InputError("Tuning Windkessels needs at least one outlet, each with a positive radius.")
    if mean_pressure <= distal_pressure or pulse_pressure <= 0:
        raise InputError("The mean pressure must exceed the distal pressure, and the pulse pressure be positive.")
    total = (mean_pressure - distal_pressure) / waveform.mean
    proximal, distal = PROXIMAL_SHARE * total, (1 - PROXIMAL_SHARE) * total
    compliance = compliance_for(waveform, total, pulse_pressure)
    cubes = {name: radius**3 for name, radius in radii.items()}
    return {
        name: Windkessel(
            proximal_resistance=proximal * sum(cubes.values()) / cube,
            distal_resistance=distal * sum(cubes.values()) / cube,
            compliance=compliance * cube / sum(cubes.values()),
            distal_pressure=distal_pressure,
        )
        for name, cube in cubes.items()
    }


def compliance_for(waveform: PeriodicWaveform, resistance: float, pulse_pressure: float) -> float:
    """The compliance [m^3/Pa] with which a bed of this whole resistance has a pulse pressure [Pa] under a flow.

    Raises:
        InputError: none has.
    """
    proximal, distal = PROXIMAL_SHARE * resistance, (1 - PROXIMAL_SHARE) * resistance

    def excess(log_compliance: float) -> float:
        return float(np.ptp(periodic_pressure(waveform, proximal, distal, np.exp(log_compliance)))) - pulse_pressure

    lower, upper = np.log(1e-5 * waveform.period / distal), np.log(1e4 * waveform.period / distal)
    stiffest, softest = excess(lower) + pulse_pressure, excess(upper) + pulse_pressure
    if not softest < pulse_pressure < stiffest:
        raise InputError(
            f"No compliance gives a pulse pressure of {pulse_pressure:g} Pa with this inflow and mean pressure: it can "
            f"be {softest:.0f} to {stiffest:.0f} Pa; change flow.pulse_pressure, mean_pressure or waveform."
        )
    return float(np.exp(brentq(excess, lower, upper, xtol=1e-10)))
