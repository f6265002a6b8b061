"""From the state of the port model to pressure, velocity and wall shear stress in the whole lumen.

In a rigid tree the fields follow from the flows and their past: viscous pressure from ``Q`` and the port model's memory
``lambda``, convective pressure from the products of flows, inertial pressure from ``dQ/dt``. So::

    p(x, t) = P_in(t) + sum_k modes_k(x) a_k(t),      a = map . features(Q, dQ/dt, lambda) + kernel(Q, dQ/dt, lambda)
    features = [Q_j, Q_j |Q_j|, Q_j |Q_in|, dQ_j/dt, Q_j - lambda_j]      j = 1 .. N outlets

and velocity and wall shear likewise without ``P_in``. The modes are the proper orthogonal decomposition of the 3D runs'
snapshots (Sirovich, Quart. Appl. Math. 45, 1987), weighted by volume; how amplitudes follow from the state, and the
kernel, are in `amplitude_fit`. Pressure follows the features within a few percent and has no kernel: it is read in
microseconds. Behind a narrowing velocity does not: where a jet lies is not linear in the flows, which the kernel takes
up; what jets and eddies do by themselves nothing predicts. A mode of which too little is predicted in what was left
out, parts of each run for pressure and whole runs for the others, is dropped: it would only add noise. SI units.

The gradient of pressure at a point is interpolated from nodal gradients, each the volume-weighted mean over
the cells around its node. The gradient of the linear field inside one cell is of first order and jumps from
cell to cell; the recovered one is continuous, so a filter that turns the uncertainty of the tip's position
into one of pressure sees no jump when the tip crosses a face, and in the interior it is of second order
(Zienkiewicz & Zhu, Int. J. Numer. Meth. Engng. 33, 1992). At the wall it is one-sided, of first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.amplitude_fit import HistoryState, KernelTerm, fit_amplitudes, history
from surgical_twin.flow.domain import WALL_TAG
from surgical_twin.flow.locator import Location, MeshLocator, at_corners
from surgical_twin.flow.port_fit import START_UP, PortSamples, outlets_of, settled

if TYPE_CHECKING:
    from surgical_twin.flow.run import FlowRun

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Indices = NDArray[np.int64]

_PENALTIES = np.logspace(-6, 0, 19)
_MOST_STATES = 600  # of the kernel: what the fit costs goes with their cube
_PARTS_PER_RUN = 4
_GRAM_COLUMNS = 20_000
_NOTHING = np.empty(0)


class FlowState(HistoryState, Protocol):
    """What the decoder reads of a state of the port model, for m members."""

    @property
    def inlet_pressure(self) -> Array:
        """(m,) Pa"""

    @property
    def drop_factor(self) -> Array:
        """(m,) by how much friction and losses differ from those trained on"""


_LOSSES = 3  # of the features: how many blocks are of friction and losses; the others are of inertia and memory


def flow_features(state: FlowState) -> Array:
    """(m, (4 + K) N) what the fields depend on."""
    flow = state.flow
    inflow = np.abs(flow.sum(axis=1, keepdims=True))
    recalled = (flow[:, None] - state.lagged_flow).reshape(len(flow), state.lagged_flow[0].size)
    return np.concatenate([flow, flow * np.abs(flow), flow * inflow, state.flow_derivative, recalled], axis=1)


def drop_features(state: FlowState) -> Array:
    """(m, (4 + K) N) the same for pressure, whose losses may be more or less than those trained on.

    As in the port model the factor is on friction and losses alone: blood's inertia is the same whatever they are, so
    that what the pulse tells of the flow is not taken for a loss.
    """
    features = flow_features(state)
    features[:, : _LOSSES * state.flow.shape[1]] *= state.drop_factor[:, None]
    return features


@dataclass(frozen=True)
class ModalMap:
    """Modes of one field and how their amplitudes follow from the state."""

    modes: Array32
    """(nodes, components, K) each with a largest absolute value of 1"""
    map: Array
    """(features, K) amplitudes per feature"""
    kernel: KernelTerm | None = None
    """what is not linear in the features; None where there is nothing"""

    def amplitudes(self, state: FlowState) -> Array:
        """(m, K) in the field's unit."""
        linear = flow_features(state) @ self.map
        return linear if self.kernel is None else linear + self.kernel.amplitudes(state)

    def field(self, state: FlowState, nodes: Indices | None = None) -> Array:
        """(m, nodes, components) at all nodes, or at those given."""
        modes = self.modes if nodes is None else self.modes[nodes]
        flat = self.amplitudes(state) @ modes.reshape(-1, modes.shape[2]).T
        return flat.reshape(len(flat), *modes.shape[:2])


