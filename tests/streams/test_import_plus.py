"""PLUS sequences, made ones and real ones with their real defects."""

import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from streams.errors import InputError
from streams.import_plus import plus_arrivals, read_plus
from streams.importing import EPOCH_NS, Findings, write_recording
from streams.messages import ImageFrame, ToolPose


def rotation_of(quaternion):
    w, x, y, z = quaternion
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


HEAD = "NDims = 3\nBinaryData = True\nCompressedData = {compressed}\nDimSize = {size}\nElementType = {kind}\n"


def plus_file(path, frames, *, size="0 0 {n}", kind="MET_OTHER", pixels=b"", compressed=False):
    lines = [HEAD.format(compressed=compressed, size=size.format(n=len(frames)), kind=kind)]
    for number, fields in enumerate(frames):
        lines += [f"Seq_Frame{number:04d}_{name} = {value}\n" for name, value in fields.items()]
    path.write_bytes("".join(lines).encode() + b"ElementDataFile = LOCAL\n" + pixels)
    return path


TURN = "0 -1 0 10 1 0 0 20 0 0 1 30 0 0 0 1"


def test_a_transform_is_read_by_rows_and_the_tip_is_where_the_tool_has_it(tmp_path):
    path = plus_file(tmp_path / "a.igs.mha", [{"StylusToTrackerTransform": TURN, "StylusToTrackerTransformStatus": "OK",
                                               "Timestamp": "1.5"}])  # fmt: skip
    (arrival,) = plus_arrivals(read_plus(path), Findings(), tips_mm={"Stylus": (1.0, 2.0, 3.0)})
    pose = arrival.message
    assert (pose.stream, pose.tool, pose.valid) == ("tracker/Stylus", "Stylus", True)
    assert pose.position == pytest.approx((10 - 2, 20 + 1, 33))
    np.testing.assert_allclose(rotation_of(pose.quaternion), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    assert pose.source_time_ns == EPOCH_NS + 1_500_000_000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"StylusToTrackerTransformStatus": "INVALID"}, "INVALID"),
        ({"StylusToTrackerTransform": " ".join(["0"] * 16)}, "zeros"),
        ({"StylusToTrackerTransform": TURN.replace("30", "nan")}, "not finite"),
        ({"StylusToTrackerTransform": TURN.replace("30", "x")}, "no numbers"),
        ({"StylusToTrackerTransform": "1 2 3"}, "16 numbers"),
        ({"StylusToTrackerTransform": "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1"}, "no rotation"),
        ({"StylusToTrackerTransform": "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}, "no rotation"),
    ],
)
def test_what_is_no_pose_is_sent_as_not_valid_and_named(tmp_path, fields, said):
    frame = {"StylusToTrackerTransform": TURN, "StylusToTrackerTransformStatus": "OK", "Timestamp": "1", **fields}
    findings = Findings()
    (arrival,) = plus_arrivals(read_plus(plus_file(tmp_path / "a.mha", [frame])), findings)
    assert arrival.message.valid is False
    assert arrival.message.position == (0.0, 0.0, 0.0)
    assert any(said in sentence and "Stylus" in sentence for sentence in findings.sentences())


@pytest.mark.parametrize("compressed", [False, True])
def test_images_come_with_their_frames_and_invalid_ones_stay_out(tmp_path, compressed):
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(5, 4, 3)
    data = zlib.compress(pixels.tobytes()) if compressed else pixels.tobytes()
    frames = [{"Timestamp": n, "ImageStatus": "INVALID" if n == 2 else "OK"} for n in range(5)]
    path = plus_file(
        tmp_path / "a.igs.mha", frames, size="3 4 {n}", kind="MET_UCHAR", pixels=data, compressed=compressed
    )
    findings = Findings()
    images = [a.message for a in plus_arrivals(read_plus(path), findings) if isinstance(a.message, ImageFrame)]
    assert [(image.source_time_ns - EPOCH_NS) // 10**9 for image in images] == [0, 1, 3, 4]
    assert all(image.data == pixels[(image.source_time_ns - EPOCH_NS) // 10**9].tobytes() for image in images)
    assert "1 images have the status INVALID" in " ".join(findings.sentences())


def test_a_nrrd_written_by_simpleitk_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 5), dtype=np.uint8)
    image = sitk.GetImageFromArray(pixels)
    for number in range(4):
        image.SetMetaData(f"Seq_Frame{number:04d}_ProbeToTrackerTransform", TURN)
        image.SetMetaData(f"Seq_Frame{number:04d}_ProbeToTrackerTransformStatus", "OK")
        image.SetMetaData(f"Seq_Frame{number:04d}_Timestamp", str(0.5 * number))
    for compress in (False, True):
        path = tmp_path / f"{compress}.igs.nrrd"
        sitk.WriteImage(image, str(path), compress)
        arrivals = [a.message for a in plus_arrivals(read_plus(path), Findings())]
        found = [message for message in arrivals if isinstance(message, ImageFrame)]
        assert [message.data for message in found] == [frame.tobytes() for frame in pixels]
        assert (found[0].width, found[0].height) == (5, 6)
        assert sum(isinstance(message, ToolPose) for message in arrivals) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no MetaImage"),
        (b"NRRD0004\nsizes: 1", "cut off"),
        (b"NDims = 3\nDimSize = a b c\nElementDataFile = LOCAL\n", "no numbers"),
        (b"NDims = 3\nDimSize = 1 1 1\nElementDataFile = other.raw\n", "another file"),
        (b"NDims = 3\nDimSize = 0 0 1\nElementDataFile = LOCAL\n", "Timestamp"),
        (b"NDims = 3\nDimSize = 0 0 1\nSeq_Frame99999999_Timestamp = 1\nElementDataFile = LOCAL\n", "at most"),
    ],
)
def test_a_bad_sequence_is_refused_with_what_is_wrong(tmp_path, content, said):
    (tmp_path / "bad.mha").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_plus(tmp_path / "bad.mha")


