"""Calibration from history and identifiability, on trees whose answer is known in the frequency domain."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from streams.messages import FlowSample, PressureSamples, Trigger
from surgical_twin.assimilation.beat_model import BeatModel, Manoeuvre, Sensor, read_sensor
from surgical_twin.assimilation.calibration import SensorErrors, calibrate, physical_intervals, shifted
from surgical_twin.assimilation.flow_filter import FlowFilter
from surgical_twin.assimilation.flow_prior import FlowPrior, parameter_names
from surgical_twin.assimilation.history import History, Signal, beat_starts, mean_beat, read_history, upstrokes
from surgical_twin.assimilation.identifiability import SensorNoise, Study, varimax
from surgical_twin.errors import InputError
from surgical_twin.flow.port_model import PortModel
from surgical_twin.flow.port_state import PortParameters
from surgical_twin.flow.waveform import PeriodicWaveform

MMHG = 133.322387415
R = np.array([[2e7, 5e6], [5e6, 3e7]])
L = np.array([[4e5, 1e5], [1e5, 6e5]])
RP, RD, C = np.array([2e8, 3e8]), np.array([1.8e9, 3e9]), np.array([2e-10, 1.2e-10])
PERIOD = 0.8
K = len(parameter_names(("a", "b")))


def a_tree(inertance=1.0, outlets=2):
    """What a case gives, of a linear tree without losses."""
    names = ("a", "b")[:outlets]
    ports = PortModel(
        names, R[:outlets, :outlets], inertance * L[:outlets, :outlets], np.eye(outlets), np.zeros(outlets),
        np.zeros(outlets), np.zeros(outlets), np.zeros((0, outlets, outlets)), np.zeros(0),
    )  # fmt: skip
    beds = PortParameters(*(one[None, :outlets] for one in (RP, RD, C)), np.zeros((1, outlets)))
    waveform = PeriodicWaveform.named("peripheral", mean=9e-6, period=PERIOD)
    return SimpleNamespace(
        reduced=SimpleNamespace(
            ports=ports, port_pressure_error=np.full(outlets + 1, 20.0), port_flow_error=np.full(outlets, 1e-8)
        ),
        filter=FlowFilter(ports, waveform, beds),
        waveform=waveform,
        settings=SimpleNamespace(drop_uncertainty=0.05),
        port_names=("inlet", *names),
        port_pressure=lambda state: np.column_stack([state.inlet_pressure, state.outlet_pressure]),
        port_flow=lambda state: np.column_stack([state.inflow, state.flow]),
    )


def beat(phases, r=(1.0, 1.0), c=(1.0, 1.0), q=1.0, drop=1.0, inertance=1.0, period=PERIOD, shape=()):
    """Inlet pressure [mmHg] and flows [mL/s] over a beat by the network's impedance, harmonic by harmonic."""
    waveform = PeriodicWaveform.named("peripheral", mean=9e-6, period=PERIOD)
    count = 256
    phase = np.arange(count) / count
    inflow = waveform.spline(phase * PERIOD)
    for k, (cosine, sine) in enumerate(shape, start=1):
        inflow = inflow + 9e-6 * (cosine * np.cos(2 * np.pi * k * phase) + sine * np.sin(2 * np.pi * k * phase))
    waves = np.fft.rfft(q * inflow)
    pressure, flow = np.zeros(len(waves), complex), np.zeros((len(waves), 2), complex)
    for k, wave in enumerate(waves):
        s = 2j * np.pi * k / period
        bed = RP * r + RD * np.array(r) / (1.0 + s * RD * RP * 0 + s * RD * np.array(r) * C * np.array(c))
        tree = drop * R + s * inertance * L + np.diag(bed)
        solved = np.linalg.solve(np.block([[tree, -np.ones((2, 1))], [np.ones((1, 2)), np.zeros((1, 1))]]),
                                 np.array([0, 0, wave]))  # fmt: skip
        flow[k], pressure[k] = solved[:2], solved[2]
    wanted = np.asarray(phases) % 1.0

    def at(series):
        values = np.fft.irfft(series, count)
        return np.interp(wanted, np.arange(count + 1) / count, np.append(values, values[0]))

    return at(pressure) / MMHG, at(waves) * 1e6, np.stack([at(flow[:, i]) * 1e6 for i in (0, 1)], axis=1)


SENSORS = [Sensor("pressure", "inlet", port=0), Sensor("flow", "inlet", port=0)]


