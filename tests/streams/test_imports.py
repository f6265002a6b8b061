"""Other programs' files: PLUS sequences, WFDB records and tables, made ones and real ones with their real defects."""

import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from streams.errors import InputError
from streams.import_plus import plus_arrivals, read_plus
from streams.import_table import read_map, table_arrivals
from streams.import_wfdb import read_header, read_signals, wfdb_arrivals
from streams.importing import EPOCH_NS, Findings, write_recording
from streams.messages import FlowSample, ImageFrame, Note, PressureSamples, ToolPose, VitalSign
from streams.recording import read_recording
from surgical_twin.replay import replay

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path


def rotation_of(quaternion):
    w, x, y, z = quaternion
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def twin_states(recording):
    """What the twin makes of a recording, on a case without a flow model."""
    model = SimpleNamespace(case_hash="", fiducials={}, waveform=SimpleNamespace(period=0.8), port_names=("inlet",),
                            filter=SimpleNamespace(initial=lambda seed, period: None))  # fmt: skip
    states = []
    replay(recording, model, lambda number, state: states.append(state))
    return states


# PLUS --------------------------------------------------------------------------------------------------------------

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


def imported(tmp_path, sources, findings):
    done = write_recording(sources, findings, tmp_path / "imported.mcap", origin="test")
    recording = read_recording(tmp_path / "imported.mcap")
    assert recording.chain.fault is None
    assert not recording.truncated
    return done, recording


def test_a_real_tracker_recording_without_image_plays_through_the_twin(tmp_path):
    path = real("plus_tracked_sequences/EightLandmarkPointsTrackedForPhantomRegistration.igs.mha")
    findings = Findings()
    done, recording = imported(tmp_path, [plus_arrivals(read_plus(path), findings)], findings)
    assert done.streams == {"tracker/Reference": 1000, "tracker/Stylus": 1000}
    assert done.duration_s == pytest.approx(66.6, abs=0.1)
    # The first line of the file, by hand.
    first = next(e.message for e in recording.events if isinstance(e.message, ToolPose) and e.message.tool == "Stylus")
    assert first.position == pytest.approx((315.55283203125, 9.82265625, -36.05361328125))
    assert rotation_of(first.quaternion)[0] == pytest.approx([0.68393111, 0.36068214, -0.63429507], abs=2e-4)
    states = twin_states(recording)
    assert len(states) > 600
    assert states[-1].counters["lost"] == 0


def test_a_real_lost_stylus_is_never_valid(tmp_path):
    path = real("plus_tracked_sequences/NwirePhantomFreehandCropped.igs.mha")
    findings = Findings()
    _, recording = imported(tmp_path, [plus_arrivals(read_plus(path), findings)], findings)
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
def test_every_real_sequence_of_poses_is_read(tmp_path, name):
    path = real(f"plus_tracked_sequences/{name}.igs.mha")
    findings = Findings()
    sequence = read_plus(path)
    _, recording = imported(tmp_path, [plus_arrivals(sequence, findings)], findings)
    poses = [e.message for e in recording.events if isinstance(e.message, ToolPose)]
    text = path.read_bytes().decode("latin-1")
    assert len(poses) == sum(line.split(" =")[0].endswith("Transform") and line.startswith("Seq_Frame")
                             for line in text.splitlines())  # fmt: skip
    assert sum(not pose.valid for pose in poses) == text.count("Status = INVALID") - text.count("ImageStatus = INVALID")


def test_real_jittered_stamps_are_taken_as_measured_and_arrive_in_order(tmp_path):
    path = real("plus_tracked_sequences/TimestampFilteringTest.igs.mha")
    findings = Findings()
    _, recording = imported(tmp_path, [plus_arrivals(read_plus(path), findings)], findings)
    events = [event for event in recording.events if isinstance(event.message, ToolPose)]
    assert len(events) == 500
    received = [event.receive_time_ns for event in events]
    assert received == sorted(received)
    assert twin_states(recording)


# WFDB --------------------------------------------------------------------------------------------------------------


