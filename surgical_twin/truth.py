"""The simulated patient: a 3D run that the twin never sees, on a finer mesh, with blood it does not model.

The truth differs from everything the plan knows: its resistances, compliances and inflow are drawn anew, its
inflow has another shape, its mesh is finer, and its blood is shear thinning (Carreau–Yasuda) where the plan's is
Newtonian. Where the real lumen is known, as of a phantom, it flows in that and not in what the plan made of the image.
The run starts from the periodic state of the reduced model, which only spares it some beats; its last beat is the
truth.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from meshes.files import read_lumen_mesh, write_lumen_mesh
from meshes.quality import mesh_quality
from meshes.tetrahedra import mesh_lumen
from surgical_twin.axis import Axis
from surgical_twin.case import LUMEN, MESH, REDUCED, Case, file_hash
from surgical_twin.errors import InputError
from surgical_twin.flow.locator import MeshLocator
from surgical_twin.flow.port_model import PortParameters, simulate
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.rheology import CarreauYasuda
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.planning import planned_conditions
from surgical_twin.procedure import TruthSettings
from surgical_twin.training import FlowConditions, RunJob, run_jobs, waveform_of
from surgical_twin.units import METRES_PER_MM, PASCAL_PER_MMHG

Array = NDArray[np.float64]

RESISTANCE_SPREAD = 0.20
COMPLIANCE_SPREAD = 0.20
INFLOW_SPREAD = 0.10
SHAPE_CHANGE = 0.06
"""Second harmonic added to the inflow, relative to its mean: the patient's waveform is not the planned one."""

SPIN_UP_BEATS = 12

START_UP_S = 0.06
"""A run begins from rest; what it shows before this time is no patient's."""

CLAMPED = 20.0
"""A clamped outlet lets through what a bed of so many times the resistance would: collaterals and leaks stay."""

FINER = 2
"""The truth may always have this many times the plan's tetrahedra."""


@dataclass(frozen=True)
class Truth:
    """One periodic beat of the simulated patient."""

    period: float
    """s"""
    time: Array
    """(nt,) s from the R-wave, the last one a period after the first"""
    distance: Array
    """(ns,) mm along the catheter's path from the inlet"""
    pressure_mmhg: Array
    """(nt, ns) on the path"""
    velocity_mm_s: Array
    """(nt, ns, 3) on the path, LPS"""
    port_names: tuple[str, ...]
    port_pressure_mmhg: Array
    """(nt, ports)"""
    port_flow_ml_s: Array
    """(nt, ports): into the inlet, out of the outlets"""
    factors: dict[str, float]
    """By how much each parameter differs from the plan."""
    figures: dict[str, float]
    """Of the 3D run, for the report."""

    @property
    def transient_s(self) -> float:
        """How long a change lasts before the last beat, which repeats; 0 for a periodic truth."""
        return float(self.time[-1]) - self.period

    def pressure_at(self, time_s: float, distance: float) -> float:
        """Pressure [mmHg] on the path, at any time since an R-wave."""
        upper, weight = self._between(time_s)
        ends = [float(np.interp(distance, self.distance, self.pressure_mmhg[row])) for row in (upper - 1, upper)]
        return ends[0] * (1 - weight) + ends[1] * weight

    def velocity_at(self, time_s: float, distance: float) -> Array:
        """(3,) velocity [mm/s] on the path, at any time since an R-wave."""
        upper, weight = self._between(time_s)
        column = self.velocity_mm_s[upper - 1] * (1 - weight) + self.velocity_mm_s[upper] * weight
        return np.array([float(np.interp(distance, self.distance, column[:, axis])) for axis in range(3)])

    def flow_at(self, time_s: float, port: str) -> float:
        """Flow [mL/s] through a port at any time since an R-wave."""
        index = self.port_names.index(port)
        return float(np.interp(self._phase(time_s), self.time, self.port_flow_ml_s[:, index]))

    def port_pressure_at(self, time_s: float, port: str) -> float:
        """Pressure [mmHg] of a port at any time since an R-wave."""
        index = self.port_names.index(port)
        return float(np.interp(self._phase(time_s), self.time, self.port_pressure_mmhg[:, index]))

    def _phase(self, time_s: float) -> float:
        """The time of the table that holds at a time: the last beat repeats."""
        if 0.0 <= time_s < self.transient_s:
            return time_s
        return self.transient_s + (time_s - self.transient_s) % self.period

    def _between(self, time_s: float) -> tuple[int, float]:
        """The row at or after a time, and its weight against the one before."""
        phase = self._phase(time_s)
        upper = int(np.clip(np.searchsorted(self.time, phase), 1, len(self.time) - 1))
        step = float(self.time[upper] - self.time[upper - 1])
        return upper, (phase - float(self.time[upper - 1])) / step


