"""Wall shear and velocity for the display, from the flows that a state tells.

The twin's state carries pressure coefficients, not velocities. Both fields follow from the same flows, their rates and
their past (`surgical_twin.flow.field_decoder`), so the display recomputes the past from the states that it hears::

    d lambda / dt = (Q - lambda) / tau          (exact for a flow that is linear between two states)

Wall shear stress is the flow model's own, as the 3D runs had it, where these kept it. Elsewhere it is mu times the
tangential part of the velocity's gradient in the cell behind the wall, averaged over the triangles at a vertex: of
first order in the cell's size, and low where the boundary layer is thinner than a cell; a picture rather than a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyvista as pv
from numpy.typing import NDArray

from meshes.files import read_lumen_mesh
from streams.messages import TwinState
from surgical_twin.case import MESH, REDUCED, Case
from surgical_twin.flow.field_decoder import ModalMap
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.units import CUBIC_METRES_PER_ML, METRES_PER_MM

Array = NDArray[np.float64]

LONGEST_GAP_S = 0.1
"""States farther apart say nothing about how the flow changed between them."""


@dataclass
class _Ports:
    """A `FlowState` of one member."""

    flow: Array
    flow_derivative: Array
    lagged_flow: Array
    inlet_pressure: Array
    drop_factor: Array


class FlowMemory:
    """Rates and past of the outlet flows, from one state to the next.

    Args:
        outlets: names in the model's order.
        time_constants: (K,) s of the model's memory.
    """

    def __init__(self, outlets: tuple[str, ...], time_constants: Array) -> None:
        self._outlets = outlets
        self._tau = np.asarray(time_constants, dtype=float)
        self._time_s: float | None = None
        self._flow = np.zeros(len(outlets))
        self._rate = np.zeros(len(outlets))
        self._lagged = np.zeros((len(self._tau), len(outlets)))

    def add(self, state: TwinState) -> bool:
        """Take a state; False where it does not tell all outlets' flows."""
        if any(name not in state.port_flow_ml_s for name in self._outlets):
            return False
        flow = np.array([state.port_flow_ml_s[name].value for name in self._outlets]) * CUBIC_METRES_PER_ML
        now = state.model_time_ns * 1e-9
        step = None if self._time_s is None else now - self._time_s
        if step is None or not 0.0 <= step <= LONGEST_GAP_S:
            self._rate = np.zeros(len(flow))
            self._lagged = np.repeat(flow[None], len(self._tau), axis=0)
        elif step > 0.0:
            rate = (flow - self._flow) / step
            decay = np.exp(-step / self._tau)[:, None]
            tau = self._tau[:, None]
            # Linear flow Q0 + r t: lambda(t) = Q(t) - tau r + (lambda0 - Q0 + tau r) exp(-t / tau).
            self._lagged = flow - tau * rate + (self._lagged - self._flow + tau * rate) * decay
            # The filter's corrections are steps; a mean over a few states is the flow's own rate.
            self._rate += min(1.0, step / 0.03) * (rate - self._rate)
        self._time_s, self._flow = now, flow
        return True

    @property
    def ports(self) -> _Ports:
        """The flow's state now, of one member."""
        one = np.ones(1)
        return _Ports(self._flow[None], self._rate[None], self._lagged[None], 0.0 * one, one)