def test_a_real_record_has_the_pressures_that_were_measured(tmp_path):
    """Least, mean and greatest as found by PhysioNet's own reader; the header's checksums are checked on the way."""
    path = real("streams_wfdb_icu_abp/03700181.hea")
    findings = Findings()
    signals = read_signals(read_header(path), findings)
    _, rate, pressure = signals["ABP"]
    assert rate == 125.0
    assert len(pressure) == 75_000
    assert (np.nanmin(pressure), np.nanmean(pressure), np.nanmax(pressure)) == pytest.approx((17, 33, 64), abs=0.6)
    assert not findings.notes
    done, recording = imported(tmp_path, wfdb_arrivals(path, findings), findings)
    assert done.streams["pressure/abp"] == 3000
    assert done.duration_s == pytest.approx(600, abs=1)
    samples = [v for e in recording.events if isinstance(e.message, PressureSamples) for v in e.message.values_mmhg]
    np.testing.assert_allclose(samples, pressure)
    first = next(e.message for e in recording.events if isinstance(e.message, PressureSamples))
    assert first.source_time_ns == 776971665 * 10**9  # 1994-08-15 17:27:45


def test_a_real_record_of_two_segments_is_one(tmp_path):
    path = real("streams_wfdb_icu_abp/041s.hea")
    findings = Findings()
    done, recording = imported(tmp_path, wfdb_arrivals(path, findings), findings)
    assert done.duration_s == pytest.approx(16.0, abs=0.3)
    for name, expected in (("abp", (41, 56, 88)), ("pap", (5, 20, 33))):
        values = [v for e in recording.events if isinstance(e.message, PressureSamples)
                  and e.message.stream == f"pressure/{name}" for v in e.message.values_mmhg]  # fmt: skip
        assert len(values) == 2000
        assert (min(values), np.mean(values), max(values)) == pytest.approx(expected, abs=0.6)
    assert not findings.notes
    assert twin_states(recording)


def test_a_real_transducer_that_was_off_is_read_as_it_measured():
    """Format 80, -128 being no sample; the mean is below 0 mmHg: the session has to refuse it, not the reader."""
    path = real("streams_wfdb_icu_abp/3234460_0017.hea")
    _, _, pressure = read_signals(read_header(path), Findings())["ABP"]
    assert np.nanmean(pressure) == pytest.approx(-16, abs=0.6)


def test_a_record_as_flac_is_read_or_its_package_is_named():
    path = real("streams_wfdb_icu_abp/mixedsignals.hea")
    try:
        import soundfile  # noqa: F401
    except (ImportError, OSError):
        with pytest.raises(InputError, match="soundfile"):
            wfdb_arrivals(path, Findings())
        return
    findings = Findings()
    _, rate, pressure = read_signals(read_header(path), findings)["ABP"]
    assert rate == pytest.approx(124.945)
    assert (np.nanmin(pressure), np.nanmean(pressure), np.nanmax(pressure)) == pytest.approx((70, 110, 171), abs=0.6)
    assert np.isnan(pressure).mean() == pytest.approx(0.0067, abs=3e-4)
    assert not findings.notes


def wfdb_file(folder, values, form):
    """A record of two signals as the manual describes the formats, written by the letter."""
    a, b = (np.asarray(column, dtype=np.int64) for column in values)
    both = np.column_stack([a, b]).ravel()
    if form == 212:
        pairs = both.reshape(-1, 2) & 0xFFF
        raw = bytearray()
        for first, second in pairs:
            raw += bytes([first & 0xFF, (first >> 8) | (second >> 8) << 4, second & 0xFF])
        data = bytes(raw)
    elif form == 8:
        data = np.diff(np.column_stack([[a[0], b[0]], np.stack([a, b])]), axis=1).T.astype(np.int8).tobytes()
    elif form == 24:
        data = b"".join(int(value & 0xFFFFFF).to_bytes(3, "little") for value in both)
    else:
        kind = {16: "<i2", 61: ">i2", 80: "u1", 160: "<u2", 32: "<i4"}[form]
        data = (both + {80: 128, 160: 32768}.get(form, 0)).astype(kind).tobytes()
    (folder / "r.dat").write_bytes(data)
    sums = [(int(column.sum()) + 32768) % 65536 - 32768 for column in (a, b)]
    (folder / "r.hea").write_text(
        f"r 2 100 {len(a)}\nr.dat {form} 10(5)/mmHg 12 0 {a[0]} {sums[0]} 0 ART\n"
        f"r.dat {form} 20/mV 12 3 {b[0]} {sums[1]} 0 ECG lead II\n# a comment\n"
    )
    return folder / "r.hea"