def hidden_conditions(case: Case, settings: TruthSettings, seed: int) -> tuple[FlowConditions, dict[str, float]]:
    """What the simulated patient is driven by, and its factors on the plan.

    Raises:
        InputError: a factor is not positive, or names no outlet of the case.
    """
    planned = planned_conditions(case, beats=settings.beats)
    generator = np.random.default_rng([seed, 1])
    unknown = set(settings.resistance) - set(planned.windkessels)
    if unknown:
        raise InputError(
            f"truth.resistance names {', '.join(sorted(unknown))}, and the case has {', '.join(planned.windkessels)}."
        )
    draw = {name: float(np.exp(RESISTANCE_SPREAD * generator.normal())) for name in planned.windkessels}
    resistance = {**draw, **settings.resistance}
    drawn_compliance = float(np.exp(COMPLIANCE_SPREAD * generator.normal()))
    drawn_inflow = float(np.exp(INFLOW_SPREAD * generator.normal()))
    compliance = drawn_compliance if settings.compliance is None else settings.compliance
    inflow = drawn_inflow if settings.inflow is None else settings.inflow
    if settings.clamp is not None:
        if settings.clamp not in resistance:
            raise InputError(f"truth.clamp = {settings.clamp} is no outlet; there are {', '.join(resistance)}.")
        resistance[settings.clamp] *= CLAMPED
    factors = {f"resistance_factor.{name}": factor for name, factor in resistance.items()}
    factors |= {f"compliance_factor.{name}": compliance for name in planned.windkessels}
    factors |= {"inflow_factor": inflow}
    if min(factors.values()) <= 0:
        raise InputError("A factor under [truth] is not positive; a factor of 1 is the plan's own value.")
    windkessels = {
        name: Windkessel(
            proximal_resistance=bed.proximal_resistance * resistance[name],
            distal_resistance=bed.distal_resistance * resistance[name],
            compliance=bed.compliance * compliance,
            distal_pressure=bed.distal_pressure,
        )
        for name, bed in planned.windkessels.items()
    }
    return (
        FlowConditions(
            waveform=settings.waveform or planned.waveform,
            mean_flow=planned.mean_flow * inflow,
            period=planned.period,
            windkessels=windkessels,
            density=planned.density,
            rheology=CarreauYasuda(),
            time_step=planned.time_step,
            duration=settings.beats * planned.period,
            harmonic=SHAPE_CHANGE,
        ),
        factors,
    )


def periodic_start(case: Case, conditions: FlowConditions) -> dict[str, float]:
    """Capacitor pressure [Pa] of each outlet at the start of a beat, by the reduced model run to periodicity."""
    mesh = read_lumen_mesh(case.require(MESH))
    reduced = ReducedModel.load(case.require(REDUCED), mesh.points * METRES_PER_MM, mesh.tetrahedra)
    waveform = waveform_of(conditions)
    steps = round(conditions.period / conditions.time_step)
    time = np.arange(SPIN_UP_BEATS * steps + 1) * (conditions.period / steps)
    run = simulate(
        reduced.ports,
        PortParameters.of(conditions.windkessels, reduced.ports.outlets),
        time,
        np.array([waveform.value(value) for value in time]),
        np.array([waveform.derivative(value) for value in time]),
    )
    return dict(zip(reduced.ports.outlets, run.capacitor_pressure[-1, 0].tolist(), strict=True))


