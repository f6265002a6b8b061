"""WFDB records, made ones and real ones with their real defects."""

import numpy as np
import pytest

from streams.errors import InputError
from streams.import_wfdb import read_header, read_signals, wfdb_arrivals
from streams.importing import Findings
from streams.messages import PressureSamples


def test_a_real_record_has_the_pressures_that_were_measured(tmp_path, real, imported):
    """Least, mean and greatest as found by PhysioNet's own reader; the header's checksums are checked on the way."""
    path = real("streams_wfdb_icu_abp/03700181.hea")
    findings = Findings()
    signals = read_signals(read_header(path), findings)
    _, rate, pressure = signals["ABP"]
    assert rate == 125.0
    assert len(pressure) == 75_000
    assert (np.nanmin(pressure), np.nanmean(pressure), np.nanmax(pressure)) == pytest.approx((17, 33, 64), abs=0.6)
    assert not findings.notes
    done, recording = imported(wfdb_arrivals(path, findings), findings)
    assert done.streams["pressure/abp"] == 3000
    assert done.duration_s == pytest.approx(600, abs=1)
    samples = [v for e in recording.events if isinstance(e.message, PressureSamples) for v in e.message.values_mmhg]
    np.testing.assert_allclose(samples, pressure)
    first = next(e.message for e in recording.events if isinstance(e.message, PressureSamples))
    assert first.source_time_ns == 776971665 * 10**9  # 1994-08-15 17:27:45


def test_a_real_record_of_two_segments_is_one(tmp_path, real, imported, twin_states):
    path = real("streams_wfdb_icu_abp/041s.hea")
    findings = Findings()
    done, recording = imported(wfdb_arrivals(path, findings), findings)
    assert done.duration_s == pytest.approx(16.0, abs=0.3)
    for name, expected in (("abp", (41, 56, 88)), ("pap", (5, 20, 33))):
        values = [v for e in recording.events if isinstance(e.message, PressureSamples)
                  and e.message.stream == f"pressure/{name}" for v in e.message.values_mmhg]  # fmt: skip
        assert len(values) == 2000
        assert (min(values), np.mean(values), max(values)) == pytest.approx(expected, abs=0.6)
    assert not findings.notes
    assert twin_states(recording)


def test_a_real_transducer_that_was_off_is_read_as_it_measured(real):
    """Format 80, -128 being no sample; the mean is below 0 mmHg: the session has to refuse it, not the reader."""
    path = real("streams_wfdb_icu_abp/3234460_0017.hea")
    _, _, pressure = read_signals(read_header(path), Findings())["ABP"]
    assert np.nanmean(pressure) == pytest.approx(-16, abs=0.6)


def test_a_record_as_flac_is_read_or_its_package_is_named(real):
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
