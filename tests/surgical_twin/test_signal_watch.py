"""Transducers that measure no artery, on real recordings and on made ones."""

from pathlib import Path

import numpy as np
import pytest

from streams.import_wfdb import read_header, read_signals
from streams.importing import Findings
from surgical_twin.assimilation.signal_watch import SignalWatch

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RATE = 125.0


def conditions(values, period_s=1 / RATE, batch=5):
    """The condition after each batch of samples; batches with missing samples are not sent."""
    watch, said = SignalWatch(), []
    for begin in range(0, len(values) - batch + 1, batch):
        samples = values[begin : begin + batch]
        if np.isfinite(samples).all():
            watch = watch.see(round(begin * period_s * 1e9), round(period_s * 1e9), tuple(samples.tolist()))
            said.append(watch.condition)
    return np.array(said)


def arterial(record):
    folder = DATA / "streams_wfdb_icu_abp"
    if not folder.is_dir():
        pytest.skip("the real recordings streams_wfdb_icu_abp are not there")
    signals = read_signals(read_header(folder / f"{record}.hea"), Findings())
    return next(values for signal, _, values in signals.values() if signal.name == "ABP")


@pytest.mark.parametrize("record", ["3234460_0017", "3975656_0012"])
def test_disconnected_transducers_of_an_intensive_care_unit_are_named(record):
    said = conditions(arterial(record))
    assert (said == "disconnected").mean() > 0.9
    assert (said[25:] != "").mean() > 0.95


@pytest.mark.parametrize("record", ["03700181", "041s01"])
def test_arteries_of_an_intensive_care_unit_are_arteries(record):
    assert (conditions(arterial(record)) == "").all()


def operating_room(name):
    path = DATA / "streams_or_multidevice_record" / "sample_record.npz"
    if not path.is_file():
        pytest.skip("the real recording streams_or_multidevice_record is not there")
    return np.load(path)[f"Intellivue.{name}.v"].astype(float)


def test_half_an_hour_in_the_operating_room_raises_no_false_alarm():
    said = conditions(operating_room("ABP"))
    assert len(said) * 5 / RATE > 1900
    assert (said == "").all()


def test_a_transducer_left_open_then_flushed_and_zeroed_is_named_as_such():
    """The venous line of that record: it lies open at -40 mmHg for ten minutes, is flushed, and later zeroed."""
    said = conditions(operating_room("CVP"))
    times = np.arange(len(said)) * 5 / RATE
    open_to_nothing = said[(times > 2) & (times < 550)]
    assert (open_to_nothing != "").all()
    assert (open_to_nothing == "disconnected").mean() > 0.9
    assert "flushing" in said[(times > 600) & (times < 640)]
    assert (said[times > 1720] == "zeroing").mean() > 0.95


def pulse(seconds=4.0, mean=90.0, swing=20.0, noise=2.0, rate=250.0):
    times = np.arange(round(seconds * rate)) / rate
    return mean + swing * np.sin(2 * np.pi * 1.2 * times) + np.random.default_rng(0).normal(0, noise, len(times))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (pulse(), ""),
        (pulse(mean=300.0, swing=1.0), "flushing"),
        (pulse(mean=0.5, swing=0.0), "zeroing"),
        (np.full(1000, 87.0), "stuck"),
        (pulse(mean=-60.0), "unzeroed"),
        (pulse(mean=-60.0, swing=0.0), "disconnected"),
    ],
)
def test_what_a_person_at_the_bedside_would_call_it(values, named):
    assert conditions(values, 1 / 250)[-1] == named