def recorded(seed, r, c, q, *, seconds=20.0, bias=0.0, noise=1.0, waves=True, drift=0.0, period=PERIOD):
    generator = np.random.default_rng(seed)
    starts = np.cumsum(np.concatenate([[0.1], period * (1.0 + 0.02 * generator.normal(size=int(seconds / period)))]))
    times = np.arange(0.0, seconds, 0.01)
    number = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, len(starts) - 2)
    phase = (times - starts[number]) / np.diff(starts)[number]
    pressure, inflow, _ = beat(phase, r, c, q)
    breath = drift * np.sin(2 * np.pi * times / 4.0)
    signals = (
        Signal("pressure", "inlet", times, pressure + bias + breath + noise * generator.normal(size=len(times))),
        Signal("flow", "inlet", times, inflow + 0.3 * generator.normal(size=len(times))),
    )
    return History(signals, starts if waves else None)


def test_the_periodic_beat_is_that_of_the_networks_impedance():
    model = BeatModel(a_tree(), PERIOD)
    shape = [(0.05, -0.03), (0.02, 0.01), (0.0, 0.01)]
    columns = np.log([[1.3, 0.7, 0.8, 1.5, 1.2, 1.1]])
    columns = np.hstack([columns, np.ravel(shape)[None]])  # three harmonics
    sensors = [*SENSORS, Sensor("flow", "b", port=2), Sensor("pressure", "a", port=1)]
    found = model.predict(columns, sensors)[0]
    phases = np.arange(1, model.phases + 1) / model.phases
    pressure, inflow, flow = beat(phases, (1.3, 0.7), (0.8, 1.5), 1.2, 1.1, shape=shape)
    assert np.abs(found[0] - pressure).max() < 0.004 * np.ptp(pressure)
    assert np.abs(found[1] - inflow).max() < 0.002 * np.ptp(inflow)
    assert np.abs(found[2] - flow[:, 1]).max() < 0.01 * np.ptp(flow[:, 1])


def test_a_slow_bed_settles_and_a_clamp_sends_the_flow_elsewhere():
    model = BeatModel(a_tree(), PERIOD)
    columns = np.zeros((2, K))
    columns[1, 2:4] = np.log(7.0)  # time constants of three beats and more
    rest = model.predict(columns, [*SENSORS, Sensor("flow", "a", port=1)])
    assert rest[0, 0].mean() == pytest.approx(rest[1, 0].mean(), rel=1e-3)
    clamped = model.predict(columns[:1], [*SENSORS, Sensor("flow", "a", port=1)], Manoeuvre("clamp b", clamped=(1,)))
    assert clamped[0, 2].mean() == pytest.approx(clamped[0, 1].mean(), rel=5e-3)


@pytest.mark.parametrize("waves", [True, False])
def test_a_history_gives_intervals_that_hold_the_truth(waves):
    """Truth by the network's impedance; the transducer is 4 mmHg off, the patient breathes."""
    tree = a_tree()
    model = BeatModel(tree, 1.0)
    truth = {"r": (1.35, 0.8), "c": (0.7, 1.25), "q": 1.15}
    history = recorded(1, **truth, bias=4.0, drift=2.0, waves=waves)
    found = calibrate(model, FlowPrior.planned(("a", "b")), history, SENSORS)
    assert found.period_s == pytest.approx(PERIOD, rel=0.02)
    logs = np.log([*truth["r"], *truth["c"], truth["q"], 1.0])
    off = (logs - found.posterior.mean[:6]) / found.posterior.deviation[:6]
    assert np.abs(off).max() < 2.5, off
    # What these sensors see well is found well: the total resistance, and the inflow to the probe's own 5 %.
    total = np.log(1.0 / np.sum(1.0 / ((RP + RD) * truth["r"])))
    draws = found.posterior.mean + np.random.default_rng(0).normal(size=(2000, K)) @ found.posterior.root.T
    seen = np.log(1.0 / np.sum(1.0 / ((RP + RD) * np.exp(draws[:, :2])), axis=1))
    assert seen.std() < 0.09
    assert abs(seen.mean() - total) < 2.2 * seen.std()
    assert found.posterior.deviation[4] < 0.07
    plan = FlowPrior.planned(("a", "b"))
    assert (found.posterior.deviation[:5] < plan.deviation[:5]).all()
    lines = physical_intervals(model, found.posterior)
    assert lines[0]["unit"] == "mmHg s/mL"
    assert lines[0]["value"][1] < (RP + RD)[0] * 1.35 / MMHG * 1e-6 < lines[0]["value"][2]
    assert [line["name"] for line in lines] == list(parameter_names(("a", "b")))


