"""What lies behind a port: lumped circuits, each a small linear system between the port's pressure and flow.

    dx/dt = A x + b Q + f(t),      P = c.x + r Q + g(t)

with the circuit's stored pressures x, the flow Q out of the port, and the pressure P at it. Any circuit of this form is
coupled to the 3D flow implicitly: with the 3D solver's own BDF formula for dx/dt, P is a linear function of Q at
the end of the step (`affine`), and closes with the flow in one small dense system. So outlets of different kinds
mix freely, and none limits the time step (after Bertoglio, Caiazzo & Fernandez, SIAM J. Sci. Comput. 35 (2013)
B551-B575, who show that explicit coupling does).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]


def _nothing(time: float) -> float:
    return 0.0


@dataclass(frozen=True)
class LinearCircuit:
    """A circuit's equations; n stored pressures [Pa]."""

    rates: Array
    """(n, n) A, 1/s"""
    charge: Array
    """(n,) b, Pa / m^3"""
    reading: Array
    """(n,) c"""
    resistance: float
    """r, Pa s / m^3"""
    source: Callable[[float], Array]
    """f, (n,) Pa/s at a time [s]"""
    offset: Callable[[float], float] = _nothing
    """g, Pa at a time [s]"""

    def affine(self, bdf: tuple[float, float, float], now: Array, before: Array, time: float) -> "Affine":
        """P and x at the end of a step as functions of Q.

        Args:
            bdf: a0, a1, a2 [1/s] of dx/dt = a0 x + a1 x_now + a2 x_before.
            now: (n,) x at the step's beginning.
            before: (n,) x a step earlier.
            time: at the step's end, s.
        """
        a0, a1, a2 = bdf
        system = a0 * np.eye(len(now)) - self.rates
        known = np.linalg.solve(system, self.source(time) - a1 * now - a2 * before) if len(now) else now
        slope = np.linalg.solve(system, self.charge) if len(now) else now
        return Affine(
            float(self.resistance + self.reading @ slope), float(self.offset(time) + self.reading @ known), slope, known
        )

    def steady(self, flow: float, time: float = 0.0) -> Array:
        """(n,) the stored pressures under a constant flow [m^3/s]."""
        if not len(self.charge):
            return self.charge
        return np.linalg.solve(-self.rates, self.charge * flow + self.source(time))


@dataclass(frozen=True)
class Affine:
    """P = impedance Q + stored;  x = slope Q + known."""

    impedance: float
    stored: float
    slope: Array
    known: Array


class Bed(Protocol):
    """Anything that has a circuit."""

    def circuit(self) -> LinearCircuit:
        """Its equations."""
        ...


def _pressure_at(pressure: "float | PeriodicWaveform") -> Callable[[float], float]:
    if isinstance(pressure, PeriodicWaveform):
        return pressure.value
    value = float(pressure)
    return lambda time: value


def _no_state(resistance: float, offset: Callable[[float], float]) -> LinearCircuit:
    return LinearCircuit(np.empty((0, 0)), np.empty(0), np.empty(0), resistance, lambda time: np.empty(0), offset)


@dataclass(frozen=True)
class GivenPressure:
    """A port held at a pressure [Pa], constant or over the beat."""

    pressure: float | PeriodicWaveform

    def __post_init__(self) -> None:
        if not isinstance(self.pressure, PeriodicWaveform) and not np.isfinite(self.pressure):
            raise InputError(f"A port's pressure must be finite; it is {self.pressure:g} Pa.")

    def circuit(self) -> LinearCircuit:
        """P = g(t)."""
        return _no_state(0.0, _pressure_at(self.pressure))


@dataclass(frozen=True)
class Resistance:
    """P = R Q + Pd."""

    resistance: float
    """Pa s / m^3"""
    distal_pressure: float | PeriodicWaveform = 0.0
    """Pa"""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.resistance) and self.resistance >= 0):
            raise InputError(f"A port's resistance must not be negative; it is {self.resistance:g} Pa s/m^3.")

    def circuit(self) -> LinearCircuit:
        """P = R Q + Pd(t)."""
        return _no_state(self.resistance, _pressure_at(self.distal_pressure))


@dataclass(frozen=True)
class CoronaryBed:
    """A coronary bed, whose small vessels the contracting heart muscle squeezes.

        P --Ra-- p1 --Ram-- p2 --Rv-- Pv,    Ca from p1 to ground,   Cim from p2 to the intramyocardial pressure Pim(t)

        Ca dp1/dt = Q - (p1 - p2) / Ram
        Cim d(p2 - Pim)/dt = (p1 - p2) / Ram - (p2 - Pv) / Rv

    (Kim, Vignon-Clementel, Coogan, Figueroa, Jansen & Taylor, Ann. Biomed. Eng. 38 (2010) 3195-3209, figure 3.)

    Raises:
        InputError: at construction, for constants that no bed has.
    """

    arterial_resistance: float
    """Ra, Pa s / m^3"""
    arterial_compliance: float
    """Ca, m^3 / Pa"""
    microvascular_resistance: float
    """Ram, Pa s / m^3"""
    myocardial_compliance: float
    """Cim, m^3 / Pa"""
    venous_resistance: float
    """Rv, Pa s / m^3"""
    myocardial_pressure: PeriodicWaveform
    """Pim, Pa: near the left ventricle's pressure in the left coronary's bed, less in the right one's"""
    venous_pressure: float = 0.0
    """Pv, Pa"""

    def __post_init__(self) -> None:
        for name in (
            "arterial_resistance",
            "arterial_compliance",
            "microvascular_resistance",
            "myocardial_compliance",
            "venous_resistance",
        ):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0 or (value == 0 and name != "arterial_resistance"):
                raise InputError(f"A coronary bed's {name} must be positive; it is {value:g}.")

    def circuit(self) -> LinearCircuit:
        """Its two stored pressures p1 and p2."""
        ca, cim = self.arterial_compliance, self.myocardial_compliance
        between, out = 1.0 / self.microvascular_resistance, 1.0 / self.venous_resistance
        rates = np.array([[-between / ca, between / ca], [between / cim, -(between + out) / cim]])

        def source(time: float) -> Array:
            return np.array([0.0, self.myocardial_pressure.derivative(time) + out * self.venous_pressure / cim])

        return LinearCircuit(rates, np.array([1.0 / ca, 0.0]), np.array([1.0, 0.0]), self.arterial_resistance, source)


@dataclass
class BedStates:
    """The stored pressures of all open ports, side by side, and their advance with the flow."""

    circuits: tuple[LinearCircuit, ...]
    now: Array
    """(n,) Pa"""
    before: Array = field(init=False)
    """(n,) Pa, a step earlier"""

    def __post_init__(self) -> None:
        self.before = self.now.copy()
        ends = np.cumsum([0, *(len(circuit.charge) for circuit in self.circuits)])
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]

    def affine(self, bdf: tuple[float, float, float], time: float) -> list[Affine]:
        """Of each port, for a step that ends at a time [s]."""
        return [
            circuit.affine(bdf, self.now[part], self.before[part], time)
            for circuit, part in zip(self.circuits, self.slices, strict=True)
        ]

    def advanced(self, relations: list[Affine], flows: Array) -> Array:
        """(n,) the stored pressures at the end of the step under the flows (ports,)."""
        if not relations:
            return self.now
        return np.concatenate(
            [relation.slope * flow + relation.known for relation, flow in zip(relations, flows, strict=True)]
        )