@dataclass(frozen=True)
class DecoderSettings:
    """How the modes are chosen.

    ``dropped_energy`` is the part of the snapshots' energy that truncation may lose, ``max_modes`` a ceiling for
    pressure, ``max_kernel_modes`` for velocity and wall shear, ``least_skill`` the share of a mode's power that must be
    predicted on what is left out for the mode to stay, ``skip`` the part of a period left out at the start of each run.
    """

    dropped_energy: float = 1e-6
    max_modes: int = 16
    max_kernel_modes: int = 64
    least_skill: float = 0.05
    skip: float = START_UP


@dataclass(frozen=True)
class PointOperator:
    """Pressure and its gradient at fixed points, for any coefficients of `FieldDecoder.coefficients`."""

    modes: Array
    """(n, K)"""
    mode_gradients: Array
    """(n, 3, K) 1/m"""
    distance: Array
    """(n,) m from each point to the lumen; zero inside, else the values are those of the nearest point"""

    def pressure(self, coefficients: Array) -> Array:
        """(m, n) Pa from coefficients (m, K)."""
        return coefficients @ self.modes.T

    def gradient(self, coefficients: Array) -> Array:
        """(m, n, 3) Pa/m from coefficients (m, K)."""
        n, _, k = self.mode_gradients.shape
        return (coefficients @ self.mode_gradients.reshape(n * 3, k).T).reshape(len(coefficients), n, 3)


