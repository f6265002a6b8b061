"""Vasoactive drugs: from a dose to a concentration to a factor on vascular resistance.

One compartment, first-order elimination:   dC/dt = rate / V - (CL / V) C,   C(0) = bolus / V
Sigmoid effect (Hill):                      factor = 1 + E_max C^n / (EC50^n + C^n)

Rowland & Tozer, Clinical Pharmacokinetics and Pharmacodynamics. The constants are in ``drugs.toml``, each with where it
comes from; the user's own file replaces or adds drugs. People differ much in how strongly they answer: EC50 is drawn
for each member of an ensemble, log-normally with the drug's spread.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgical_twin.errors import InputError
from surgical_twin.units import read_quantity

Array = NDArray[np.float64]


class Drug(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One drug; quantities as people write them."""

    volume: str
    """Volume of distribution, such as "15 L"."""
    clearance: str
    """Such as "2.1 L/min"."""
    largest_effect: float
    """E_max: largest relative change of resistance; negative for a dilator, more than -1."""
    half_effect: str
    """EC50, such as "8 ug/L"."""
    hill: float
    spread: float
    """Standard deviation of the logarithm of EC50 over people."""
    kinetics_from: str
    """Where volume and clearance come from."""
    effect_from: str
    """Where the effect's constants come from."""


class Dose(msgspec.Struct, frozen=True):
    """A bolus [kg] and an infusion [kg/s] from time 0 on; either may be 0."""

    bolus: float = 0.0
    rate: float = 0.0


def read_drugs(path: Path | None = None) -> dict[str, Drug]:
    """The known drugs by name, those of ``path`` (TOML, one table a drug) before those that come with the twin.

    Raises:
        InputError: the file cannot be read, or a constant in it cannot be used.
    """
    own = resources.files("surgical_twin.prediction").joinpath("drugs.toml").read_text(encoding="utf-8")
    drugs = _parse(own, "drugs.toml")
    if path is not None:
        try:
            drugs |= _parse(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    return drugs


def _parse(text: str, name: str) -> dict[str, Drug]:
    try:
        drugs = msgspec.convert(tomllib.loads(text), dict[str, Drug])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{name} has no drug that can be used: {error}; mend it.") from error
    for drug, constants in drugs.items():
        Kinetics.of(constants, f"{name}: {drug}")
    return drugs


class Kinetics(msgspec.Struct, frozen=True):
    """A drug's constants in SI units."""

    volume: float
    """m^3"""
    clearance: float
    """m^3/s"""
    largest_effect: float
    half_effect: float
    """kg/m^3"""
    hill: float
    spread: float

    @classmethod
    def of(cls, drug: Drug, name: str) -> Kinetics:
        """Read a drug's quantities.

        Raises:
            InputError: one cannot be read, or is out of what a drug can have.
        """
        made = cls(
            volume=read_quantity(drug.volume, "m^3", name=f"{name}.volume"),
            clearance=read_quantity(drug.clearance, "m^3/s", name=f"{name}.clearance"),
            largest_effect=drug.largest_effect,
            half_effect=read_quantity(drug.half_effect, "kg/m^3", name=f"{name}.half_effect"),
            hill=drug.hill,
            spread=drug.spread,
        )
        positive = (made.volume, made.clearance, made.half_effect, made.hill)
        if min(positive) <= 0 or made.largest_effect <= -1 or made.spread < 0:
            raise InputError(
                f"{name}: volume, clearance, half_effect and hill must be positive, largest_effect more than -1 and "
                "spread not negative."
            )
        return made

    def concentration(self, dose: Dose, time_s: ArrayLike) -> Array:
        """kg/m^3 at times [s] since the bolus and the start of the infusion; 0 before."""
        time = np.asarray(time_s, dtype=float)
        rate = self.clearance / self.volume
        decay = np.exp(-rate * np.maximum(time, 0.0))
        level = dose.bolus / self.volume * decay + dose.rate / self.clearance * (1.0 - decay)
        return np.asarray(np.where(time < 0.0, 0.0, level))

    def resistance_factor(self, concentration: ArrayLike, sensitivity: ArrayLike = 1.0) -> Array:
        """By how much vascular resistance changes; ``sensitivity`` divides EC50."""
        relative = (np.asarray(concentration, dtype=float) * np.asarray(sensitivity) / self.half_effect) ** self.hill
        return np.asarray(1.0 + self.largest_effect * relative / (1.0 + relative))


def read_dose(text: str, name: str) -> Dose:
    """Read "100 ug" (bolus), "7 ug/min" (infusion) or both joined by "+".

    Raises:
        InputError: it is neither, or negative.
    """
    bolus = rate = 0.0
    for part in text.split("+"):
        value = part.strip()
        try:
            bolus += read_quantity(value, "kg", name=name)
        except InputError:
            try:
                rate += read_quantity(value, "kg/s", name=name)
            except InputError:
                raise InputError(
                    f'{name} "{text}" is no dose; write a mass ("100 ug"), a rate ("7 ug/min") or both with a plus '
                    "between."
                ) from None
    if bolus < 0 or rate < 0 or bolus + rate == 0:
        raise InputError(f'{name} "{text}" is no dose; it must be positive.')
    return Dose(bolus, rate)