def test_intervals_are_neither_too_narrow_nor_merely_wide():
    """Over patients drawn from the prior the normalized errors are of unit size or less, never more."""
    model = BeatModel(a_tree(), 1.0)
    plan = FlowPrior.planned(("a", "b"))
    generator = np.random.default_rng(3)
    off = []
    for number in range(3):
        factors = np.exp(generator.normal(size=5) * plan.deviation[:5])
        history = recorded(number, factors[:2], factors[2:4], factors[4], bias=3.0 * generator.normal(), seconds=8.0)
        found = calibrate(model, plan, history, SENSORS, seed=number)
        off.append((np.log(factors) - found.posterior.mean[:5]) / found.posterior.deviation[:5])
    inside = np.mean(np.abs(off) < 1.96)
    assert inside >= 0.85
    assert np.std(off) > 0.3


def test_two_answers_to_one_history_are_both_kept():
    """Two beds seen from the inlet only, one of them far from the plan: much the same beat comes from the other one
    being so. The truth lies 2.6 deviations off in one parameter; no single answer's interval would hold it."""
    factors = np.array([1.65, 0.53, 1.13, 0.84, 0.93])
    history = recorded(0, factors[:2], factors[2:4], factors[4], seconds=8.0)
    found = calibrate(BeatModel(a_tree(), 1.0), FlowPrior.planned(("a", "b")), history, SENSORS)
    assert any("different sets of parameters" in note for note in found.notes)
    off = (np.log(factors) - found.posterior.mean[:5]) / found.posterior.deviation[:5]
    assert np.abs(off).max() < 3.0
    assert found.posterior.deviation[4] < 0.07  # the inflow is the same in both


def test_a_model_that_is_wrong_is_told_and_widens_the_intervals():
    model = BeatModel(a_tree(), 1.0)
    plan = FlowPrior.planned(("a", "b"))
    good = recorded(5, (1.0, 1.0), (1.0, 1.0), 1.0)
    phase = (good.signals[0].time_s - 0.1) / PERIOD
    hum = 8.0 * np.sign(np.sin(2 * np.pi * 6 * phase))
    starts = np.arange(0.1, 20.0, PERIOD)
    pressure, inflow, _ = beat(phase)
    bad = History(
        (
            Signal("pressure", "inlet", good.signals[0].time_s, pressure + hum),
            Signal("flow", "inlet", good.signals[0].time_s, inflow),
        ),
        starts,
    )
    right, wrong = (calibrate(model, plan, one, SENSORS) for one in (good, bad))
    assert wrong.sensors[0].discrepancy > 4.0 * right.sensors[0].discrepancy
    assert any("far more" in note for note in wrong.notes)
    assert wrong.posterior.deviation[2] > right.posterior.deviation[2]


def test_shifting_a_beat_is_exact_for_whole_phases():
    values = np.random.default_rng(0).normal(size=(1, 2, 40))
    np.testing.assert_allclose(shifted(values, np.array([3 / 40])), np.roll(values, -3, axis=-1), atol=1e-12)


def test_upstrokes_are_found_and_odd_beats_are_left_out():
    history = recorded(2, (1, 1), (1, 1), 1.0, waves=False, noise=2.0)
    found = upstrokes(history.signals[0].time_s, history.signals[0].values)
    starts = recorded(2, (1, 1), (1, 1), 1.0, waves=True).r_waves_s
    late = found[1:-1] - starts[np.searchsorted(starts, found[1:-1]) - 1]
    assert len(found) >= len(starts) - 3
    assert np.std(late) < 0.03
    broken = history.signals[0].values.copy()
    flushed = (history.signals[0].time_s > 6.0) & (history.signals[0].time_s < 7.0)
    broken[flushed] = 300.0
    signal = Signal("pressure", "inlet", history.signals[0].time_s, broken)
    made = mean_beat(signal, starts, 40)
    assert made.left_out >= 2
    clean = mean_beat(history.signals[0], starts, 40)
    assert np.abs(made.values - clean.values).max() < 2.0
    # A gap is no beat.
    gap = Signal("pressure", "inlet", signal.time_s[~flushed], history.signals[0].values[~flushed])
    assert mean_beat(gap, starts, 40).left_out >= 2