class DisplayFields:
    """Velocity in the lumen and shear on its wall.

    Args:
        reduced: the trained model.
        points_mm: (nv, 3) of the mesh.
        triangles: (nt, 3) mesh vertices of the boundary; the display surface has those that they use, in order.
        viscosity_pa_s: of blood, as planned.
        relative_error: RMS of the velocity's error over its RMS, against 3D runs that were held out; None if unknown.
    """

    def __init__(
        self,
        reduced: ReducedModel,
        points_mm: Array,
        triangles: NDArray[np.int64],
        *,
        viscosity_pa_s: float,
        relative_error: float | None = None,
    ) -> None:
        decoder = reduced.decoder
        self.relative_error = relative_error
        self.memory = FlowMemory(decoder.outlets, reduced.ports.time_constants)
        self._decoder = decoder
        used, corners = np.unique(triangles, return_inverse=True)
        if decoder.wall_shear_part is None:
            self._shear_part = decoder.velocity_part
            self._shear_modes = _shear_modes(
                decoder.points,
                decoder.tetrahedra,
                triangles,
                corners.reshape(-1, 3),
                len(used),
                decoder.velocity_part.modes,
            )
            self._shear_modes *= np.float32(viscosity_pa_s)
        else:
            self._shear_part = decoder.wall_shear_part
            # Vertices of the ports alone have none.
            self._shear_modes = np.zeros((len(used), *self._shear_part.modes.shape[1:]), dtype=np.float32)
            self._shear_modes[np.searchsorted(used, decoder.wall_nodes)] = self._shear_part.modes
        cells = np.hstack([np.full((len(decoder.tetrahedra), 1), 4), decoder.tetrahedra]).ravel()
        self.grid = pv.UnstructuredGrid(cells, np.full(len(decoder.tetrahedra), pv.CellType.TETRA), points_mm)

    @classmethod
    def of(cls, case: Case) -> DisplayFields | None:
        """Of a planned case; None where its flow model has no velocity to show (it is the estimate of the anatomy)."""
        mesh = read_lumen_mesh(case.require(MESH))
        reduced = ReducedModel.load(case.require(REDUCED), mesh.points * METRES_PER_MM, mesh.tetrahedra)
        if reduced.estimated or not np.any(reduced.decoder.velocity_part.modes):
            return None
        figures = case.manifest.get("step", {}).get("reduced", {}).get("figures", {})
        return cls(
            reduced,
            mesh.points,
            mesh.triangles,
            viscosity_pa_s=float(case.manifest["flow"]["viscosity_pa_s"]),
            relative_error=figures.get("velocity_error"),
        )

    def planned_limits(self, mean_flow_m3_s: float) -> tuple[float, float]:
        """Upper ends of the scales of shear [Pa] and speed [m/s] of the case: for twice the planned mean flow."""
        outlets = len(self._decoder.outlets)
        flow = np.full((1, outlets), 2.0 * mean_flow_m3_s / outlets)
        lagged = np.repeat(flow[:, None], len(self.memory.ports.lagged_flow[0]), axis=1)
        one = np.ones(1)
        ports = _Ports(flow, 0.0 * flow, lagged, 0.0 * one, one)
        shear = np.linalg.norm(self._shear_modes @ _amplitudes(self._shear_part, ports), axis=1)
        speed = np.linalg.norm(self._decoder.velocity_part.field(ports)[0], axis=1)
        return _round_up(float(np.percentile(shear, 99.0))), _round_up(float(np.percentile(speed, 99.5)))

    def take(self, state: TwinState) -> None:
        """Every state must pass here, shown or not: the flow's past is in it."""
        self.memory.add(state)

    def shear_pa(self, state: TwinState) -> NDArray[np.float32] | None:
        """(n,) Pa at the display surface's vertices; None where the state tells no flow."""
        if not state.port_flow_ml_s:
            return None
        shear = self._shear_modes @ _amplitudes(self._shear_part, self.memory.ports)
        return np.asarray(np.linalg.norm(shear, axis=1), dtype=np.float32)

    def velocity_m_s(self, state: TwinState) -> NDArray[np.float32] | None:
        """(nv, 3) m/s at the mesh's vertices; None where the state tells no flow."""
        if not state.port_flow_ml_s:
            return None
        part = self._decoder.velocity_part
        flat = part.modes.reshape(-1, part.modes.shape[2]) @ _amplitudes(part, self.memory.ports)
        return flat.reshape(-1, 3)


def _amplitudes(part: ModalMap, ports: _Ports) -> NDArray[np.float32]:
    return part.amplitudes(ports)[0].astype(np.float32)


def _round_up(value: float) -> float:
    """The next round number."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(m * power for m in (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0) if m * power >= value))


def _shear_modes(
    points: Array,
    tetrahedra: NDArray[np.int64],
    triangles: NDArray[np.int64],
    corners: NDArray[np.int64],
    count: int,
    modes: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(count, 3, K) 1/s per amplitude: (grad u) n without its normal part, averaged from triangles to vertices."""
    cell = _cells_behind(tetrahedra, triangles)
    nodes = tetrahedra[cell]
    edges = points[nodes[:, 1:]] - points[nodes[:, :1]]
    inverse = np.linalg.inv(edges)  # columns: gradients of the barycentric coordinates of nodes 1 to 3
    normal = np.cross(
        points[triangles[:, 1]] - points[triangles[:, 0]], points[triangles[:, 2]] - points[triangles[:, 0]]
    )
    area = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(area, 1e-30)[:, None]
    # Into the lumen, whichever way the triangle winds: neighbors must not cancel each other.
    inward = np.einsum("tc,tc->t", points[nodes].mean(axis=1) - points[triangles[:, 0]], normal)
    normal *= np.where(inward < 0.0, -1.0, 1.0)[:, None]
    along = np.einsum("tij,ti->tj", inverse, normal)  # d(lambda_j)/dn
    change = modes[nodes[:, 1:]].astype(float) - modes[nodes[:, :1]].astype(float)
    slope = np.einsum("tj,tjck->tck", along, change)
    slope -= normal[:, :, None] * np.einsum("tc,tck->tk", normal, slope)[:, None]
    total = np.zeros((count, *slope.shape[1:]))
    weight = np.zeros(count)
    for corner in range(3):
        np.add.at(total, corners[:, corner], slope * area[:, None, None])
        np.add.at(weight, corners[:, corner], area)
    return (total / np.maximum(weight, 1e-30)[:, None, None]).astype(np.float32)


def _cells_behind(tetrahedra: NDArray[np.int64], triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """(nt,) the cell that each boundary triangle belongs to."""
    faces = np.concatenate(
        [np.sort(tetrahedra[:, pick], axis=1) for pick in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2))]
    )
    owner = np.tile(np.arange(len(tetrahedra)), 4)
    size = int(tetrahedra.max()) + 1
    key = (faces[:, 0] * size + faces[:, 1]) * size + faces[:, 2]
    order = np.argsort(key)
    wanted = np.sort(triangles, axis=1)
    sought = (wanted[:, 0] * size + wanted[:, 1]) * size + wanted[:, 2]
    return np.asarray(owner[order[np.searchsorted(key[order], sought)]])