@pytest.mark.parametrize("form", [8, 16, 24, 32, 61, 80, 160, 212])
def test_every_format_gives_back_what_was_written(tmp_path, form):
    rng = np.random.default_rng(form)
    a, b = (np.clip(np.cumsum(rng.integers(-9, 10, 301)), -120, 120) for _ in range(2))
    findings = Findings()
    signals = read_signals(read_header(wfdb_file(tmp_path, (a, b), form)), findings)
    np.testing.assert_allclose(signals["ART"][2], (a - 5) / 10)
    np.testing.assert_allclose(signals["ECG lead II"][2], (b - 3) / 20)
    assert not findings.notes


def test_a_damaged_record_is_noticed_by_its_checksum_and_a_short_one_by_its_length(tmp_path):
    path = wfdb_file(tmp_path, (np.arange(50), np.arange(50)), 16)
    data = bytearray((tmp_path / "r.dat").read_bytes())
    data[4] ^= 1
    (tmp_path / "r.dat").write_bytes(data[:-8])
    findings = Findings()
    read_signals(read_header(path), findings)
    text = " ".join(findings.notes)
    assert "48 of the 50" in text
    assert "do not sum up" in text


@pytest.mark.parametrize(("header", "said"), [
    ("", "no WFDB header"), ("r 2 100 5\nr.dat 16\n", "1 lines where 2"), ("r 1 0 5\nr.dat 16\n", "rate"),
    ("r 1 100 5\nr.dat sixteen\n", "no format"), ("r 1 100 5\nr.dat 311 1 1 0 0 0 0 x\n", "311"),
    ("r 1 100 5\nmissing.dat 16\n", "missing.dat"),
])  # fmt: skip
def test_a_bad_header_is_refused_with_what_is_wrong(tmp_path, header, said):
    (tmp_path / "r.hea").write_text(header)
    (tmp_path / "r.dat").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match=said):
        wfdb_arrivals(tmp_path / "r.hea", Findings())


# Tables ------------------------------------------------------------------------------------------------------------


def mapped(tmp_path, text):
    (tmp_path / "map.toml").write_text(text)
    return read_map(tmp_path / "map.toml")


