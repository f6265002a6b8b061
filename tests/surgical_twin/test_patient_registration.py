"""A patient registered by another way than touched fiducials: what the session then says, and what it refuses."""

import importlib.util
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from registration.rigid import exponential, quaternion_from_matrix
from streams.events import event_from_frame
from streams.messages import FiducialTouch, PatientRegistration, fault
from streams.wire import pack
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.patient_registration import read_registration

_SPEC = importlib.util.spec_from_file_location("made_patient_registered", Path(__file__).with_name("made_patient.py"))
made_patient = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made_patient)
at, fold, procedure, model, truth = (
    made_patient.at,
    made_patient.fold,
    made_patient.procedure,
    made_patient.model,
    made_patient.truth,
)

SPREAD = tuple(np.diag([1e-4, 1e-4, 1e-4, 0.25, 0.25, 0.25]).ravel().tolist())


def told(pose=None, *, covariance=SPREAD, center=(10.0, 20.0, 30.0), **more):
    pose = np.eye(4) if pose is None else pose
    return PatientRegistration(
        stream="navigation",
        sequence=0,
        source_time_ns=at(0.05),
        method="surface",
        position=tuple(pose[:3, 3].tolist()),
        quaternion=tuple(quaternion_from_matrix(pose).tolist()),
        covariance=covariance,
        center=center,
        **more,
    )


def with_message(events, message):
    """A procedure whose touched fiducials are left out, and that begins with a message."""
    kept = [one for one in events if not isinstance(one.message, FiducialTouch)]
    told_one = event_from_frame(0, message.source_time_ns, pack(message))
    ordered = [kept[0], told_one, *kept[1:]]
    return [one.numbered(index) for index, one in enumerate(ordered)]


def test_the_tip_is_where_the_told_registration_puts_it_and_as_uncertain(model, truth):
    # The made patient's tracker lies in the image: another pose moves the tip by just that.
    pose = exponential(np.array([0.0, 0.0, 0.02, 0.4, -0.3, 0.2]))
    events = procedure(truth, seconds=2.0)
    _, usual = fold(model, events)
    _, states = fold(model, with_message(events, told(pose)))
    last, expected = states[-1], usual[-1]
    assert last.registered
    assert last.fre is None
    assert last.tip_valid
    tip = pose[:3, :3] @ np.array(expected.tip) + pose[:3, 3]
    # What the ensemble's errors say in the mean, as a sample of 0.5 mm and 10 mrad, may be a part of that.
    np.testing.assert_allclose(last.tip, tip, atol=0.5)
    # (Fitzpatrick's sum for a turn of 10 mrad per axis at a distance d: 2 d^2 1e-4, and 3 times 0.25 mm^2.)
    away = np.linalg.norm(tip - [10.0, 20.0, 30.0])
    assert last.tre == pytest.approx(np.sqrt(2e-4 * away**2 + 0.75), rel=0.25)


def test_touching_enough_fiducials_afterwards_registers_anew(model, truth):
    events = procedure(truth, seconds=1.0)
    far = exponential(np.array([0.0, 0.0, 0.0, 30.0, 0.0, 0.0]))
    first = event_from_frame(0, at(0.0), pack(msgspec.structs.replace(told(far), source_time_ns=at(0.0))))
    ordered = [one.numbered(index) for index, one in enumerate([events[0], first, *events[1:]])]
    _, states = fold(model, ordered)
    assert states[-1].fre is not None
    assert abs(states[-1].tip[0]) < 25.0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"covariance": (0.0,) * 36}, "no error"),
        ({"covariance": tuple(-value for value in SPREAD)}, "no error"),
        ({"covariance": (*SPREAD[:1], 0.5, *SPREAD[2:])}, "symmetric"),
        ({"covariance": SPREAD[:35]}, "36"),
    ],
)
def test_what_is_no_registration_is_named(more, reason):
    assert reason in fault(told(**more))


def result(folder, name="surface", **more):
    path = folder / "registration" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    pose = exponential(np.array([0.1, 0.2, -0.1, 5.0, 6.0, 7.0]))
    content = {"registration": name, "verdict": "pass", "reason": "", "image_from_tracker": pose.tolist(),
               "covariance": np.diag([1e-5] * 3 + [0.1] * 3).tolist(), **more}  # fmt: skip
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_a_result_of_the_case_is_read_as_it_was_written(tmp_path):
    case = Case.create(tmp_path / "case")
    path = result(case.folder)
    fields = read_registration(case, "surface")
    assert read_registration(case, str(path)) == fields
    pose = np.array(json.loads(path.read_text())["image_from_tracker"])
    np.testing.assert_allclose(quaternion_from_matrix(pose), fields["quaternion"], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], fields["position"])
    assert fields["covariance"][35] == 0.1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"verdict": "fail", "reason": "the points do not fit"}, "do not fit"),
        ({"image_from_tracker": None, "correction": np.eye(4).tolist()}, "does not tie the tracker"),
        ({"covariance": None}, "does not tie the tracker"),
        ({"covariance": np.zeros((6, 6)).tolist()}, "no error"),
        ({"image_from_tracker": np.diag([1.0, 1.0, -1.0, 1.0]).tolist()}, "reflection"),
    ],
)
def test_a_result_that_cannot_be_gone_by_is_refused(tmp_path, more, reason):
    case = Case.create(tmp_path / "case")
    result(case.folder, **more)
    with pytest.raises(Exception, match=reason) as caught:
        read_registration(case, "surface")
    assert "InputError" in type(caught.value).__name__


def test_a_name_that_the_case_does_not_have_is_told_with_those_it_has(tmp_path):
    case = Case.create(tmp_path / "case")
    with pytest.raises(InputError, match="it has none"):
        read_registration(case, "surface")
    result(case.folder, "landmarks")
    with pytest.raises(InputError, match="it has landmarks"):
        read_registration(case, "surface")


def test_a_person_who_names_a_wrong_registration_is_told(planned):
    def says(done, *words):
        assert done.returncode == 2, done.stdout + done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    says(planned.run("live", "case", "--registration", "nowhere"), "nowhere.json is no registration of the case")
    rows = ["name,x,y,z", *(f"p{n},{10.0 * n},{5.0 * (n % 3)},{3.0 * (n % 2)}" for n in range(6))]
    (planned.folder / "touched.csv").write_text("\n".join(rows))
    (planned.folder / "planned.csv").write_text(
        "\n".join([rows[0], *(row.replace("p0,0.0", "p0,0.4") for row in rows[1:])])
    )
    done = planned.run("register", "landmarks", "case", "touched.csv", "--target", "planned.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    says(planned.run("register", "send", "case", "landmarks", "--commands", "tcp://127.0.0.1:9"), "did not answer")
