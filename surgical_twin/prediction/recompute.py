"""The 3D answer to a what-if question: the changed geometry is meshed and the changed circulation solved in it.

The estimate by formula is there at once; this takes minutes, goes on where it was interrupted, and is kept in the
case's folder ``what_if``, so that the same question has the 3D answer at once from then on. A stenosis is opened in
the lumen's signed distance by the union with the vessel as it would be: balls along its centerline whose radius is
that of the healthy vessel, less what is to be left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshes.files import read_centerline, read_lumen_mesh, write_lumen_mesh
from meshes.tetrahedra import mesh_lumen
from surgical_twin.case import CENTERLINE, LUMEN, MESH, STENOSES, Case, file_hash, read_table
from surgical_twin.errors import InputError
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.planning import planned_conditions
from surgical_twin.prediction.circulation import Circulation, periodic_beat
from surgical_twin.prediction.interventions import Clamp, Device, Intervention, Situation, Stent
from surgical_twin.training import FlowConditions, RunJob, run_jobs
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

Array = NDArray[np.float64]

FOLDER = "what_if"
BEATS = 2.0
"""of the run; the last one counts"""

REACH = 2.5
"""Radii around a stenosis in which its signed distance is changed: beyond, it is far from any wall that moves."""


@dataclass(frozen=True)
class Recomputed:
    """What 3D says of the ensemble's mean patient, over the last beat; ports in the case's order, inlet first."""

    mean_pressure_mmhg: Array
    """(ports,)"""
    mean_flow_ml_min: Array
    """(ports,)"""


def recomputable(interventions: Sequence[Intervention]) -> None:
    """Check that 3D can be asked.

    Raises:
        InputError: one of them changes the geometry otherwise than by opening a stenosis.
    """
    for one in interventions:
        if isinstance(one, Device) or (isinstance(one, Clamp) and one.closed < 1.0):
            raise InputError(f"--solve cannot put {one.words} into the 3D mesh; the estimate stands alone.")


def recompute(
    case: Case, after: Situation, interventions: Sequence[Intervention], say: Callable[[float], None]
) -> Recomputed:
    """The 3D answer, from the case's folder where it is there.

    Args:
        case: whose mesh is changed.
        after: with the interventions, what feeds the inlet being held.
        interventions: what was done.
        say: takes the share that is done.

    Raises:
        InputError: see `recomputable`; or the opened vessel cannot be meshed, or the run blew up.
    """
    recomputable(interventions)
    mean, conditions = _mean_situation(case, after)
    stents = {one.lesion: one.residual for one in interventions if isinstance(one, Stent)}
    key = json.dumps([file_hash(case.require(MESH)), sorted(stents.items()), repr(conditions)])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = case.path(FOLDER)
    result = folder / f"{name}.npz"
    if not result.is_file():
        folder.mkdir(exist_ok=True)
        mesh = opened_mesh(case, stents, folder / f"{name}.vtu") if stents else case.require(MESH)
        say(0.1)
        last = periodic_beat(mean.circulation).last.capacitor_pressure[0]
        start = dict(zip(mean.outlets, map(float, last), strict=True))
        job = RunJob(mesh, conditions, result, 10_000, start)
        run_jobs([job], lambda share: say(0.1 + 0.9 * share))
    run = FlowRun.load(result)
    inside = run.time > run.time[-1] - run.period + 1e-9
    return Recomputed(
        mean_pressure_mmhg=run.port_pressure[inside].mean(axis=0) / PASCAL_PER_MMHG,
        mean_flow_ml_min=run.port_flow[inside].mean(axis=0) / CUBIC_METRES_PER_ML * 60.0,
    )


def _mean_situation(case: Case, after: Situation) -> tuple[Situation, FlowConditions]:
    """The situation of the ensemble's mean patient, and what drives its run."""
    bed = after.circulation.parameters
    mean = replace(
        bed,
        **{name: np.exp(np.log(np.maximum(getattr(bed, name), 1e-300)).mean(axis=0, keepdims=True))
           for name in ("proximal_resistance", "distal_resistance", "compliance")},
        distal_pressure=bed.distal_pressure.mean(axis=0, keepdims=True),
        drop_factor=np.ones(1),
    )  # fmt: skip
    scale = float(after.circulation.scale.mean())
    circulation: Circulation = replace(after.circulation, parameters=mean, scale=np.array([scale]))
    windkessels = {
        name: Windkessel(
            proximal_resistance=float(mean.proximal_resistance[0, index]),
            distal_resistance=float(mean.distal_resistance[0, index]),
            compliance=float(mean.compliance[0, index]),
            distal_pressure=float(mean.distal_pressure[0, index]),
        )
        for index, name in enumerate(after.outlets)
    }
    planned = planned_conditions(case, beats=BEATS)
    period = circulation.waveform.period
    conditions = replace(
        planned,
        windkessels=windkessels,
        mean_flow=scale * circulation.waveform.mean,
        period=period,
        duration=BEATS * period,
    )
    return replace(after, circulation=circulation), conditions


def opened_mesh(case: Case, stents: dict[int, float], path: Path) -> Path:
    """Mesh the case's lumen with some stenoses opened to their residual diameter reduction; returns ``path``.

    Raises:
        InputError: it cannot be meshed.
    """
    if path.is_file():
        return path
    lumen = sitk.ReadImage(str(case.require(LUMEN)))
    rows = read_table(case.require(STENOSES))
    values = sitk.GetArrayFromImage(lumen)
    for lesion, residual in stents.items():
        row = rows[lesion]
        radius = 0.5 * float(row["reference_mm"]) * (1.0 - residual)
        values = _with_tube(values, lumen, _lesion_axis(case, row), radius)
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(lumen)
    settings = case.step("mesh")["settings"]
    mesh = mesh_lumen(
        made,
        read_lumen_mesh(case.require(MESH)).ports,
        edges_across=settings["edges_across"],
        max_tetrahedra=settings["max_tetrahedra"],
    )
    temporary = path.with_name(f".{path.name}")
    write_lumen_mesh(mesh, temporary)
    temporary.replace(path)
    return path


def _lesion_axis(case: Case, row: dict[str, str]) -> Array:
    """(n, 3) mm: the centerline's points in a stenosis."""
    centerline = read_centerline(case.require(CENTERLINE))
    branch = next(one for one in centerline.branches if one.index == int(row["branch"]))
    arc = centerline.arc_length[branch.point_ids]
    inside = np.abs(arc - float(row["arc_length_mm"])) <= 0.5 * float(row["length_mm"])
    return np.asarray(centerline.points[branch.point_ids[inside]])


def _with_tube(values: Array, image: sitk.Image, axis: Array, radius: float) -> Array:
    """A signed distance (z, y, x) with the balls of ``radius`` mm around points (n, 3) mm added to what is inside."""
    spacing = np.array(image.GetSpacing())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    index = ((axis - np.array(image.GetOrigin())) @ direction) / spacing
    margin = np.ceil(REACH * radius / spacing).astype(int)
    low = np.maximum(np.floor(index.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(index.max(axis=0)).astype(int) + margin + 1, np.array(image.GetSize()))
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    points = grid.reshape(-1, 3) * spacing
    distance = cKDTree(index * spacing).query(points)[0].reshape(grid.shape[:3]) - radius
    changed = values.copy()
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    changed[box] = np.minimum(changed[box], distance.transpose(2, 1, 0))
    return np.asarray(changed)