def test_noise_without_a_beat_is_refused():
    generator = np.random.default_rng(0)
    times = np.arange(0, 10, 0.01)
    with pytest.raises(InputError, match="no regular heart beat"):
        upstrokes(times, generator.normal(size=len(times)))
    with pytest.raises(InputError, match="fewer than 3 beats"):
        upstrokes(times[:30], times[:30])


def test_a_table_is_read_with_its_units_and_places(tmp_path):
    path = tmp_path / "history.csv"
    rows = [["time_s", "pressure_kPa", "flow@a_l_min", "remark", "r_wave"]]
    rows += [[f"{0.1 * k}", "10" if k != 3 else "", "0.6", "x", int(k % 8 == 0)] for k in range(80)]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    found = read_history(path, {"pressure_kPa": "b"})
    pressure, flow = found.signals
    assert (pressure.place, flow.place) == ("b", "a")
    assert pressure.values[0] == pytest.approx(75.006, abs=0.01)
    assert len(pressure.values) == 79
    assert flow.values[0] == pytest.approx(10.0)
    np.testing.assert_allclose(beat_starts(found), np.arange(0, 8, 0.8), atol=1e-9)
    for text, word in (("a,b\n1,2\n", "time_s"), ("time_s,pressure_psi\n1,2\n", "psi"), ("time_s,x\n1,2\n", "needs"),
                       ("time_s,pressure_mmhg\n1,high\n", "no number")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            read_history(path, {})
    with pytest.raises(InputError, match="no file"):
        read_history(tmp_path / "none.csv", {})
    path = tmp_path / "broken.mcap"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="neither"):
        read_history(path, {})


def test_a_recording_gives_the_arterial_line_flow_and_r_waves(monkeypatch, tmp_path):
    base = 1_700_000_000_000_000_000
    events = []
    for k in range(20):
        head = {"stream": "s", "sequence": k, "source_time_ns": base + k * 400_000_000}
        events += [
            PressureSamples(**head, sensor="art", tool=None, sample_period_ns=4_000_000, values_mmhg=(80.0, 81.0)),
            PressureSamples(**head, sensor="tip", tool="cath", sample_period_ns=4_000_000, values_mmhg=(1.0,)),
            FlowSample(**head, sensor="probe", port="a", flow_ml_s=5.0, deviation_ml_s=0.4),
            Trigger(**head, kind="r_wave"),
        ]
    import surgical_twin.assimilation.history as module

    recording = SimpleNamespace(events=[SimpleNamespace(message=one) for one in events])
    monkeypatch.setattr(module, "read_recording", lambda path: recording)
    path = tmp_path / "some.mcap"
    path.write_bytes(b"")
    found = read_history(path, {"art": "b"})
    assert [(one.quantity, one.place, len(one.values)) for one in found.signals] == [
        ("pressure", "b", 40),
        ("flow", "a", 20),
    ]
    assert found.signals[0].time_s[1] == pytest.approx(0.004)
    assert found.signals[1].deviation == pytest.approx(0.4)
    assert np.diff(found.r_waves_s) == pytest.approx(0.4)


def test_what_cannot_be_told_apart_is_what_scales_alike():
    """Without inertance the inlet's pressure stays the same when the inflow rises by a factor while all resistances and
    the drop fall by it and the compliances rise: the sensors' information of that direction is nil."""
    study = Study(BeatModel(a_tree(inertance=1e-4), PERIOD), FlowPrior.planned(("a", "b")))
    told = study.information(SENSORS[:1])
    direction = np.array([-1, -1, 1, 1, 1, -1, *[0] * (K - 6)], dtype=float)
    other = np.array([1, 1, 1, 1, 1, 1, *[0] * (K - 6)], dtype=float)
    assert direction @ told.fisher @ direction < 1e-5 * (other @ told.fisher @ other)
    least = told.directions()[0]
    assert least.kept > 0.99
    with_flow = study.information(SENSORS)
    assert direction @ with_flow.fisher @ direction > 100.0
    assert with_flow.gain > told.gain + 1.0
    assert (with_flow.deviation <= told.deviation + 1e-9).all()


