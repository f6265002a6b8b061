"""Tables by a column map, made ones and real ones with their real defects."""

from itertools import pairwise

import numpy as np
import pytest

from streams.column_map import read_map
from streams.errors import InputError
from streams.import_table import table_arrivals
from streams.importing import EPOCH_NS, Findings, write_recording
from streams.messages import FlowSample, Note, PressureSamples, ToolPose, VitalSign


def mapped(tmp_path, text):
    (tmp_path / "map.toml").write_text(text)
    return read_map(tmp_path / "map.toml")


def test_a_table_with_gaps_broken_cells_and_a_clock_that_goes_back(tmp_path, imported, twin_states):
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
    done, recording = imported(table_arrivals(tmp_path / "t.csv", mapping, findings), findings)
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


def test_a_real_tracker_table_with_zeros_for_missing_sensors(tmp_path, real, imported):
    path = real("streams_ndi_em_tracker_static/NDIdata_snakeravenTest_2_2_21.csv")
    poses = "".join(f'[[pose]]\ntool = "{t}"\nposition = ["X{t}", "Y{t}", "Z{t}"]\n'
                    f'quaternion = ["qo{t}", "qx{t}", "qy{t}", "qz{t}"]\n' for t in "abcd")  # fmt: skip
    layout = '[table]\nskip_lines = 4\nbegin = "2021-02-02"\n[time]\n'
    layout += 'columns = ["Hour", "Minutes", "Seconds", "ms"]\nunit = ["h", "min", "s", "ms"]\n'
    mapping = mapped(tmp_path, layout + poses)
    findings = Findings()
    done, recording = imported(table_arrivals(path, mapping, findings), findings)
    # As counted by hand; the file's last line was cut off.
    for tool, zeros in {"a": 2, "b": 4, "c": 9, "d": 1}.items():
        assert findings.counts[f"poses of {tool} are all zeros, and sent as not valid"] == zeros
        poses = [e.message for e in recording.events if isinstance(e.message, ToolPose) and e.message.tool == tool]
        assert sum(not pose.valid for pose in poses) == zeros + 1
        assert all(np.linalg.norm(pose.position) > 10 for pose in poses if pose.valid)
    assert findings.counts["rows of the table are shorter than its first line"] == 1
    assert "poses of c are all zeros" in " ".join(done.findings)


def test_a_real_pressure_and_flow_of_an_aorta(tmp_path, real, imported):
    folder = real("streams_pig_aortic_pressure_flow/invivo_data")
    pressure = mapped(tmp_path, '[table]\nskip_lines = 1\nbegin = "2020-12-01"\n[time]\ncolumn = "timestamp"\n'
                      'unit = "clock"\n[[pressure]]\ncolumn = "vb.va"\nunit = "mmHg"\nrate = "200 Hz"\n')  # fmt: skip
    flow = mapped(tmp_path, '[table]\nskip_lines = 1\nbegin = "2020-12-01"\n[time]\ncolumn = "timestamp"\n'
                  'unit = "clock"\n[[flow]]\ncolumn = "vb.va"\nunit = "L/min"\nport = "inlet"\n')  # fmt: skip
    findings = Findings()
    sources = table_arrivals(folder / "Ao_baseline1_AoP1.csv", pressure, findings)
    sources += table_arrivals(folder / "Ao_baseline1_AoQ1.csv", flow, findings)
    _, recording = imported(sources, findings)
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


def test_a_real_operation_of_33_minutes_plays_through_the_twin_with_its_defects_named(tmp_path, real, imported):
    path = real("streams_or_multidevice_record/sample_record.npz")
    findings = Findings()
    done, recording = imported(table_arrivals(path, mapped(tmp_path, OPERATING_ROOM), findings), findings)
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
