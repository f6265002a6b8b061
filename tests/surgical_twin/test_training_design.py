"""Which runs are made: the range, the choice of the next, and how an interrupted design is taken up again."""

import numpy as np
import pytest

from surgical_twin import training
from surgical_twin.errors import InputError
from surgical_twin.flow.navier_stokes import FlowDiverged
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.training import FlowConditions, RunJob, run_jobs
from surgical_twin.training_design import (
    RunRecord,
    candidate_coordinates,
    chosen_next,
    conditions_at,
    training_conditions,
)

BED = Windkessel(proximal_resistance=1e8, distal_resistance=1e9, compliance=1e-9, distal_pressure=0.0)
PLANNED = FlowConditions(
    waveform="peripheral",
    mean_flow=5e-6,
    period=0.8,
    windkessels={"left": BED, "right": BED, "third": BED},
    density=1060.0,
    rheology=Newtonian(3.5e-3),
    time_step=2.5e-3,
    duration=1.4,
)


def test_the_corners_of_the_range_are_as_documented():
    plan, fast, slow = training_conditions(PLANNED)
    assert plan == PLANNED
    assert (fast.mean_flow, fast.period) == pytest.approx((1.3 * 5e-6, 0.85 * 0.8))
    assert (slow.mean_flow, slow.period) == pytest.approx((0.75 * 5e-6, 1.15 * 0.8))
    assert fast.windkessels["left"].distal_resistance == pytest.approx(0.77e9)
    assert fast.windkessels["right"].distal_resistance == pytest.approx(1.3e9)
    assert slow.windkessels["left"].proximal_resistance == pytest.approx(1.3e8)
    assert fast.duration / fast.period == pytest.approx(PLANNED.duration / PLANNED.period)


def test_candidates_fill_the_range_and_no_more():
    candidates = candidate_coordinates(3)
    assert candidates.shape[1] == 5
    assert np.abs(candidates).max() <= 1.0
    assert (np.abs(candidates) == 1.0).all(axis=1).sum() >= len(candidates) // 3
    assert np.array_equal(candidates, candidate_coordinates(3))
    flow = conditions_at(PLANNED, candidates[0]).mean_flow / PLANNED.mean_flow
    assert 0.75 <= flow <= 1.3


def test_the_next_run_is_where_the_estimate_is_largest_and_not_twice_at_one_place():
    candidates = np.array([[1.0, 1.0], [0.95, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    done = np.array([[0.0, 0.0]])
    assert chosen_next(np.array([3.0, 2.9, 2.0, 9.0]), candidates, done, 2) == [0, 2]


def test_an_interrupted_design_is_taken_up_where_it_was(tmp_path):
    path = tmp_path / "runs" / "design.json"
    begun = RunRecord.of("mesh", PLANNED)
    assert RunRecord.read(path) is None
    further = begun.with_next([np.array([0.1, 0.2, 0.3, -0.4, 1.0])], 2.5)
    further.save(path)
    assert RunRecord.read(path) == further
    assert len(further.coordinates) == 4
    assert RunRecord.of("other mesh", PLANNED).fingerprint != begun.fingerprint
    assert [p.name for p in path.parent.iterdir()] == ["design.json"]
    path.write_text("{")
    with pytest.raises(InputError, match="delete it"):
        RunRecord.read(path)


def test_runs_end_when_the_goals_are_met_or_nothing_is_learned_from_enough_of_them():
    two_outlets = np.zeros((5, 4)).tolist()
    eight_outlets = np.zeros((8, 10)).tolist()
    assert RunRecord("", two_outlets, (3.0, 0.9)).ends(12)
    assert RunRecord("", two_outlets, (3.0, 2.0)).ends(5)
    assert not RunRecord("", two_outlets, (3.0, 2.0)).ends(12)
    assert RunRecord("", two_outlets, (3.0, 2.9, 3.1)).ends(12)
    # Eight runs do not even tell ten coordinates apart: that the estimate stays says nothing yet.
    assert not RunRecord("", eight_outlets, (3.0, 2.9, 3.1)).ends(12)


def test_a_scheduler_that_does_not_answer_is_told(tmp_path, monkeypatch):
    job = RunJob(tmp_path / "mesh.vtu", PLANNED, tmp_path / "run.npz")
    monkeypatch.setattr("surgical_twin.training.CONNECT_S", 0.3)
    with pytest.raises(InputError, match="scheduler"):
        run_jobs([job], lambda share: None, scheduler="tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_blows_up_is_told_with_what_to_do(tmp_path, monkeypatch):
    def blown(*_args, **_settings):
        raise FlowDiverged("At 0.12 s the velocity is 1e9 m/s.")

    monkeypatch.setattr(training, "run_flow", blown)
    monkeypatch.setattr(training, "flow_domain", lambda mesh: None)
    job = RunJob(tmp_path / "mesh.vtu", PLANNED, tmp_path / "training_2.npz")
    with pytest.raises(InputError, match=r"training_2.npz blew up .*time_step"):
        training.solve(None, job, None, None)
