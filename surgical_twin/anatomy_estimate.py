"""The flow model that a case has before its 3D runs: the lumped model of its anatomy, with the error that goes with it.

It works a second after the centerline is there, so that a procedure need not wait for hours of flow computation; the
trained model takes its place when planning has come that far. How wrong it is cannot be measured on the patient, for
that takes a 3D run. It is taken as `UNCERTAINTY` of every loss in the tree, and what that changes in the model's own
pressures and flows is its error everywhere; a stenosis's diameter is doubted besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from meshes.centerline import Centerline
from meshes.files import read_centerline, read_lumen_mesh
from surgical_twin.axis import between_ports
from surgical_twin.case import BRANCHES, CENTERLINE, CENTERLINE_TABLE, IMAGE, MESH, STENOSES, Case, read_table
from surgical_twin.flow.anatomy_field import NearestPlaces, anatomy_decoder, field_coefficients
from surgical_twin.flow.anatomy_model import LEAST_AREA_SHARE, AnatomyModel, Lesion
from surgical_twin.flow.field_decoder import drop_features
from surgical_twin.flow.port_model import PortModel, PortParameters
from surgical_twin.flow.reduced import ReducedModel, range_variables
from surgical_twin.prediction.circulation import Beat, Circulation, periodic_beat
from surgical_twin.training import FlowConditions, waveform_of
from surgical_twin.units import METRES_PER_MM, PASCAL_PER_MMHG

Array = NDArray[np.float64]

UNCERTAINTY = 0.3
"""Relative standard deviation of the tree's losses. Automatic lumped models of 72 patients were off by 1 to 10 % in
pressure (Pfaller et al., Int. J. Numer. Meth. Biomed. Engng. 38, 2022) and by up to 45 % at complex bifurcations
(Rubio et al., 2025); most of the pressure is that of the beds, so that the drop inside the tree is off by more."""

THROAT_UNCERTAINTY = 0.3
"""Standard deviation of a throat's diameter, in voxels, as `benchmarks/meshes_accuracy.py` finds for small lumens."""

TIME_STEP = 0.02
"""s; a lumped estimate needs no finer one."""

LEAST_ERROR_MMHG = 0.2
"""No place of the tree is known better than this, not even where losses are small."""


def read_anatomy(case: Case, density: float, viscosity: float) -> AnatomyModel:
    """The lumped model of a case's vessel tree from its tables.

    Raises:
        InputError: a table is missing or cannot be read.
    """
    return _anatomy_with_sections(case, density, viscosity)[0]


def _anatomy_with_sections(case: Case, density: float, viscosity: float) -> tuple[AnatomyModel, Centerline, Array]:
    """The lumped model, the centerline between the ports that it is of, and its sections' radius (n,) mm."""
    centerline = read_centerline(case.require(CENTERLINE))
    ports = read_lumen_mesh(case.require(MESH)).ports
    radius = np.sqrt(np.array([float(row["area_mm2"]) for row in read_table(case.require(CENTERLINE_TABLE))]) / np.pi)
    kept = between_ports(centerline, ports)
    branches = tuple(
        replace(branch, point_ids=branch.point_ids[kept[branch.point_ids]]) for branch in centerline.branches
    )
    lesions = [
        Lesion(
            branch=int(row["branch"]),
            start=METRES_PER_MM * max(0.0, float(row["arc_length_mm"]) - 0.5 * float(row["length_mm"])),
            length=METRES_PER_MM * float(row["length_mm"]),
            reference_diameter=METRES_PER_MM * float(row["reference_mm"]),
            diameter=METRES_PER_MM * float(row["diameter_mm"]),
        )
        for row in read_table(case.require(STENOSES))
    ]
    tree = {int(row["branch"]): row for row in read_table(case.require(BRANCHES))}
    cut = replace(centerline, branches=branches)
    model = AnatomyModel.of(
        cut,
        radius,
        lesions,
        density=density,
        viscosity=viscosity,
        angles_deg={index: float(row["angle_deg"]) for index, row in tree.items() if row["angle_deg"]},
        branch_radius_mm={index: float(row["radius_mm"]) for index, row in tree.items()},
    )
    return model, cut, radius