def make_truth(case: Case, axis: Axis, settings: TruthSettings, seed: int, say: Callable[[float], None]) -> Truth:
    """The simulated patient of a case and a seed; made once and kept in the case's ``truth`` folder.

    Args:
        case: a planned case.
        axis: the catheter's path.
        settings: how the patient differs from the plan.
        seed: draws what the settings leave open.
        say: takes the share of the work that is done.
    """
    folder = case.path("truth")
    folder.mkdir(exist_ok=True)
    described = {
        "seed": seed,
        "settings": {**msgspec.to_builtins(settings), "level_set": _real_lumen_hash(settings)},
        "axis": axis.outlet,
        "reduced": file_hash(case.require(REDUCED)),
    }
    key = json.dumps(described, sort_keys=True)
    name = f"{seed}" if settings.clamp is None else f"{seed}_clamped"
    result = folder / f"truth_{name}.npz"
    if result.is_file():
        known = load_truth(result, key)
        if known is not None:
            return known
    conditions, factors = hidden_conditions(case, settings, seed)
    mesh_path, run_path = folder / f"mesh_{name}.vtu", folder / f"run_{name}.npz"
    coarse = read_lumen_mesh(case.require(MESH))
    level_set = _real_lumen(case, settings)
    allowed = max(settings.max_tetrahedra, FINER * len(coarse.tetrahedra))
    mesh = mesh_lumen(level_set, coarse.ports, edges_across=settings.edges_across, max_tetrahedra=allowed)
    if len(mesh.tetrahedra) <= len(coarse.tetrahedra):
        raise InputError(
            f"The truth's mesh ({len(mesh.tetrahedra)} tetrahedra) is no finer than the plan's "
            f"({len(coarse.tetrahedra)}); raise truth.edges_across in the procedure file."
        )
    write_lumen_mesh(mesh, mesh_path)
    say(0.05)
    # A clamp is closed at the run's beginning, on the circulation as it was without it.
    before = msgspec.structs.replace(settings, clamp=None)
    job = RunJob(
        mesh=mesh_path,
        conditions=conditions,
        result=run_path,
        capacitor_pressure=periodic_start(case, hidden_conditions(case, before, seed)[0]),
    )
    run_jobs([job], lambda fraction: say(0.05 + 0.93 * fraction))
    run = FlowRun.load(run_path)
    quality = mesh_quality(mesh)
    figures = {
        "tetrahedra": float(len(mesh.tetrahedra)),
        "plan_tetrahedra": float(len(coarse.tetrahedra)),
        "min_scaled_jacobian": float(quality.min_scaled_jacobian),
        **{name: float(value) for name, value in run.figures.items() if isinstance(value, int | float)},
    }
    truth = last_beat(run, mesh.points, mesh.tetrahedra, axis, factors, figures, whole=settings.clamp is not None)
    save_truth(truth, result, key)
    run_path.unlink()
    return truth


def _real_lumen(case: Case, settings: TruthSettings) -> sitk.Image:
    """Distance from the wall of the patient's real lumen, mm."""
    if settings.level_set is None:
        return sitk.ReadImage(str(case.require(LUMEN)))
    try:
        return sitk.ReadImage(settings.level_set, sitk.sitkFloat32)
    except RuntimeError as error:
        raise InputError(
            f"truth.level_set = {settings.level_set} cannot be read as an image; give the distance from the real "
            "lumen's wall as NRRD, NIfTI or MHA."
        ) from error


def _real_lumen_hash(settings: TruthSettings) -> str | None:
    """Of the file's content; None where the plan's lumen is the real one.

    Raises:
        InputError: it is missing.
    """
    if settings.level_set is None:
        return None
    path = Path(settings.level_set)
    if not path.is_file():
        raise InputError(f"truth.level_set = {path} is no file; the path is relative to the procedure file.")
    return file_hash(path)


