"""A case's stenoses as the prediction sees them: where pressure is read around each, and what its drop is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from meshes.centerline import Centerline
from meshes.files import read_centerline, read_lumen_mesh
from surgical_twin.axis import between_ports
from surgical_twin.case import AXIS, CENTERLINE, MESH, Case, read_table
from surgical_twin.flow.anatomy_model import AnatomyModel, Element, tube_element
from surgical_twin.flow.port_state import PortState
from surgical_twin.prediction.circulation import Beat
from surgical_twin.session_model import SessionModel
from surgical_twin.units import METRES_PER_MM, PASCAL_PER_MMHG

Array = NDArray[np.float64]

LEAST_DROP_MMHG = 0.1
"""A lesion that costs less than this has no profile to speak of."""

LESION_REACH = 8.0
"""Behind a lesion the pressure recovers over about this many diameters; its drop is taken to there, or to the branch's
end."""


FIT_FLOWS = (0.5, 1.0, 2.0, 3.0)
"""Shares of the present flow at which the model is asked for a lesion's drop."""


def _scaled(state: PortState, share: float) -> PortState:
    """A state of the plan's tree with this share of the flow, now and in what is recalled of it."""
    return replace(
        state,
        flow=share * state.flow,
        flow_derivative=share * state.flow_derivative,
        lagged_flow=share * state.lagged_flow,
        drop_factor=np.ones_like(state.drop_factor),
    )


@dataclass(frozen=True)
class LesionPlaces:
    """Where pressure is read before and behind each lesion, and what lies behind it."""

    model: SessionModel
    anatomy: AnatomyModel
    centerline: Centerline
    between: NDArray[np.int64]
    """ids of the centerline's points between the ports"""
    stations: Array
    """(stations, 3) mm, of the case's axis"""
    before: Array
    """(lesions, 3) mm"""
    behind: Array
    """(lesions, 3) mm"""
    outlets: Array
    """(N, 3) mm, the middle of each outlet"""
    started: Array
    """(lesions,) m of arc length along the branch, a diameter before the lesion, where its drop has not begun"""
    recovered: Array
    """(lesions,) m of arc length along the branch where the pressure has recovered"""

    @classmethod
    def of(cls, case: Case, model: SessionModel, anatomy: AnatomyModel) -> LesionPlaces:
        """Read them from a case."""
        centerline = read_centerline(case.require(CENTERLINE))
        ports = read_lumen_mesh(case.require(MESH)).ports
        kept = between_ports(centerline, ports)
        centers = {port.name: port.center for port in ports}
        stations = np.array([[float(row[axis]) for axis in "xyz"] for row in read_table(case.require(AXIS))])
        before, behind, started, recovered = [], [], [], []
        for lesion in anatomy.lesions:
            ids = centerline.branches[lesion.branch].point_ids
            ids = ids[kept[ids]]
            arc, points = centerline.arc_length[ids] * METRES_PER_MM, centerline.points[ids]
            begin = lesion.start - lesion.reference_diameter
            end = lesion.start + lesion.length + LESION_REACH * lesion.reference_diameter
            first, last = (int(np.clip(np.searchsorted(arc, place), 0, len(ids) - 1)) for place in (begin, end))
            before.append(points[first])
            behind.append(points[last])
            started.append(float(arc[first]))
            recovered.append(float(arc[last]))
        return cls(
            model=model,
            anatomy=anatomy,
            centerline=centerline,
            between=np.flatnonzero(kept),
            stations=stations,
            before=np.array(before).reshape(-1, 3),
            behind=np.array(behind).reshape(-1, 3),
            outlets=np.array([centers[name] for name in anatomy.outlets]),
            started=np.array(started),
            recovered=np.array(recovered),
        )

    def around_mmhg(self, states: Sequence[PortState]) -> tuple[Array, Array]:
        """(members, lesions) pressure before and behind each lesion as the decoder has it, mean over the states."""
        count = len(self.behind)
        if not count:
            return np.zeros((len(states[0].flow), 0)), np.zeros((len(states[0].flow), 0))
        place = self.model.place(np.concatenate([self.before, self.behind]))
        mean = np.mean([place.pressure(state) for state in states], axis=0)
        return mean[:, :count], mean[:, count:]

    def drop(self, beat: Beat, lesion: int) -> Element:
        """The drop over a lesion in the flow model as an element, not negative.

        Fitted to the model's own drop over the beat and over beats of less and of more flow: over one alone friction
        and loss cannot be told apart, and an opened stenosis has far more flow than before.
        """
        own = self.anatomy.lesions[lesion]
        if self.model.reduced.estimated:  # which was made from just this element
            rest = max(float(self.recovered[lesion] - self.started[lesion]) - own.length, 0.0)
            blood = {"density": self.anatomy.density, "viscosity": self.anatomy.viscosity}
            return self.anatomy.lesion_element(lesion) + tube_element(rest, own.reference_diameter, **blood)
        places = self.model.place(np.stack([self.before[lesion], self.behind[lesion]]))
        feeds = self.anatomy.feeds[own.branch]
        columns, drops = [], []
        for state in beat.states:
            for share in FIT_FLOWS:
                scaled = _scaled(state, share)
                flow, rate = scaled.flow[:, feeds].sum(axis=1), scaled.flow_derivative[:, feeds].sum(axis=1)
                pressure = places.pressure(scaled) * PASCAL_PER_MMHG
                # Each beat counts by its own size, for the large drops of much flow are not the only ones.
                weight = 1.0 / share
                columns.append(weight * np.stack([flow, flow * np.abs(flow), rate], axis=1))
                drops.append(weight * (pressure[:, 0] - pressure[:, 1]))
        matrix, target = np.concatenate(columns), np.concatenate(drops)
        size = np.sqrt((matrix**2).mean(axis=0))
        found, _ = nnls(matrix / size, target)
        return Element(*(float(value) for value in found / size))

    def outlets_mmhg(self, states: Sequence[PortState]) -> Array:
        """(members, N) pressure in the middle of each outlet as the decoder has it, mean over the states."""
        place = self.model.place(self.outlets)
        return np.asarray(np.mean([place.pressure(state) for state in states], axis=0))

    def part(self, lesion: int, points: Array) -> Array:
        """(n,) which part of the way over a lesion lies before each point: 0 before the lesion, 1 behind it."""
        _, nearest = cKDTree(self.centerline.points[self.between]).query(points)
        nearest = self.between[nearest]
        branch, arc = self.centerline.branch[nearest], self.centerline.arc_length[nearest] * METRES_PER_MM
        own = self.anatomy.lesions[lesion]
        start, end = float(self.started[lesion]), float(self.recovered[lesion])
        part = np.where(branch == own.branch, np.clip((arc - start) / max(end - start, 1e-9), 0.0, 1.0), 0.0)
        for one in self.centerline.branches:
            parent = one.parent
            while parent is not None:
                if parent == own.branch:
                    part[branch == one.index] = 1.0
                parent = self.centerline.branches[parent].parent
        return np.asarray(part)
