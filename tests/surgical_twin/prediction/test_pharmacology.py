"""Drugs: kinetics against an integrated equation, effects against their definition, and the file that a user writes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from surgical_twin.errors import InputError
from surgical_twin.prediction.pharmacology import Dose, Kinetics, read_dose, read_drugs


def kinetics(name="phenylephrine"):
    return Kinetics.of(read_drugs()[name], name)


@pytest.mark.parametrize("dose", [Dose(1e-7, 0.0), Dose(0.0, 1e-9), Dose(5e-8, 2e-9)])
def test_concentration_solves_the_compartments_equation(dose):
    drug = kinetics()
    rate = drug.clearance / drug.volume
    times = np.linspace(0.0, 1200.0, 25)
    solved = solve_ivp(
        lambda _, level: dose.rate / drug.volume - rate * level,
        (0.0, times[-1]),
        [dose.bolus / drug.volume],
        t_eval=times,
        rtol=1e-10,
        atol=1e-20,
    ).y[0]
    np.testing.assert_allclose(drug.concentration(dose, times), solved, rtol=1e-7)
    assert drug.concentration(dose, -1.0) == 0.0


def test_phenylephrine_halves_in_five_minutes_as_its_label_says():
    drug = kinetics()
    levels = drug.concentration(Dose(1e-7, 0.0), [0.0, 300.0])
    assert levels[1] / levels[0] == pytest.approx(0.5, abs=0.02)


@given(st.sampled_from(sorted(read_drugs())), st.floats(0.0, 1e-3), st.floats(0.1, 10.0))
def test_resistance_never_falls_to_zero_and_grows_with_the_effect(name, level, sensitivity):
    drug = kinetics(name)
    factor = float(drug.resistance_factor(level, sensitivity))
    low, high = sorted((1.0, 1.0 + drug.largest_effect))
    assert low - 1e-12 <= factor <= high + 1e-12
    assert factor > 0.0


def test_half_the_effect_is_reached_at_ec50():
    drug = kinetics("norepinephrine")
    assert float(drug.resistance_factor(drug.half_effect)) == pytest.approx(1.0 + 0.5 * drug.largest_effect)


def test_doses_are_read_with_their_units():
    assert read_dose("100 ug", "drug") == Dose(bolus=pytest.approx(1e-7))
    assert read_dose("6 ug/min", "drug").rate == pytest.approx(1e-10)
    both = read_dose("50 ug + 3 ug/min", "drug")
    assert (both.bolus, both.rate) == (pytest.approx(5e-8), pytest.approx(5e-11))
    for wrong in ("", "100", "5 mL", "-3 ug", "0 ug"):
        with pytest.raises(InputError):
            read_dose(wrong, "drug")


def test_a_users_file_replaces_a_drug_and_says_what_is_wrong_with_it(tmp_path):
    own = tmp_path / "own.toml"
    text = (
        '[phenylephrine]\nvolume = "20 L"\nclearance = "2 L/min"\nlargest_effect = 1.0\nhalf_effect = "30 ug/L"\n'
        'hill = 1.0\nspread = 0.2\nkinetics_from = "own"\neffect_from = "own"\n'
    )
    own.write_text(text)
    drugs = read_drugs(own)
    assert drugs["phenylephrine"].volume == "20 L"
    assert "norepinephrine" in drugs
    own.write_text(text.replace('"20 L"', '"20 kg"'))
    with pytest.raises(InputError, match="volume"):
        read_drugs(own)
    own.write_text(text.replace("spread", "sprawl"))
    with pytest.raises(InputError, match="sprawl"):
        read_drugs(own)
