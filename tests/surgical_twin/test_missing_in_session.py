"""A session whose pressure sensor loses readings because of their values, on the made patient."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streams.messages import FlowSample, PressureSamples
from surgical_twin.assimilation.missing import Missingness
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.missing_settings import read_missingness

_SPEC = importlib.util.spec_from_file_location("made_patient_missing", Path(__file__).with_name("made_patient.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
model, truth = made.model, made.truth
LIMIT = 96.0
NOISE = 20.0


def lossy(truth, *, seed):
    """A noisy sensor of which nine in ten readings above the limit never come, and no flow probe."""
    generator = np.random.default_rng(seed)
    kept = []
    for one in made.procedure(truth, seconds=12.0, noise=NOISE, seed=seed):
        message = one.message
        if isinstance(message, FlowSample):
            continue
        if isinstance(message, PressureSamples):
            gone = generator.random() < (0.9 if np.mean(message.values_mmhg) > LIMIT else 0.05)
            if gone and message.sequence:
                continue
        kept.append(one)
    return kept


def mean_pressure_off(model, truth, missing):
    """Mean over procedures of the inlet's pressure over the last beats, estimated minus true, and its spread."""
    settings = replace(model.settings, missing=missing, pressure_noise_mmhg=NOISE)
    off, inside = [], []
    for seed in range(4):
        final, states = made.fold(replace(model, settings=settings), lossy(truth, seed=seed))
        last = [state for state in states if state.model_time_ns > made.at(8.0)]
        differences = [
            state.port_pressure_mmhg["inlet"].value - truth((state.model_time_ns - made.EPOCH) * 1e-9) for state in last
        ]
        off.append(np.mean(differences))
        inside += [
            state.port_pressure_mmhg["inlet"].lower
            <= truth((state.model_time_ns - made.EPOCH) * 1e-9)
            <= state.port_pressure_mmhg["inlet"].upper
            for state in last
        ]
    return float(np.mean(off)), float(np.mean(inside)), final


def test_the_bias_of_ignoring_why_readings_are_missing_and_that_modelling_it_has_none(model, truth):
    ignored, _, final = mean_pressure_off(model, truth, {})
    assert "missing_used" not in final.counters
    modelled, inside, final = mean_pressure_off(model, truth, {"s": Missingness(highest=LIMIT, beyond=0.9, usual=0.05)})
    assert final.counters["missing_used"] > 100
    assert ignored < -2.0
    assert abs(modelled) < 0.4 * abs(ignored)
    assert inside >= 0.9


def test_a_line_that_was_cut_says_nothing_of_the_pressure(model, truth):
    events = [
        one
        for one in made.procedure(truth, seconds=8.0)
        if not (isinstance(one.message, PressureSamples) and made.at(4.0) < one.message.source_time_ns < made.at(6.0))
    ]
    settings = replace(model.settings, missing={"s": Missingness(highest=95.0)})
    final, _ = made.fold(replace(model, settings=settings), events)
    plain, _ = made.fold(model, events)
    assert "missing_used" not in final.counters
    np.testing.assert_array_equal(final.ensemble.log_factors, plain.ensemble.log_factors)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"above": "180 mmHg", "share": 1.4}, "no share"),
        ({"share": 0.5}, "no limit"),
        ({"above": "80 mmHg", "below": "120 mmHg"}, "not less"),
        ({"above": "80"}, "mmHg"),
        ({"over": "80 mmHg"}, "over"),
    ],
)
def test_bad_settings_are_refused_with_their_place(tmp_path, table, words):
    case = Case.create(tmp_path / "case")
    case.manifest["missing"] = {"line": table}
    with pytest.raises(InputError, match=words) as caught:
        read_missingness(case)
    assert "missing.line" in str(caught.value)


def test_settings_are_read(tmp_path):
    case = Case.create(tmp_path / "case")
    assert read_missingness(case) == {}
    case.manifest["missing"] = {"line": {"above": "24 kPa", "share": 0.9}}
    found = read_missingness(case)["line"]
    assert found.highest == pytest.approx(180.0, abs=0.1)
    assert (found.beyond, found.usual) == (0.9, 0.05)