@dataclass(frozen=True)
class FieldDecoder:
    """Pressure and velocity fields of one mesh from port states; see the module."""

    points: Array
    """(nv, 3) m"""
    tetrahedra: Indices
    """(nc, 4)"""
    outlets: tuple[str, ...]
    pressure_part: ModalMap
    velocity_part: ModalMap
    wall_shear_part: ModalMap | None = None
    """of the wall's nodes; None where the runs did not keep the shear stress"""
    wall_nodes: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(w,) which vertices those are"""
    wall_areas: Array = field(default_factory=lambda: np.zeros(0))
    """(w,) m^2, each one's share of the wall"""

    @cached_property
    def locator(self) -> MeshLocator:
        """Finds points in the mesh; built on first use."""
        return MeshLocator(self.points, self.tetrahedra)

    @cached_property
    def _pressure_modes(self) -> Array32:
        """(nv, K) with the constant mode of the inlet pressure first."""
        modes = self.pressure_part.modes[:, 0]
        return np.concatenate([np.ones((len(modes), 1), dtype=np.float32), modes], axis=1)

    @cached_property
    def _mode_gradients(self) -> Array32:
        """(nv, 3, K) volume-weighted means of the cells' gradients of each pressure mode."""
        locator, modes = self.locator, self._pressure_modes.astype(float)
        inner = locator.weight_gradients
        gradients = np.concatenate([-inner.sum(axis=1, keepdims=True), inner], axis=1)  # (nc, 4, 3)
        total = np.zeros(len(self.points))
        summed = np.zeros((len(self.points), 3, modes.shape[1]))
        for corner in range(4):
            np.add.at(total, self.tetrahedra[:, corner], locator.volumes)
        for mode in range(modes.shape[1]):
            cell = np.einsum("cij,ci->cj", gradients, modes[self.tetrahedra, mode])
            cell *= locator.volumes[:, None]
            for axis in range(3):
                for corner in range(4):
                    summed[:, axis, mode] += np.bincount(
                        self.tetrahedra[:, corner], weights=cell[:, axis], minlength=len(self.points)
                    )
        total[total == 0.0] = 1.0
        return (summed / total[:, None, None]).astype(np.float32)

    @property
    def nodal_modes(self) -> tuple[Array32, Array32]:
        """(nv, K) pressure modes with the inlet's pressure first, and (nv, 3 K) 1/m their gradients by axis."""
        return self._pressure_modes, self._mode_gradients.reshape(len(self.points), -1)

    def prepare(self) -> None:
        """Builds what is otherwise built on first use, so that no live step pays for it."""
        self.point_operator(self.points[self.tetrahedra[0, :1]])

    def coefficients(self, state: FlowState) -> Array:
        """(m, K) Pa, the inlet pressure first: pressure at x = sum_k coefficients_k modes_k(x)."""
        amplitudes = drop_features(state) @ self.pressure_part.map
        return np.concatenate([state.inlet_pressure[:, None], amplitudes], axis=1)

    def display_modes(self, where: NDArray[Any]) -> Array32:
        """(n, K) modes at vertices (n,) of the mesh or at points (n, 3) in m; the first is the constant 1."""
        if where.ndim == 1:
            return self._pressure_modes[where]
        located = self.locator.locate(where)
        modes = np.einsum("nc,nck->nk", located.weights, self._pressure_modes[located.vertices])
        return modes.astype(np.float32)

    def point_operator(self, points: Array) -> PointOperator:
        """The operator that reads pressure and gradient at ``points`` (n, 3) m."""
        return self.operator_at(self.locator.locate(points))

    def operator_at(self, located: Location) -> PointOperator:
        """The same at places that were located already."""
        modes = at_corners(located.weights, located.vertices, self._pressure_modes)
        nodal = self._mode_gradients
        gradients = at_corners(located.weights, located.vertices, nodal.reshape(len(nodal), -1))
        return PointOperator(
            modes=modes, mode_gradients=gradients.reshape(len(modes), 3, -1), distance=located.distance
        )

    def pressure(self, state: FlowState, vertices: Indices | None = None) -> Array:
        """(m, nv) Pa at all vertices, or at those given."""
        modes = self._pressure_modes if vertices is None else self._pressure_modes[vertices]
        return self.coefficients(state) @ modes.T

    def velocity(self, state: FlowState, vertices: Indices | None = None) -> Array:
        """(m, nv, 3) m/s at all vertices, or at those given."""
        return self.velocity_part.field(state, vertices)

    def wall_shear(self, state: FlowState) -> Array:
        """(m, w, 3) Pa at the wall's nodes `wall_nodes`: the blood's force on the wall along it, per area.

        Raises `InputError` where no run had it.
        """
        if self.wall_shear_part is None:
            raise InputError("The flow model has no wall shear stress: its runs did not keep it; plan the case again.")
        return self.wall_shear_part.field(state)


def nodal_volumes(points: Array, tetrahedra: Indices) -> Array:
    """(nv,) a quarter of the volume of the cells around each node, m^3."""
    corners = points[tetrahedra]
    volumes = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 6.0
    return np.bincount(tetrahedra.ravel(), weights=np.repeat(volumes, 4), minlength=len(points)) / 4.0


@dataclass(frozen=True)
class SnapshotStates:
    """The port state of a run at its settled snapshots; a `FlowState`."""

    kept: NDArray[np.bool_]
    """(ns,) which of the run's snapshots"""
    flow: Array
    flow_derivative: Array
    lagged_flow: Array
    inlet_pressure: Array

    @property
    def drop_factor(self) -> Array:
        """(ns,) ones: this is the flow trained on."""
        return np.ones(len(self.flow))

    @classmethod
    def of(cls, run: FlowRun, time_constants: Array, skip: float) -> SnapshotStates:
        """By cubic splines through the run's port history."""
        time = np.asarray(run.snapshot_time, dtype=float)
        kept = settled(run, time, skip)
        at = PortSamples.of(run, time[kept], time_constants)
        return cls(kept, at.flow, at.flow_derivative, at.lagged_flow, at.inlet_pressure)