def test_a_table_with_gaps_broken_cells_and_a_clock_that_goes_back(tmp_path):
    rows = ["t,p,q"]
    for number in range(100):
        time_s = number * 0.01 + (2.0 if number >= 60 else 0.0) - (650.0 if number >= 80 else 0.0) + 700.0
        cell = {10: "nan", 11: "", 12: "-", 40: "0"}.get(number, f"{13.3322 * (1 + number % 7):.4f}")
        rows.append(f"{time_s:.3f},{cell},{number}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    mapping = mapped(tmp_path, """
        [time]
        column = "t"
        [[pressure]]
        column = "p"
        unit = "kPa"
        missing = [0]
        [[flow]]
        column = "q"
        port = "inlet"
        unit = "L/min"
    """)  # fmt: skip
    findings = Findings()
    done, recording = imported(tmp_path, table_arrivals(tmp_path / "t.csv", mapping, findings), findings)
    messages = [e.message for e in recording.events]
    samples = [v for m in messages if isinstance(m, PressureSamples) for v in m.values_mmhg]
    assert len(samples) == 96
    assert samples[0] == pytest.approx(100.0, rel=1e-4)
    flows = [m for m in messages if isinstance(m, FlowSample)]
    assert sorted(flow.flow_ml_s for flow in flows)[60] == pytest.approx(1000.0)
    text = " ".join(done.findings)
    assert "3 values of p are no numbers" in text
    assert "1 values of p stand for none" in text
    assert "goes back 1 times, by 649.990 s" in text
    assert "gaps, the longest 2.01 s" in text
    assert [e for e in recording.events if e.late]
    assert twin_states(recording)


def test_a_sample_is_never_moved_by_more_than_its_period(tmp_path):
    """Times that were rounded to ms (4, 5, 6 ms apart) are one rhythm; a batch breaks where that would be untrue."""
    rng = np.random.default_rng(0)
    times = np.round(np.arange(500) * 0.005 + (np.arange(500) > 300) * 0.0371 + rng.normal(0, 1e-4, 500), 3)
    np.savez(tmp_path / "t.npz", t=times, p=np.arange(500.0))
    mapping = mapped(tmp_path, '[time]\ncolumn = "t"\n[[pressure]]\ncolumn = "p"\nunit = "mmHg"\nrate = "200 Hz"\n')
    (arrivals,) = table_arrivals(tmp_path / "t.npz", mapping, Findings())
    for arrival in arrivals:
        message = arrival.message
        for place, value in enumerate(message.values_mmhg):
            stated = (message.source_time_ns - EPOCH_NS) * 1e-9 + place * message.sample_period_ns * 1e-9
            assert abs(stated - times[int(value)]) <= 0.0031


def test_a_real_tracker_table_with_zeros_for_missing_sensors(tmp_path):
    path = real("streams_ndi_em_tracker_static/NDIdata_snakeravenTest_2_2_21.csv")
    poses = "".join(f'[[pose]]\ntool = "{t}"\nposition = ["X{t}", "Y{t}", "Z{t}"]\n'
                    f'quaternion = ["qo{t}", "qx{t}", "qy{t}", "qz{t}"]\n' for t in "abcd")  # fmt: skip
    layout = '[table]\nskip_lines = 4\nbegin = "2021-02-02"\n[time]\n'
    layout += 'columns = ["Hour", "Minutes", "Seconds", "ms"]\nunit = ["h", "min", "s", "ms"]\n'
    mapping = mapped(tmp_path, layout + poses)
    findings = Findings()
    done, recording = imported(tmp_path, table_arrivals(path, mapping, findings), findings)
    # As counted by hand; the file's last line was cut off.
    for tool, zeros in {"a": 2, "b": 4, "c": 9, "d": 1}.items():
        assert findings.counts[f"poses of {tool} are all zeros, and sent as not valid"] == zeros
        poses = [e.message for e in recording.events if isinstance(e.message, ToolPose) and e.message.tool == tool]
        assert sum(not pose.valid for pose in poses) == zeros + 1
        assert all(np.linalg.norm(pose.position) > 10 for pose in poses if pose.valid)
    assert findings.counts["rows of the table are shorter than its first line"] == 1
    assert "poses of c are all zeros" in " ".join(done.findings)


def test_a_real_pressure_and_flow_of_an_aorta(tmp_path):
    folder = real("streams_pig_aortic_pressure_flow/invivo_data")
    pressure = mapped(tmp_path, '[table]\nskip_lines = 1\nbegin = "2020-12-01"\n[time]\ncolumn = "timestamp"\n'
                      'unit = "clock"\n[[pressure]]\ncolumn = "vb.va"\nunit = "mmHg"\nrate = "200 Hz"\n')  # fmt: skip
    flow = mapped(tmp_path, '[table]\nskip_lines = 1\nbegin = "2020-12-01"\n[time]\ncolumn = "timestamp"\n'
                  'unit = "clock"\n[[flow]]\ncolumn = "vb.va"\nunit = "L/min"\nport = "inlet"\n')  # fmt: skip
    findings = Findings()
    sources = table_arrivals(folder / "Ao_baseline1_AoP1.csv", pressure, findings)
    sources += table_arrivals(folder / "Ao_baseline1_AoQ1.csv", flow, findings)
    _, recording = imported(tmp_path, sources, findings)
    table = np.genfromtxt(folder / "Ao_baseline1_AoP1.csv", delimiter=",", skip_header=2)[:, 1]
    samples = [v for e in recording.events if isinstance(e.message, PressureSamples) for v in e.message.values_mmhg]
    np.testing.assert_allclose(samples, table)
    flows = [e.message.flow_ml_s for e in recording.events if isinstance(e.message, FlowSample)]
    table = np.genfromtxt(folder / "Ao_baseline1_AoQ1.csv", delimiter=",", skip_header=2)[:, 1]
    np.testing.assert_allclose(flows, table / 0.06)


OPERATING_ROOM = """
[[pressure]]
column = "Intellivue.ABP.v"
unit = "mmHg"
sensor = "abp"
time = { column = "Intellivue.ABP.t" }
[[pressure]]
column = "Intellivue.CVP.v"
unit = "mmHg"
sensor = "cvp"
time = { column = "Intellivue.CVP.t" }
[[vital]]
column = "EV1000.CO.v"
quantity = "cardiac output"
unit = "L/min"
device = "EV1000"
time = { column = "EV1000.CO.t" }
[[vital]]
column = "EV1000.CVP.v"
quantity = "cvp"
unit = "mmHg"
device = "EV1000"
time = { column = "EV1000.CVP.t" }
[[note]]
column = "EVENT.label"
time = { column = "EVENT.t" }
"""


def test_a_real_operation_of_33_minutes_plays_through_the_twin_with_its_defects_named(tmp_path):
    path = real("streams_or_multidevice_record/sample_record.npz")
    findings = Findings()
    done, recording = imported(tmp_path, table_arrivals(path, mapped(tmp_path, OPERATING_ROOM), findings), findings)
    data = np.load(path)
    messages = [e.message for e in recording.events]
    for name, column in (("abp", "Intellivue.ABP.v"), ("cvp", "Intellivue.CVP.v")):
        samples = [v for m in messages if isinstance(m, PressureSamples) and m.sensor == name for v in m.values_mmhg]
        np.testing.assert_allclose(samples, data[column][np.isfinite(data[column])])
    assert sum(isinstance(m, VitalSign) for m in messages) == len(data["EV1000.CO.v"]) + len(data["EV1000.CVP.v"])
    assert sum(isinstance(m, Note) for m in messages) == 21
    text = " ".join(done.findings)
    assert "EVENT.t goes back" in text
    assert "EV1000.CVP.v is 0 throughout" in text
    assert "pressure/abp" in text
    assert "the longest 1.6" in text
    assert all(later.index == earlier.index + 1 for earlier, later in pairwise(recording.events))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[pressure]]\ncolumn = 'p'\n", r"no \[time\]"),
        ("[time]\ncolumn = 't'\n[[pressure]]\ncolumn = 'x'\n", 'no column "x"; it has t, p'),
        ("[time]\ncolumn = 't'\nunit = 'weeks'\n[[pressure]]\ncolumn = 'p'\n", "weeks"),
        ("[time]\ncolumn = 't'\n[[pressure]]\ncolumn = 'p'\nunit = 'kg'\n", "no mmHg"),
        ("[time]\ncolumn = 't'\n", "names no series"),
        ("[time]\ncolumn = 't'\n[[pressure]]\ncolumn = 'p'\ncolour = 'red'\n", "colour"),
        ("[[pressure", "TOML"),
    ],
)
def test_a_bad_map_is_refused_with_what_is_wrong(tmp_path, text, said):
    (tmp_path / "t.csv").write_text("t,p\n0,1\n1,2\n")
    with pytest.raises(InputError, match=said):
        list(table_arrivals(tmp_path / "t.csv", mapped(tmp_path, text), Findings())[0])


def test_nothing_to_import_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("t,p\nx,1\ny,2\n")
    mapping = mapped(tmp_path, "[time]\ncolumn = 't'\n[[pressure]]\ncolumn = 'p'\nunit = 'mmHg'\n")
    findings = Findings()
    with pytest.raises(InputError, match="nothing that can be imported; 2 rows of the table have no time"):
        write_recording(
            table_arrivals(tmp_path / "t.csv", mapping, findings), findings, tmp_path / "o.mcap", origin="t"
        )
    assert not list(tmp_path.glob("*o.mcap*"))
