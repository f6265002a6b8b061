"""How far a reduced model is from a 3D run that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Errors on one run that the model was not trained on. Relative errors are fractions, not percent.

    Ports: errors of the model's own integration, per beat and port, over the port's range in the run.
    Fields: over the run's settled snapshots, weighted by volume.
    """

    port_names: tuple[str, ...]
    """inlet first"""
    port_pressure_rms: Array
    """(beats, ports)"""
    port_pressure_max: Array
    """(beats, ports)"""
    port_flow_rms: Array
    """(beats, outlets)"""
    port_flow_max: Array
    """(beats, outlets)"""
    port_pressure_error: Array
    """(ports,) Pa, root mean square over all settled times"""
    port_flow_error: Array
    """(outlets,) m^3/s, root mean square over all settled times"""
    pressure_error: float
    """error of pressure, relative to the variation of pressure over time and space"""
    drop_error: float
    """error of p - P_in, relative to p - P_in itself: what the flow does inside the lumen"""
    decoded_drop_error: float
    """the same when the decoder is given the run's own port flows: the decoder's part of it"""
    velocity_error: float
    """error of velocity, relative to velocity"""
    decoded_velocity_error: float
    """the same when the decoder is given the run's own port flows"""
    wall_shear_error: float
    """error of the wall shear stress, relative to it; NaN where the run or the model has none"""
    snapshot_pressure_rms: Array
    """(ns,) Pa, of each settled snapshot"""
    port_errors: Array
    """(nt, 2 N + 1) model minus 3D at the settled times: pressures [Pa], inlet first; then the outlets' flows"""
    inflow: Array
    """(nt,) m^3/s at those times"""
    inflow_derivative: Array
    """(nt,)"""
    period: float
    """s"""
    vertex_bias: Array
    """(nv,) Pa, mean error of pressure"""
    vertex_rms: Array
    """(nv,) Pa, root mean square error of pressure"""

    def summary(self) -> dict[str, float]:
        """The worst figures of this run, by name."""
        shear = {} if np.isnan(self.wall_shear_error) else {"wall_shear_error": self.wall_shear_error}
        return {
            "port_pressure_rms": float(self.port_pressure_rms.max()),
            "port_pressure_max": float(self.port_pressure_max.max()),
            "port_flow_rms": float(self.port_flow_rms.max()),
            "port_flow_max": float(self.port_flow_max.max()),
            "pressure_error": self.pressure_error,
            "drop_error": self.drop_error,
            "decoded_drop_error": self.decoded_drop_error,
            "velocity_error": self.velocity_error,
            "decoded_velocity_error": self.decoded_velocity_error,
            "snapshot_pressure_rms_pa": float(self.snapshot_pressure_rms.max()),
            **shear,
        }


def per_beat(error: Array, truth: Array, time: Array, period: float) -> tuple[Array, Array]:
    """RMS and largest error (beats, columns) over each column's range; a last, partial beat counts as one."""
    beat = np.floor((time - time[0]) / period * (1.0 - 1e-9)).astype(int)
    span = np.maximum(truth.max(axis=0) - truth.min(axis=0), np.finfo(float).tiny)
    parts = [np.abs(error[beat == i]) / span for i in np.unique(beat)]
    return (
        np.array([np.sqrt((part**2).mean(axis=0)) for part in parts]),
        np.array([part.max(axis=0) for part in parts]),
    )