def last_beat(
    run: FlowRun,
    points: Array,
    tetrahedra: NDArray[np.int64],
    axis: Axis,
    factors: dict[str, float],
    figures: dict[str, float],
    *,
    whole: bool = False,
) -> Truth:
    """Cut the last beat out of a 3D run and close it; of a ``whole`` run keep also what leads up to it.

    What the beat's end differs from its beginning is taken out linearly over the beat and reported as
    ``periodicity_mmhg``: the truth has to repeat without a jump.
    """
    period = run.period
    begin = run.snapshot_time[-1] - period
    begin = np.floor(begin / period + 1e-9) * period  # an R-wave, so that the phase is right
    steps = round(period / float(np.median(np.diff(run.time))))
    time = np.linspace(0.0, period, steps + 1)
    if whole:  # its first moments, in which the blood sets off from rest, are no patient's
        beats = round(begin / period)
        time = np.linspace(0.0, (beats + 1) * period, (beats + 1) * steps + 1)
        time, begin = time[time >= START_UP_S], 0.0
    distance = np.linspace(0.0, float(axis.distance[-1]), 4 * len(axis.stations()))
    located = MeshLocator(points, tetrahedra).locate(axis.at(distance))
    on_path = np.einsum("tnc,nc->tn", np.asarray(run.pressure, dtype=float)[:, located.vertices], located.weights)

    def beat(when: Array, values: Array) -> Array:
        cut: Array = CubicSpline(when, values)(begin + time)
        return cut

    in_cells = np.asarray(run.velocity, dtype=float)[:, located.vertices]
    velocity = beat(run.snapshot_time, np.einsum("tncj,nc->tnj", in_cells, located.weights)) / METRES_PER_MM
    pressure = beat(run.snapshot_time, on_path) / PASCAL_PER_MMHG
    port_pressure = beat(run.time, run.port_pressure) / PASCAL_PER_MMHG
    port_flow = beat(run.time, run.port_flow) * 1e6
    first = int(np.argmin(np.abs(time - (time[-1] - period))))
    gap = float(np.abs(pressure[-1] - pressure[first]).max())
    # Of a whole run the part before its last beat stays as it is, and only the last beat is bent.
    share = np.clip((time - time[first]) / period, 0.0, None)[:, None] - (0.0 if whole else 0.5)

    def closed(values: Array) -> Array:
        flat = values.reshape(len(values), -1)
        made: Array = (flat - share * (flat[-1] - flat[first])).reshape(values.shape)
        return made

    return Truth(
        period=period,
        time=time,
        distance=distance,
        pressure_mmhg=closed(pressure),
        velocity_mm_s=closed(velocity),
        port_names=run.port_names,
        port_pressure_mmhg=closed(port_pressure),
        port_flow_ml_s=closed(port_flow),
        factors=factors,
        figures={**figures, "periodicity_mmhg": gap},
    )


def save_truth(truth: Truth, path: Path, key: str) -> None:
    """Write a truth atomically, with the key that says what it was made from."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            key=key,
            period=truth.period,
            time=truth.time,
            distance=truth.distance,
            pressure_mmhg=truth.pressure_mmhg,
            velocity_mm_s=truth.velocity_mm_s,
            port_names=np.array(truth.port_names),
            port_pressure_mmhg=truth.port_pressure_mmhg,
            port_flow_ml_s=truth.port_flow_ml_s,
            factors=json.dumps(truth.factors),
            figures=json.dumps(truth.figures),
        )
    temporary.replace(path)


def load_truth(path: Path, key: str | None = None) -> Truth | None:
    """Read a truth; None where it was made from something else than ``key`` says.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if key is not None and str(data["key"]) != key:
                return None
            return Truth(
                period=float(data["period"]),
                time=data["time"],
                distance=data["distance"],
                pressure_mmhg=data["pressure_mmhg"],
                velocity_mm_s=data["velocity_mm_s"],
                port_names=tuple(str(name) for name in data["port_names"]),
                port_pressure_mmhg=data["port_pressure_mmhg"],
                port_flow_ml_s=data["port_flow_ml_s"],
                factors=json.loads(str(data["factors"])),
                figures=json.loads(str(data["figures"])),
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as a simulated patient ({error}); delete it and simulate again."
        ) from error
