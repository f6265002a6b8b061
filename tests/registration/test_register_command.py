"""The commands, from files to verdict, picture and exit code."""

import json
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from surgical_twin import cli
from surgical_twin.case import Case

POINTS = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])


@pytest.fixture
def case(tmp_path):
    made = Case.create(tmp_path / "case")
    made.save()
    return made.folder


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["surgical-twin", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def table(path, points, names="ABCDEFGH"):
    path.write_text("name,x,y,z\n" + "".join(f"{n},{x},{y},{z}\n" for n, (x, y, z) in zip(names, points, strict=False)))
    return path


def moved(points, rng, noise=0.2):
    turn = Rotation.from_rotvec((0.4, -0.8, 0.3)).as_matrix()
    return points @ turn.T + (100, -50, 20) + rng.normal(size=points.shape) * noise


def test_landmarks_by_name_pass_with_a_picture(case, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    order = [3, 1, 5, 0, 2, 4]
    touched = table(tmp_path / "touched.csv", moved(POINTS, rng)[order], "DBFACE")
    target = table(tmp_path / "target.csv", POINTS)
    assert run(monkeypatch, "register", "landmarks", case, touched, "--target", target) == 0
    assert "PASS: error (95 %)" in capsys.readouterr().out
    result = json.loads((case / "registration/landmarks.json").read_text())
    assert result["verdict"] == "pass"
    assert set(result["residuals_mm"]) == set("ABCDEF")
    assert (case / "registration/landmarks.png").stat().st_size > 1000


def test_the_limits_are_those_of_the_case(case, tmp_path, monkeypatch, capsys):
    opened = Case.open(case)
    opened.manifest["registration"] = {"landmarks": {"check_mm": 0.01, "fail_mm": 0.02}}
    opened.save()
    touched = table(tmp_path / "touched.csv", moved(POINTS, np.random.default_rng(0)))
    target = table(tmp_path / "target.csv", POINTS)
    assert run(monkeypatch, "register", "landmarks", case, touched, "--target", target) == 1
    assert "FAIL: error (95 %)" in capsys.readouterr().out


def test_swapped_labels_are_said_and_unordered_points_found(case, tmp_path, monkeypatch, capsys):
    touched = table(tmp_path / "touched.csv", moved(POINTS, np.random.default_rng(0)), "BACDEF")
    target = table(tmp_path / "target.csv", POINTS)
    run(monkeypatch, "register", "landmarks", case, touched, "--target", target)
    result = json.loads((case / "registration/landmarks.json").read_text())
    assert "look swapped" in result["warnings"][0]
    assert run(monkeypatch, "register", "landmarks", case, touched, "--target", target, "--unordered") == 0
    capsys.readouterr()


def test_input_that_cannot_be_used_ends_with_two_and_writes_nothing(case, tmp_path, monkeypatch, capsys):
    touched = table(tmp_path / "touched.csv", POINTS[:2])
    target = table(tmp_path / "target.csv", POINTS[:2])
    assert run(monkeypatch, "register", "landmarks", case, touched, "--target", target) == 2
    assert "only 2 fiducial pairs" in " ".join(capsys.readouterr().err.split())
    assert not (case / "registration").exists()
    touched.write_text("name,x,y,z\nA,1,2,3\nB,1,two,3\n")
    assert run(monkeypatch, "register", "landmarks", case, touched, "--target", target) == 2
    assert "line 3" in " ".join(capsys.readouterr().err.split())


def test_pivot_from_a_table_of_poses(case, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    t = np.linspace(0, 20, 200)
    turns = Rotation.from_rotvec(0.5 * np.column_stack([np.sin(1.1 * t), np.cos(0.7 * t), 0.3 * np.sin(0.5 * t)]))
    places = -turns.apply((10.0, -5.0, 150.0)) + rng.normal(size=(200, 3)) * 0.1
    rows = np.column_stack([t, places, turns.as_quat()])
    path = tmp_path / "poses.csv"
    np.savetxt(path, rows, delimiter=",")
    assert run(monkeypatch, "calibrate", "pivot", case, path) == 0
    np.testing.assert_allclose(
        json.loads((case / "registration/pivot.json").read_text())["tip_mm"], (10, -5, 150), atol=0.3
    )
    np.savetxt(path, np.repeat(rows[:1], 50, axis=0) + np.arange(50)[:, None] * np.eye(8)[0], delimiter=",")
    assert run(monkeypatch, "calibrate", "pivot", case, path) == 2
    assert "did not turn" in " ".join(capsys.readouterr().err.split())