def fit_field_decoder(
    runs: Sequence[FlowRun],
    points: Array,
    tetrahedra: Indices,
    *,
    time_constants: Array | None = None,
    settings: DecoderSettings | None = None,
    wall: WallShape | None = None,
) -> FieldDecoder:
    """Trains the decoder on the snapshots of all runs, all on the mesh given (m).

    ``time_constants`` (K,) are those of the port model's memory; without them K is zero. ``wall`` says where the runs'
    wall shear stress is, where they have it.

    Raises `InputError` for runs of another mesh or with too few snapshots to tell the features apart.
    """
    chosen = settings or DecoderSettings()
    outlets = outlets_of(runs)
    for run in runs:
        if run.pressure.shape[1] != len(points):
            raise InputError(
                f"The flow run has {run.pressure.shape[1]} nodes and the mesh {len(points)}; "
                "use the mesh that the run was solved on."
            )
    constants = np.zeros(0) if time_constants is None else time_constants
    states = [SnapshotStates.of(run, constants, chosen.skip) for run in runs]
    features = np.concatenate([flow_features(state) for state in states])
    if len(features) < 2 * features.shape[1]:
        raise InputError(
            f"{len(features)} snapshots are too few for {features.shape[1]} features of the flow; "
            f"save at least {2 * features.shape[1]} over all runs."
        )
    volumes = nodal_volumes(points, tetrahedra)
    part = np.concatenate([np.arange(len(s.flow)) * _PARTS_PER_RUN // len(s.flow) for s in states])
    whole = np.repeat(np.arange(len(states)), [len(s.flow) for s in states])
    parts = _PARTS_PER_RUN * whole + part
    drop = np.concatenate(
        [
            np.asarray(run.pressure, dtype=float)[s.kept] - s.inlet_pressure[:, None]
            for run, s in zip(runs, states, strict=True)
        ]
    )
    by_run = whole if len(runs) > 1 else parts
    thin = slice(None, None, -(-len(features) // _MOST_STATES))
    histories = np.concatenate([history(state) for state in states])[thin]

    def beyond_linear(name: str, weights: Array) -> ModalMap:
        snapshots = np.concatenate([getattr(run, name)[s.kept] for run, s in zip(runs, states, strict=True)])[thin]
        return _fit_kernel_modes(snapshots, weights, features[thin], histories, by_run[thin], len(outlets), chosen)

    has_shear = wall is not None and all(getattr(run, "wall_shear", _NOTHING).size for run in runs)
    return FieldDecoder(
        points=np.asarray(points, dtype=float),
        tetrahedra=np.asarray(tetrahedra, dtype=np.int64),
        outlets=outlets,
        pressure_part=_fit_modes(drop[:, :, None], volumes, features, parts, chosen),
        velocity_part=beyond_linear("velocity", volumes),
        wall_shear_part=beyond_linear("wall_shear", wall.areas) if wall is not None and has_shear else None,
        wall_nodes=wall.nodes if wall is not None and has_shear else np.zeros(0, dtype=np.int64),
        wall_areas=wall.areas if wall is not None and has_shear else np.zeros(0),
    )


@dataclass(frozen=True)
class WallShape:
    """The wall's nodes, in the order in which runs keep the shear stress."""

    nodes: Indices
    """(w,) of the mesh"""
    areas: Array
    """(w,) m^2, each one's share of the wall"""

    @classmethod
    def of(cls, points: Array, triangles: Indices, triangle_tags: Indices) -> WallShape:
        """From a mesh's boundary, points in m."""
        wall = triangles[triangle_tags == WALL_TAG]
        sides = points[wall[:, 1:]] - points[wall[:, :1]]
        areas = 0.5 * np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
        share = np.bincount(wall.ravel(), weights=np.repeat(areas, 3), minlength=len(points)) / 3.0
        nodes = np.unique(wall)
        return cls(nodes.astype(np.int64), share[nodes])


def _principal_modes(snapshots: Array | Array32, weights: Array, dropped: float, most: int) -> tuple[Array, Array]:
    """Amplitudes (count, k) and modes (nodes * components, k) of snapshots (count, nodes, components).

    Method of snapshots: the small Gram matrix over time instead of the large one over space.
    """
    count, _, components = snapshots.shape
    flat = snapshots.reshape(count, -1)
    gram = np.zeros((count, count))
    root = np.sqrt(np.repeat(weights, components))
    for begin in range(0, flat.shape[1], _GRAM_COLUMNS):
        part = flat[:, begin : begin + _GRAM_COLUMNS] * root[begin : begin + _GRAM_COLUMNS]
        gram += part @ part.T
    energies, vectors = np.linalg.eigh(gram)
    energies, vectors = np.maximum(energies[::-1], 0.0), vectors[:, ::-1]
    if energies[0] <= 0.0:
        raise InputError("The flow runs' snapshots hold no field that varies; there is nothing to train on.")
    left_out = 1.0 - np.cumsum(energies) / energies.sum()
    k = min(int(np.argmax(left_out <= dropped)) + 1, most, count)
    k = min(k, int((energies > 1e-13 * energies[0]).sum()))
    return vectors[:, :k] * np.sqrt(energies[:k]), flat.T @ (vectors[:, :k] / np.sqrt(energies[:k]))


def _fit_modes(
    snapshots: Array, volumes: Array, features: Array, folds: Indices, settings: DecoderSettings
) -> ModalMap:
    amplitudes, modes = _principal_modes(snapshots, volumes, settings.dropped_energy, settings.max_modes)
    mapping, skill = _regress(features, amplitudes, folds)
    kept = _skilled(skill, settings)
    return _scaled_map(modes[:, kept], mapping[:, kept], snapshots.shape)


def _fit_kernel_modes(
    snapshots: Array | Array32,
    weights: Array,
    features: Array,
    histories: Array,
    folds: Indices,
    outlets: int,
    settings: DecoderSettings,
) -> ModalMap:
    amplitudes, modes = _principal_modes(snapshots, weights, settings.dropped_energy, settings.max_kernel_modes)
    fit = fit_amplitudes(features, histories, outlets, amplitudes, folds)
    kept = _skilled(fit.skill, settings)
    linear = _scaled_map(modes[:, kept], fit.map[:, kept], snapshots.shape)
    if fit.kernel is None:
        return linear
    peaks = _peaks(modes[:, kept])
    return replace(linear, kernel=replace(fit.kernel, weights=fit.kernel.weights[:, kept] * peaks))


def _skilled(skill: Array, settings: DecoderSettings) -> Indices:
    kept = np.flatnonzero(skill >= settings.least_skill)
    if len(kept) == 0:
        raise InputError("The flow features predict none of the snapshots' modes; save more snapshots per period.")
    return kept


def _peaks(modes: Array) -> Array:
    """(K,) each mode's value of the largest size, signed, so that the sign is set as well."""
    return np.asarray(modes[np.abs(modes).argmax(axis=0), np.arange(modes.shape[1])])


def _scaled_map(modes: Array, mapping: Array, shape: tuple[int, ...]) -> ModalMap:
    peaks = _peaks(modes)
    return ModalMap((modes / peaks).reshape(*shape[1:], -1).astype(np.float32), mapping * peaks)


def _regress(features: Array, amplitudes: Array, folds: Indices) -> tuple[Array, Array]:
    """Ridge regression per amplitude; the penalty is the one that predicts left-out folds best.

    Returns the map (features, K) and, per amplitude, the share of its power predicted on left-out folds.
    """
    scale = np.sqrt((features**2).mean(axis=0))
    scaled = features / np.where(scale > 0.0, scale, 1.0)
    errors = np.zeros((len(_PENALTIES), amplitudes.shape[1]))
    for fold in np.unique(folds):
        held = folds == fold
        maps = _ridge(scaled[~held], amplitudes[~held])
        errors += ((scaled[held] @ maps - amplitudes[held]) ** 2).sum(axis=1)
    best = errors.argmin(axis=0)
    columns = np.arange(amplitudes.shape[1])
    mapping = _ridge(scaled, amplitudes)[best, :, columns].T
    skill = 1.0 - errors[best, columns] / np.maximum((amplitudes**2).sum(axis=0), np.finfo(float).tiny)
    return mapping / np.where(scale > 0.0, scale, 1.0)[:, None], skill


def _ridge(features: Array, targets: Array) -> Array:
    """(penalties, features, K) for all penalties from one singular value decomposition."""
    u, s, vt = np.linalg.svd(features, full_matrices=False)
    projected = u.T @ targets
    filters = s / (s**2 + _PENALTIES[:, None] * len(features))
    return np.einsum("sf,ps,sk->pfk", vt, filters, projected)