def estimated_model(case: Case, planned: FlowConditions, design: Sequence[FlowConditions]) -> ReducedModel:
    """The reduced model of a case from its anatomy alone.

    Args:
        case: with its centerline, tables and mesh.
        planned: the planned circulation.
        design: the conditions that the 3D runs will be made for: the range in which the model may be used.

    Raises:
        InputError: a file of the case is missing or cannot be read.
    """
    mesh = read_lumen_mesh(case.require(MESH))
    inlet, *outlets = sorted(mesh.ports, key=lambda port: port.role != "inlet")
    anatomy, centerline, radius = _anatomy_with_sections(case, planned.density, case.manifest["flow"]["viscosity_pa_s"])
    anatomy = anatomy.for_outlets(tuple(port.name for port in outlets))
    points = mesh.points * METRES_PER_MM
    nearest = NearestPlaces.of(centerline, points)
    ports = anatomy.port_model()
    visited = [
        range_variables(state.flow, state.flow_derivative)[0]
        for conditions in design
        for state in _beat(ports, conditions).states
    ]
    features = np.stack([drop_features(state)[0] for state in _beat(ports, planned).states])
    scale = np.sqrt((features**2).mean(axis=0))
    error = _errors(anatomy, centerline, radius, planned, _smallest_voxel(case))
    least = LEAST_ERROR_MMHG * PASCAL_PER_MMHG
    return ReducedModel(
        ports=ports,
        decoder=anatomy_decoder(anatomy, centerline, radius, (points, mesh.tetrahedra), nearest, scale),
        inlet=inlet.name,
        range_lower=np.min(visited, axis=0),
        range_upper=np.max(visited, axis=0),
        port_pressure_error=np.maximum(error.port_pressure, least),
        port_flow_error=error.port_flow,
        pressure_error_bias=np.zeros(len(points)),
        pressure_error_std=np.maximum(error.place_pressure, least)[nearest.row],
        estimated=True,
    )


@dataclass(frozen=True)
class _Errors:
    """Standard deviations over a beat; SI."""

    port_pressure: Array
    """(N + 1,)"""
    port_flow: Array
    """(N,)"""
    place_pressure: Array
    """(n,) at the points of the centerline's branches"""


def _errors(
    anatomy: AnatomyModel, centerline: Centerline, radius: Array, planned: FlowConditions, voxel_mm: float
) -> _Errors:
    """What the model would say of another tree that the image allows: each doubt by itself, then their root sum square.

    The doubts are the losses of the whole tree, and the diameter of each stenosis, to whose fourth power its drop goes.
    """
    doubts = [[(anatomy, 1.0 - UNCERTAINTY), (anatomy, 1.0 + UNCERTAINTY)]]
    doubt = METRES_PER_MM * THROAT_UNCERTAINTY * voxel_mm
    for number, lesion in enumerate(anatomy.lesions):
        least = np.sqrt(LEAST_AREA_SHARE) * 1.01 * lesion.reference_diameter
        pair = (max(lesion.diameter - doubt, least), min(lesion.diameter + doubt, lesion.reference_diameter))
        doubts.append([(anatomy.with_lesion(number, replace(lesion, diameter=diameter)), 1.0) for diameter in pair])

    def said(model: AnatomyModel, drop_factor: float) -> tuple[Array, Array, Array]:
        """(nt, N + 1) pressure and (nt, N) flow of the ports, (nt, n) pressure along the centerline."""
        ports = model.port_model()
        beat = _beat(ports, planned, drop_factor)
        coefficients = field_coefficients(model, centerline, radius, len(ports.time_constants))
        features = np.stack([drop_features(state)[0] for state in beat.states])
        field = beat.inlet_pressure + features @ coefficients.T
        return np.column_stack([beat.inlet_pressure, beat.outlet_pressure[:, 0]]), beat.flow[:, 0], field

    usual = said(anatomy, 1.0)
    total = [np.zeros(one.shape[1]) for one in usual]
    for pair_of_trees in doubts:
        off = [
            [((new - old) ** 2).mean(axis=0) for new, old in zip(said(*tree), usual, strict=True)]
            for tree in pair_of_trees
        ]
        total = [sum_so_far + np.mean(both, axis=0) for sum_so_far, *both in zip(total, *off, strict=True)]
    return _Errors(*(np.sqrt(one) for one in total))


def _beat(ports: PortModel, conditions: FlowConditions, drop_factor: float = 1.0) -> Beat:
    """The periodic beat of a lumped model, one member."""
    parameters = replace(PortParameters.of(conditions.windkessels, ports.outlets), drop_factor=np.array([drop_factor]))
    circulation = Circulation(ports, parameters, waveform_of(conditions), np.ones(1))
    return periodic_beat(circulation, time_step=TIME_STEP)


def _smallest_voxel(case: Case) -> float:
    """mm; of the planned image."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(case.require(IMAGE)))
    reader.ReadImageInformation()
    return float(min(reader.GetSpacing()))
