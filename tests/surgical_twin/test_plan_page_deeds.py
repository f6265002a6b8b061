"""What the planning page does to a case: names, landmarks, checks and the approval, on a planned case."""

import json
import shutil
import tomllib

import numpy as np
import pytest

from meshes.files import read_centerline, read_lumen_mesh
from registration.point_files import read_point_file
from streams.audit import read_audit
from surgical_twin.case import Case, read_table
from surgical_twin.errors import InputError
from surgical_twin.plan_approval import approval_status, approve, withdraw
from surgical_twin.plan_checks import plan_checks
from surgical_twin.plan_desk import CasePlanDesk
from surgical_twin.plan_landmarks import PlanLandmarks
from surgical_twin.port_names import rename_port
from surgical_twin.session_model import SessionModel
from viewer.plan_desk import PlanRefused


@pytest.fixture
def case(planned, tmp_path):
    """A copy that may be changed, and that remembers nothing of what other tests did with the case."""
    shutil.copytree(planned.folder / "case", tmp_path / "case", ignore=shutil.ignore_patterns("audit.jsonl"))
    return Case.open(tmp_path / "case")


def test_a_port_has_its_new_name_everywhere_and_nothing_is_done_again(case, planned):
    before = SessionModel.load(case)
    rename_port(case, "outlet_1", "left_renal")
    opened = Case.open(case.folder)
    after = SessionModel.load(opened)
    assert after.port_names == tuple("left_renal" if n == "outlet_1" else n for n in before.port_names)
    assert "left_renal" in {port.name for port in read_lumen_mesh(opened.path("mesh.vtu")).ports}
    assert "left_renal" in {branch.end for branch in read_centerline(opened.path("centerline.vtp")).branches}
    assert "left_renal" in {row["port"] for row in read_table(opened.path("branches.csv"))}
    assert not [line for line in opened.path("case.toml").read_text().splitlines() if "outlet_1" in line]
    # The same model to the last bit, and a plan that finds nothing to do.
    ensembles = [model.filter.initial(0, model.waveform.period).ports for model in (before, after)]
    coefficients = [m.reduced.decoder.coefficients(e) for m, e in zip((before, after), ensembles, strict=True)]
    np.testing.assert_array_equal(*coefficients)
    inside = case.folder.parent
    for name in ("ct.nrrd", "plan.toml", "fiducials.csv"):
        shutil.copy(planned.folder / name, inside / name)
    times = {p.name: p.stat().st_mtime_ns for p in case.folder.rglob("*.npz")}
    room = type(planned)(inside)
    again = room.run("plan", "ct.nrrd", "--case", "case", "--config", "plan.toml")
    assert again.returncode == 0, again.stderr
    assert {p.name: p.stat().st_mtime_ns for p in case.folder.rglob("*.npz")} == times
    answer = room.run("what-if", "case", "--clamp", "left_renal")
    assert answer.returncode == 0, answer.stderr
    assert "left_renal" in answer.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("outlet_9", "renal", "no port outlet_9"),
        ("outlet_1", "outlet_2", "is taken"),
        ("outlet_1", "branch_1", "is taken"),
        ("outlet_1", "left renal", "cannot name a port"),
        ("outlet_1", "", "cannot name a port"),
        ("outlet_1", "../x", "cannot name a port"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_changed(case, old, new, words):
    files = {p: p.stat().st_mtime_ns for p in case.folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=words):
        rename_port(case, old, new)
    assert {p: p.stat().st_mtime_ns for p in case.folder.rglob("*") if p.is_file()} == files


def test_landmarks_are_markups_of_3d_slicer_and_fiducials_stay_a_table(case):
    landmarks = PlanLandmarks(case)
    there = read_lumen_mesh(case.path("mesh.vtu")).points.mean(axis=0)
    landmarks.place("target", there)
    stored = json.loads(case.path("landmarks.mrk.json").read_text())
    (markup,) = stored["markups"]
    assert markup["type"] == "Fiducial"
    assert markup["coordinateSystem"] == "LPS"
    assert [point["label"] for point in markup["controlPoints"]] == ["target"]
    # Read by the reader that takes 3D Slicer's own files.
    np.testing.assert_allclose(read_point_file(case.path("landmarks.mrk.json")).by_name()["target"], there, atol=1e-4)
    name, place = next(iter(landmarks.fiducials.items()))
    landmarks.place(name, place + (0.0, 0.0, 1.5))
    landmarks.rename(name, "nose")
    moved = PlanLandmarks(Case.open(case.folder))
    np.testing.assert_allclose(moved.fiducials["nose"], place + (0.0, 0.0, 1.5), atol=1e-3)
    np.testing.assert_allclose(moved.marks["target"], there, atol=1e-3)
    # The step that wrote the fiducials is still current.
    assert next(one for one in plan_checks(Case.open(case.folder)) if one.name == "Files").verdict == "good"
    for bad, words in (("", "name has"), ("a,b", "name has"), ("nose", "is taken")):
        with pytest.raises(InputError, match=words):
            moved.rename("target", bad)
    with pytest.raises(InputError, match="not in the planning image"):
        moved.place("far", (9e3, 0.0, 0.0))
    with pytest.raises(InputError, match="three finite"):
        moved.place("nowhere", (np.nan, 0.0, 0.0))
    for spare in list(moved.fiducials)[3:]:
        moved.remove(spare)
    with pytest.raises(InputError, match="needs 3 fiducials"):
        moved.remove("nose")
    moved.remove("target")
    assert PlanLandmarks(case).marks == {}


def test_an_approval_holds_for_what_was_approved_and_nothing_else(case):
    assert approval_status(case).state == "none"
    with pytest.raises(InputError, match="needs a name"):
        approve(case, "  ")
    with pytest.raises(InputError, match="say why"):
        approve(case, "Dr. Example", failed=["Mesh"])
    status = approve(case, "Dr.  Example")
    stored = tomllib.loads(case.path("approval.toml").read_text())
    assert stored["by"] == "Dr. Example"
    assert stored["hash"] == status.hash
    assert approval_status(Case.open(case.folder)).words.startswith("plan approved by Dr. Example")
    PlanLandmarks(case).place("target", read_lumen_mesh(case.path("mesh.vtu")).points.mean(axis=0))
    changed = approval_status(Case.open(case.folder))
    assert changed.state == "changed"
    assert changed.changed == ("landmarks.mrk.json",)
    assert "changed since Dr. Example approved" in changed.words
    approve(case, "Dr. Example")
    flow = Case.open(case.folder)
    flow.manifest["flow"]["mean_flow_m3_s"] *= 1.1
    flow.save()
    assert approval_status(Case.open(case.folder)).changed == ("case.toml: flow, registration",)
    # An approval that was made to fit afterwards is none.
    text = case.path("approval.toml").read_text()
    case.path("approval.toml").write_text(text.replace(stored["files"]["mesh.vtu"], "0" * 64))
    assert approval_status(Case.open(case.folder)).changed == ("approval.toml",)
    withdraw(case, "Dr. Other")
    assert approval_status(case).state == "none"
    entries, broken = read_audit(case.path("audit.jsonl"))
    assert broken is None
    assert [one.what for one in entries] == ["plan approved", "plan approved", "plan approval withdrawn"]
    assert entries[0].details["hash"] == status.hash
    case.path("reduced.npz").unlink()
    with pytest.raises(InputError, match=r"not finished \(it has no reduced.npz\)"):
        approve(case, "Dr. Example")


def test_checks_say_what_was_measured_and_fail_for_what_is_wrong(case):
    checks = {one.name: one for one in plan_checks(case)}
    assert checks["Mesh"].verdict == "good"
    assert f"{case.step('mesh')['figures']['tetrahedra']} tetrahedra" in checks["Mesh"].words
    error = case.step("reduced")["figures"]["pressure_error"]
    assert f"off by {100 * error:.1f} %" in checks["Model's pressure"].words
    assert checks["Fiducials"].verdict == "good"
    case.manifest["step"]["mesh"]["figures"]["watertight"] = False
    case.manifest["step"]["reduced"]["figures"]["pressure_error"] = 0.5
    case.path("axis.csv").write_text("name,x,y,z\n0,0,0,0\n")
    checks = {one.name: one for one in plan_checks(case)}
    assert checks["Mesh"].verdict == "failed"
    assert checks["Model's pressure"].verdict == "caution"
    assert checks["Files"].verdict == "failed"
    assert "axis.csv" in checks["Files"].words
    del case.manifest["step"]["reduced"]
    assert next(one for one in plan_checks(case) if one.name == "Flow model").verdict == "failed"


def test_the_desk_does_what_the_page_asks_and_refuses_in_words(case):
    desk = CasePlanDesk(case)
    try:
        rows = {row.name: row for row in desk.ports()}
        mesh = {port.name: port for port in read_lumen_mesh(case.path("mesh.vtu")).ports}
        assert rows.keys() == mesh.keys()
        for name, row in rows.items():
            assert row.radius_mm == mesh[name].radius
        planned = 6e7 * case.manifest["flow"]["mean_flow_m3_s"]
        value, interval = rows["inlet"].flow.split(" ", 1)
        low, high = (float(end) for end in interval.strip("[]").split(","))
        assert low < planned < high
        assert abs(float(value) - planned) < 0.2 * planned
        answer = desk.ask([("svr", "+50%"), ("clamp", "outlet_1=90%")])
        assert answer.picture is not None
        pressure = next(row for row in answer.rows if row[0].startswith("mean pressure inlet"))
        assert "[" in pressure[1]
        assert "not answered" in desk.ask([("clamp", "outlet_9")]).rows[0][0]
        with pytest.raises(PlanRefused, match="Look at the outline"):
            desk.approve("Dr. Example", "", seen=False)
        desk.rename_port("outlet_1", "left_renal")
        assert "left_renal" in desk.outlets()
        assert "not answered" not in desk.ask([("clamp", "left_renal=50%")]).rows[0][0]
        desk.place_landmark("target", mesh["inlet"].center)
        assert "plan approved by Dr. Example" in desk.approve("Dr. Example", "", seen=True)
        desk.remove_landmark("target")
        assert desk.approval()[0] == "changed"
        done = [one.what for one in read_audit(case.path("audit.jsonl"))[0]]
        assert done == ["port renamed", "landmark placed", "plan approved", "landmark removed"]
    finally:
        desk.close()
