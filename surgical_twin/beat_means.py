r"""Means over a beat, by member, and what they become in the beats to come if nothing is done to the patient.

Over a beat a bed's capacitor fills with the mean flow Q that reaches it, C dPc/dt = Q - (Pc - Pd) / Rd, so that its
mean pressure after n beats of length T is

    Pc(n) = Pc_inf + (Pc(0) - Pc_inf) e^(-n T / tau),     Pc_inf = Pd + Rd Q,     tau = Rd C,

and a port's mean pressure moves with it. Q is the member's mean inflow, shared by the conductances of the beds with the
vessels before them, whose resistance is the beat's mean drop from the inlet over its mean flow. In the periodic state
nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streams.messages import Forecast, UncertaintyParts
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.intervals import estimates
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

if TYPE_CHECKING:
    from surgical_twin.session_model import SessionModel

Array = NDArray[np.float64]

HORIZONS = (1, 5, 30)
"""Beats."""

LEAST_SHARE = 0.02
"""Of the inflow: an outlet with a smaller one is as good as closed."""

FEWEST = 4
"""States of a beat that make a mean."""


@dataclass(frozen=True)
class BeatMeans:
    """Sums over the published states of a beat."""

    count: int
    port_pressure: Array
    """(members, ports) Pa"""
    flow: Array
    """(members, N) m^3/s, through the outlets"""
    capacitor_pressure: Array
    """(members, N) Pa"""

    @classmethod
    def adding(cls, before: BeatMeans | None, model: SessionModel, ensemble: FilterState) -> BeatMeans:
        """With one more state."""
        ports = ensemble.ports
        pressure = model.port_pressure(ports)
        if before is None:
            return cls(1, pressure, ports.flow, ports.capacitor_pressure)
        return cls(
            before.count + 1,
            before.port_pressure + pressure,
            before.flow + ports.flow,
            before.capacitor_pressure + ports.capacitor_pressure,
        )


def forecasts(model: SessionModel, means: BeatMeans, ensemble: FilterState, period_s: float) -> tuple[Forecast, ...]:
    """What the means over a beat will be after `HORIZONS`.

    Args:
        model: the case.
        means: of the beat that just ended.
        ensemble: now.
        period_s: of the beats to come.
    """
    beds = model.filter.parameters(ensemble.log_factors)
    inflow = model.filter.inflow_factor(ensemble.log_factors) * model.waveform.mean
    capacitor, port = means.capacitor_pressure / means.count, means.port_pressure / means.count
    bed = beds.proximal_resistance + beds.distal_resistance
    # Of an outlet that hardly lets anything through the drop says nothing: its bed is all there is.
    passed = np.maximum(means.flow / means.count, LEAST_SHARE * inflow[:, None])
    vessel = np.clip((port[:, :1] - port[:, 1:]) / passed, 0.0, bed)
    conductance = 1.0 / (bed + vessel)
    share = conductance / conductance.sum(axis=1, keepdims=True)
    flow = share * inflow[:, None]
    final = beds.distal_pressure + beds.distal_resistance * flow
    tau = beds.distal_resistance * beds.compliance
    port_error = model.port_error_mmhg(ensemble.ports)
    mean_flow = np.column_stack([inflow, flow]) / CUBIC_METRES_PER_ML
    flows = estimates(mean_flow, model.said_flow_error_ml_s(mean_flow))
    names = model.port_names
    made = []
    for beats in HORIZONS:
        gone = 1.0 - np.exp(-beats * period_s / np.maximum(tau, 1e-6))
        moved = (final - capacitor) * gone
        at_inlet = (share * moved).sum(axis=1, keepdims=True)
        pressure = (port + np.hstack([at_inlet, moved])) / PASCAL_PER_MMHG
        made.append(
            Forecast(
                beats=beats,
                port_pressure_mmhg=dict(zip(names, estimates(pressure, port_error), strict=True)),
                port_flow_ml_s=dict(zip(names, flows, strict=True)),
                parts=UncertaintyParts(float(pressure[:, 0].std(ddof=1)), 0.0, float(port_error[0])),
            )
        )
    return tuple(made)
