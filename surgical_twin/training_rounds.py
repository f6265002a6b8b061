"""Rounds of training: make runs, ask the model where it is least sure, make the next runs there (`training_design`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshes.files import read_lumen_mesh
from meshes.tetrahedra import LumenMesh
from surgical_twin.case import MESH, Case, file_hash
from surgical_twin.flow.field_decoder import WallShape, nodal_volumes
from surgical_twin.flow.port_model import PortModel, PortParameters
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.run import FlowRun
from surgical_twin.plan_settings import TrainingPlan
from surgical_twin.prediction.circulation import Beat, Circulation, periodic_beat
from surgical_twin.training import FlowConditions, RunJob, cores, run_jobs, waveform_of
from surgical_twin.training_design import RunRecord, candidate_coordinates, chosen_next, conditions_at
from surgical_twin.units import METRES_PER_MM

Array = NDArray[np.float64]
Say = Callable[[float], None]

RUNS_FOLDER = "runs"
DESIGN = f"{RUNS_FOLDER}/design.json"

BEAT_STEP = 0.02
"""s; of the beats that the model is asked about"""

SAMPLED_VERTICES = 1500
"""at which models are compared"""


def run_file(number: int) -> str:
    """The case's file of the run of this number; the first is the planned state."""
    return f"{RUNS_FOLDER}/training_{number + 1}.npz"


@dataclass(frozen=True)
class Training:
    """What a case's runs are for and how they are made."""

    case: Case
    planned: FlowConditions
    """a run of as many beats as each is to have"""
    plan: TrainingPlan
    shared: Sequence[Sequence[str]]
    """see `fit_port_model`"""
    scheduler: str | None = None

    def make_runs(self, estimate: PortModel, say: Say) -> RunRecord:
        """Make runs until the error estimate meets the goals or there are as many as allowed.

        Args:
            estimate: a port model of the anatomy alone, whose beats say at which pressures the runs begin.
            say: takes the share that is done.

        Raises:
            InputError: see `run_jobs` and `solve`.
        """
        path = self.case.path(DESIGN)
        record = RunRecord.of(file_hash(self.case.require(MESH)), self.planned)
        stored = RunRecord.read(path)
        if stored is not None and stored.fingerprint == record.fingerprint:
            record = stored
        else:  # runs that an earlier plan made, for another mesh or circulation
            for old in self.case.path(RUNS_FOLDER).glob("training_*.npz"):
                old.unlink()
        record.save(path)
        most = self.plan.most_runs
        while True:
            self._make(record, estimate, say)
            if record.ends(most):
                return record
            candidates = candidate_coordinates(len(self.planned.windkessels))
            estimates = self.error_estimates(candidates, self.runs(record))
            batch = 0 if estimates.max() <= 1.0 else min(most - len(record.coordinates), cores())
            chosen = chosen_next(estimates, candidates, np.array(record.coordinates), batch)
            record = record.with_next([candidates[one] for one in chosen], float(estimates.max()))
            record.save(path)

    def runs(self, record: RunRecord) -> list[FlowRun]:
        """The runs that have been made."""
        return [FlowRun.load(self.case.require(run_file(number))) for number in range(len(record.coordinates))]

    def _make(self, record: RunRecord, estimate: PortModel, say: Say) -> None:
        jobs = []
        for number, coordinates in enumerate(record.coordinates):
            result = self.case.path(run_file(number))
            if not result.is_file():
                conditions = conditions_at(self.planned, np.array(coordinates))
                last = beat_of(estimate, conditions).last.capacitor_pressure[0]
                start = dict(zip(estimate.outlets, map(float, last), strict=True))
                jobs.append(RunJob(self.case.require(MESH), conditions, result, self.plan.snapshot_every, start, True))
        if jobs:
            before = len(record.coordinates) - len(jobs)
            run_jobs(
                jobs,
                lambda share: say((before + share * len(jobs)) / self.plan.most_runs),
                scheduler=self.scheduler,
            )

    def error_estimates(self, candidates: Array, runs: Sequence[FlowRun]) -> Array:
        """(n,) for each candidate the worst error estimate over its goal: of pressure, velocity and wall shear.

        The estimate is the jackknife's standard deviation over the models that leave one run out, over one beat.
        """
        mesh = read_lumen_mesh(self.case.require(MESH))
        points = mesh.points * METRES_PER_MM
        models = ReducedModel.leave_one_out(runs, points, mesh.tetrahedra, shared=self.shared, wall=wall_shape(mesh))
        volumes = nodal_volumes(points, mesh.tetrahedra)
        generator = np.random.default_rng(0)
        vertices = generator.choice(len(points), SAMPLED_VERTICES, p=volumes / volumes.sum())
        found = []
        for coordinates in candidates:
            conditions = conditions_at(self.planned, coordinates)
            beats = [beat_of(model.ports, conditions) for model in models]
            pressure, velocity, shear = [], [], []
            for model, beat in zip(models, beats, strict=True):
                states = _Stacked.of(beat)
                pressure.append(model.decoder.pressure(states, vertices))
                velocity.append(model.decoder.velocity(states, vertices))
                shear.append(model.decoder.wall_shear(states))
            level = np.mean([one.mean() for one in pressure])
            found.append(
                max(
                    _jackknife(pressure, level) / (0.01 * self.plan.pressure_goal_percent),
                    _jackknife(velocity) / (0.01 * self.plan.velocity_goal_percent),
                    _jackknife(shear) / (0.01 * self.plan.wall_shear_goal_percent),
                )
            )
        return np.array(found)

    def model(self, record: RunRecord) -> ReducedModel:
        """The reduced model of all runs, its errors those on each run when it is left out."""
        mesh = read_lumen_mesh(self.case.require(MESH))
        return ReducedModel.train(
            self.runs(record),
            mesh.points * METRES_PER_MM,
            mesh.tetrahedra,
            shared=self.shared,
            wall=wall_shape(mesh),
        )


def wall_shape(mesh: LumenMesh) -> WallShape:
    """The wall's nodes of a lumen mesh, as runs keep its shear stress; m."""
    return WallShape.of(
        mesh.points * METRES_PER_MM, mesh.triangles.astype(np.int64), mesh.triangle_tags.astype(np.int64)
    )


def beat_of(ports: PortModel, conditions: FlowConditions) -> Beat:
    """The periodic beat that a port model expects of conditions, one member."""
    parameters = PortParameters.of(conditions.windkessels, ports.outlets)
    circulation = Circulation(ports, parameters, waveform_of(conditions), np.ones(1))
    return periodic_beat(circulation, time_step=BEAT_STEP)


@dataclass(frozen=True)
class _Stacked:
    """The states of one member's beat as those of many members: what the decoder reads."""

    flow: Array
    flow_derivative: Array
    lagged_flow: Array
    inlet_pressure: Array
    drop_factor: Array

    @classmethod
    def of(cls, beat: Beat) -> "_Stacked":
        names = ("flow", "flow_derivative", "lagged_flow", "inlet_pressure", "drop_factor")
        return cls(*(np.concatenate([getattr(state, name) for state in beat.states]) for name in names))


def _jackknife(fields: Sequence[Array], level: float = 0.0) -> float:
    """Standard deviation of what models say, each of which leaves one run out, over the size of their mean."""
    mean = np.mean(fields, axis=0)
    count = len(fields)
    spread = np.sqrt((count - 1) * np.mean([((one - mean) ** 2).mean() for one in fields]))
    return float(spread / np.sqrt(((mean - level) ** 2).mean()))