def test_pixels_that_were_cut_off_are_named_and_nothing_is_left_behind(tmp_path):
    path = plus_file(tmp_path / "a.igs.mha", [{"Timestamp": "1"}], size="8 8 1", kind="MET_UCHAR", pixels=b"short")
    with pytest.raises(InputError, match="5 bytes of pixels where 64 belong"):
        write_recording([plus_arrivals(read_plus(path), Findings())], Findings(), tmp_path / "o.mcap", origin="a")
    assert not list(tmp_path.glob("*o.mcap*"))


def test_a_real_tracker_recording_without_image_plays_through_the_twin(tmp_path, real, imported, twin_states):
    path = real("plus_tracked_sequences/EightLandmarkPointsTrackedForPhantomRegistration.igs.mha")
    findings = Findings()
    done, recording = imported([plus_arrivals(read_plus(path), findings)], findings)
    assert done.streams == {"tracker/Reference": 1000, "tracker/Stylus": 1000}
    assert done.duration_s == pytest.approx(66.6, abs=0.1)
    # The first line of the file, by hand.
    first = next(e.message for e in recording.events if isinstance(e.message, ToolPose) and e.message.tool == "Stylus")
    assert first.position == pytest.approx((315.55283203125, 9.82265625, -36.05361328125))
    assert rotation_of(first.quaternion)[0] == pytest.approx([0.68393111, 0.36068214, -0.63429507], abs=2e-4)
    states = twin_states(recording)
    assert len(states) > 600
    assert states[-1].counters["lost"] == 0


def test_a_real_lost_stylus_is_never_valid(tmp_path, real, imported):
    path = real("plus_tracked_sequences/NwirePhantomFreehandCropped.igs.mha")
    findings = Findings()
    _, recording = imported([plus_arrivals(read_plus(path), findings)], findings)
    poses = [e.message for e in recording.events if isinstance(e.message, ToolPose)]
    assert {pose.valid for pose in poses if pose.tool == "Stylus"} == {False}
    assert {pose.valid for pose in poses if pose.tool == "Probe"} == {True}
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    images = [e.message for e in recording.events if isinstance(e.message, ImageFrame)]
    assert [image.data for image in images] == [frame.tobytes() for frame in expected]
    assert any("Stylus have the status INVALID" in sentence for sentence in findings.sentences())


SEQUENCES = (
    "TransformInterpolationTest",
    "TimestampFilteringTest",
    "SlidingProbeTrackingData",
    "Prostate10_tracker",
    "SyntheticTrackerBuffer20",
    "ReferenceToRASCalibration",
)


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_real_sequence_of_poses_is_read(tmp_path, name, real, imported):
    path = real(f"plus_tracked_sequences/{name}.igs.mha")
    findings = Findings()
    sequence = read_plus(path)
    _, recording = imported([plus_arrivals(sequence, findings)], findings)
    poses = [e.message for e in recording.events if isinstance(e.message, ToolPose)]
    text = path.read_bytes().decode("latin-1")
    assert len(poses) == sum(line.split(" =")[0].endswith("Transform") and line.startswith("Seq_Frame")
                             for line in text.splitlines())  # fmt: skip
    assert sum(not pose.valid for pose in poses) == text.count("Status = INVALID") - text.count("ImageStatus = INVALID")


def test_real_jittered_stamps_are_taken_as_measured_and_arrive_in_order(tmp_path, real, imported, twin_states):
    path = real("plus_tracked_sequences/TimestampFilteringTest.igs.mha")
    findings = Findings()
    _, recording = imported([plus_arrivals(read_plus(path), findings)], findings)
    events = [event for event in recording.events if isinstance(event.message, ToolPose)]
    assert len(events) == 500
    received = [event.receive_time_ns for event in events]
    assert received == sorted(received)
    assert twin_states(recording)
