"""What the port model is given and what it carries: Windkessel constants and states of an ensemble (SI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError

Array = NDArray[np.float64]


class WindkesselLike(Protocol):
    """Anything that carries the four constants of a three-element Windkessel."""

    @property
    def proximal_resistance(self) -> float:
        """Resistance between the outlet and the capacitor, Pa s / m^3."""

    @property
    def distal_resistance(self) -> float:
        """Resistance between the capacitor and the distal pressure, Pa s / m^3."""

    @property
    def compliance(self) -> float:
        """Compliance of the capacitor, m^3 / Pa."""

    @property
    def distal_pressure(self) -> float:
        """Pressure behind the distal resistance, Pa."""


@dataclass(frozen=True)
class PortParameters:
    """Windkessel constants of an ensemble, each (members, N), SI units.

    Raises `InputError` for a value no vessel bed has: a negative or infinite resistance or compliance, or a
    distal resistance of zero.
    """

    proximal_resistance: Array
    distal_resistance: Array
    compliance: Array
    distal_pressure: Array
    drop_factor: Array | None = None
    """(members,) by how much the tree's own losses (friction and kinetic, not inertia) differ from the model's; 1 where
    None"""

    @property
    def drop(self) -> Array:
        """(members,) `drop_factor`, ones where there is none."""
        return np.ones(self.members) if self.drop_factor is None else self.drop_factor

    def __post_init__(self) -> None:
        shape = self.proximal_resistance.shape
        if len(shape) != 2:
            raise InputError(f"Windkessel constants must have the shape (members, outlets), not {shape}.")
        for name in ("proximal_resistance", "distal_resistance", "compliance", "distal_pressure"):
            values = getattr(self, name)
            if values.shape != shape:
                raise InputError(
                    f"The Windkessels' {name} has the shape {values.shape} and the proximal_resistance "
                    f"{shape}; give every constant for every member and outlet."
                )
            lowest, highest = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
            if values.size and not (lowest > -np.inf and highest < np.inf):  # also false for NaN
                raise InputError(f"The Windkessels' {name} must be finite; it holds {lowest} to {highest}.")
            bad = lowest <= 0.0 if name == "distal_resistance" else lowest < 0.0
            if bad and name != "distal_pressure":
                wanted = "positive" if name == "distal_resistance" else "zero or positive"
                raise InputError(f"The Windkessels' {name} must be {wanted}; the lowest value is {lowest:g}.")
        factor = self.drop
        if factor.shape != (self.members,) or not (np.isfinite(factor) & (factor > 0.0)).all():
            raise InputError(f"The drop factor must be positive and one for each of {self.members} members.")

    @property
    def members(self) -> int:
        """Number of ensemble members."""
        return int(self.proximal_resistance.shape[0])

    @classmethod
    def of(cls, windkessels: Mapping[str, WindkesselLike], outlets: Sequence[str], members: int = 1) -> PortParameters:
        """The same Windkessels, named by outlet, for every member."""
        missing = [name for name in outlets if name not in windkessels]
        if missing:
            raise InputError(f"No Windkessel for the outlet(s) {', '.join(missing)}; there are {sorted(windkessels)}.")
        beds = [windkessels[name] for name in outlets]

        def tile(values: list[float]) -> Array:
            return np.tile(np.asarray(values, dtype=float), (members, 1))

        return cls(
            proximal_resistance=tile([bed.proximal_resistance for bed in beds]),
            distal_resistance=tile([bed.distal_resistance for bed in beds]),
            compliance=tile([bed.compliance for bed in beds]),
            distal_pressure=tile([bed.distal_pressure for bed in beds]),
        )


@dataclass(frozen=True)
class PortState:
    """State of an ensemble at one time; flow leaves through outlets. SI units.

    ``flow``, ``capacitor_pressure`` and ``lagged_flow`` are the state proper; the others follow from them and
    from the inflow's derivative (`PortModel.complete`).
    """

    flow: Array
    """(members, N) through each outlet; the sum is the inflow."""
    capacitor_pressure: Array
    """(members, N)"""
    lagged_flow: Array
    """(members, K, N) the flow as each of the model's K memories recalls it"""
    flow_derivative: Array
    """(members, N) m^3/s^2"""
    inlet_pressure: Array
    """(members,)"""
    outlet_pressure: Array
    """(members, N)"""
    drop_factor: Array
    """(members,) of the parameters that it was made with"""

    @property
    def inflow(self) -> Array:
        """(members,) flow into the inlet."""
        return self.flow.sum(axis=1)