def test_two_beds_at_one_pressure_are_told_apart_by_a_clamp_or_a_probe():
    """Only the sum of two beds is seen from the inlet; flow at one of them, or the other one clamped, tells both."""
    study = Study(BeatModel(a_tree(), PERIOD), FlowPrior.planned(("a", "b")))
    told = study.information(SENSORS)
    open_ones = [one for one in told.directions() if one.kept > 0.85]
    assert any("resistance a" in one.sentence and "resistance b" in one.sentence for one in open_ones)
    positions = [Sensor("flow", "a", port=1), Sensor("pressure", "a", port=1)]
    manoeuvres = [Manoeuvre("clamp b", clamped=(1,)), Manoeuvre("faster", 1.25)]
    advice = study.advise(SENSORS, positions, manoeuvres)
    by_name = {one.what: one for one in advice}
    assert advice[0].what in ("flow at a", "clamp b")
    assert by_name["clamp b"].gain > by_name["faster"].gain
    assert by_name["flow at a"].deviation[0] < 0.6 * told.deviation[0]
    assert all(one.gain > -1e-6 for one in advice)


def test_fisher_information_is_the_curvature_of_the_profile():
    study = Study(BeatModel(a_tree(), PERIOD), FlowPrior.planned(("a", "b")), SensorNoise(), SensorErrors())
    sensors = [*SENSORS, Sensor("flow", "a", port=1)]
    told = study.information(sensors)
    found = study.profile(sensors, "compliance a")
    without = np.diag(1.0 / study.prior.deviation**2)
    without[2, 2] = 0.0  # the profile holds no prior of its own parameter
    variance = np.linalg.inv(told.fisher + without)[2, 2]
    steps = np.log(found.values)
    near = (np.abs(steps) > 0) & (found.rise < 12.0) & (np.abs(steps) < 0.4)
    np.testing.assert_allclose(found.rise[near], steps[near] ** 2 / variance, rtol=0.25)
    low, high = found.interval
    assert np.log(high / low) == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.2)
    with pytest.raises(InputError, match="no parameter"):
        study.profile(sensors, "viscosity")


def test_varimax_finds_the_simple_directions_again():
    simple = np.zeros((6, 2))
    simple[:2, 0], simple[3:5, 1] = (0.8, 0.6), (0.6, -0.8)
    mixed = simple @ np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    found = np.abs(mixed @ varimax(mixed))
    np.testing.assert_allclose(np.sort(found, axis=None), np.sort(np.abs(simple), axis=None), atol=1e-3)


def test_a_sensor_is_read_or_refused():
    tree = a_tree()
    assert read_sensor("Flow@b", tree, None).port == 2
    assert read_sensor("pressure@inlet", tree, None).label == "pressure at inlet"
    for text, word in (("pressure", "PLACE"), ("speed@a", "no sensor"), ("flow@branch_0", "at a port"),
                       ("pressure@c", "there is no")):  # fmt: skip
        with pytest.raises(InputError, match=word):
            read_sensor(text, tree, None)


def test_a_prior_is_kept_and_belongs_to_its_plan(tmp_path):
    flow = {"windkessels": {}, "waveform": "aorta", "mean_flow_m3_s": 1e-5, "period_s": 0.8}
    case = SimpleNamespace(path=lambda name: tmp_path / name, manifest={"flow": flow})
    plan = FlowPrior.of_case(case, ("a", "b"))
    np.testing.assert_array_equal(plan.mean, 0.0)
    stored = {
        "format": 1, "outlets": ["a", "b"], "plan": flow,
        "prior": {"mean": [0.1] * K, "covariance": (0.01 * np.eye(K)).tolist()},
    }  # fmt: skip
    (tmp_path / "calibration.json").write_text(json.dumps(stored))
    found = FlowPrior.of_case(case, ("a", "b"))
    np.testing.assert_allclose(found.root @ found.root.T, found.covariance)
    assert found.deviation == pytest.approx(0.1)
    fewer, more = found.with_harmonics(2), found.with_harmonics(7, 0.03)
    np.testing.assert_allclose(fewer.mean, found.mean[:10])
    assert len(more.mean) == 6 + 14
    assert more.deviation[-1] == pytest.approx(0.03)
    assert more.names[-1] == "inflow shape sin7"
    flow["mean_flow_m3_s"] = 2e-5
    with pytest.raises(InputError, match="another plan"):
        FlowPrior.of_case(case, ("a", "b"))
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(InputError, match="cannot be used"):
        FlowPrior.of_case(case, ("a", "b"))
