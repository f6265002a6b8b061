"""Interventions as a person writes them: "outlet_1=70%", "+20%", "phenylephrine=100 ug@60 s"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from surgical_twin.errors import InputError
from surgical_twin.prediction.interventions import (
    BloodLoss,
    Clamp,
    Device,
    DrugGiven,
    HeartRate,
    Inflow,
    Intervention,
    Resistance,
    Situation,
    Stent,
)
from surgical_twin.prediction.pharmacology import Drug, read_dose
from surgical_twin.units import read_quantity

METRES_PER_FRENCH = 1e-3 / 3.0


def read_change(text: str, name: str) -> float:
    """Read "+20%", "-15 %" or "x1.3" as a factor.

    Raises:
        InputError: it is none of these, or leaves nothing.
    """
    value = text.replace(" ", "")
    try:
        if value.endswith("%"):
            factor = 1.0 + float(value[:-1]) / 100.0
        elif value[:1] in "xX×" and value[1:]:
            factor = float(value[1:])
        else:
            raise ValueError(text)
    except ValueError as error:
        raise InputError(f'{name} "{text}" is no change; write "+20%", "-15%" or "x1.3".') from error
    if not (np.isfinite(factor) and 0.05 <= factor <= 20.0):
        raise InputError(f'{name} "{text}" is a factor of {factor:g}; the model knows factors of 0.05 to 20.')
    return factor


def read_share(text: str, name: str) -> float:
    """Read "70%" as 0.7.

    Raises:
        InputError: it is no share between 0 and 100 %.
    """
    try:
        share = float(text.strip().removesuffix("%")) / 100.0
    except ValueError as error:
        raise InputError(f'{name} "{text}" is no share; write "70%".') from error
    if not 0.0 <= share <= 1.0:
        raise InputError(f'{name} "{text}" lies outside of 0 to 100 %.')
    return share


def _named(text: str) -> tuple[str, str | None]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip() or None


def _read_stretch(place: str, text: str) -> tuple[float, float]:
    """Read "10-40 mm" as metres from the beginning of a branch.

    Raises:
        InputError: it is none, or ends before it begins.
    """
    first, separator, second = place.replace("mm", "").partition("-")
    try:
        start, end = float(first) * 1e-3, float(second) * 1e-3
    except ValueError:
        separator = ""
    if not separator or not 0.0 <= start < end < 10.0:
        raise InputError(
            f'--device "{text}": "{place.strip()}" is no stretch of a vessel; write where it begins and ends in mm '
            "from the beginning of its branch, such as outlet_1=6F@10-40 mm."
        )
    return start, end


@dataclass(frozen=True)
class Reader:
    """Reads interventions as a person writes them, against one situation."""

    situation: Situation
    drugs: Mapping[str, Drug]
    planned_inflow: float
    """m^3/s, of the ensemble's mean"""

    def read(self, kind: str, text: str) -> Intervention:
        """One intervention.

        Args:
            kind: the option's name: clamp, stent, device, svr, resistance, inflow, heart-rate, drug or blood-loss.
            text: its value.

        Raises:
            InputError: it cannot be understood, or names what the case does not have.
        """
        match kind:
            case "clamp":
                vessel, value = _named(text)
                self.situation.fed_by(vessel)
                closed = 1.0 if value is None else read_share(value, "--clamp")
                words = f"clamp {vessel}" + ("" if closed >= 1.0 else f" to {100 * closed:.0f} % of its area")
                return Clamp(words, vessel, closed)
            case "stent":
                return self._stent(text)
            case "device":
                return self._device(text)
            case "svr":
                factor = read_change(text, "--svr")
                return Resistance(f"resistance of all beds x {factor:.2f}", factor)
            case "resistance":
                vessel, value = _named(text)
                self.situation.fed_by(vessel)
                if value is None:
                    raise InputError(f'--resistance "{text}" is not VESSEL=CHANGE, such as outlet_1=+20%.')
                factor = read_change(value, "--resistance")
                return Resistance(f"resistance behind {vessel} x {factor:.2f}", factor, (vessel,))
            case "inflow":
                return self._inflow(text)
            case "heart-rate":
                return self._heart_rate(text)
            case "drug":
                return self._drug(text)
            case "blood-loss":
                volume = read_quantity(text, "m^3", name="--blood-loss")
                if volume <= 0:
                    raise InputError(f'--blood-loss "{text}" must be positive.')
                return BloodLoss(f"blood loss of {1e6 * volume:.0f} mL", volume)
        raise InputError(
            f'There is no intervention "{kind}"; there are clamp, stent, device, svr, resistance, inflow, heart-rate, '
            "drug and blood-loss."
        )

    def _stent(self, text: str) -> Intervention:
        name, value = _named(text)
        lesions = self.situation.anatomy.lesions
        known = [f"stenosis_{number + 1}" for number in range(len(lesions))]
        if name not in known:
            have = ", ".join(known) if known else "none"
            raise InputError(f'--stent "{text}": the case has no {name}; its stenoses are: {have} (see stenoses.csv).')
        index = known.index(name)
        residual = 0.0 if value is None else read_share(value, "--stent")
        lesions[index].dilated(residual)
        left = "" if residual == 0.0 else f", {100 * residual:.0f} % left"
        return Stent(f"stent {name}{left}", index, residual)

    def _device(self, text: str) -> Intervention:
        vessel, value = _named(text)
        self.situation.fed_by(vessel)
        if value is None:
            raise InputError(f'--device "{text}" is not VESSEL=DIAMETER, such as outlet_1=6F or outlet_1=2 mm.')
        size, _, place = value.partition("@")
        size = size.strip()
        if size.upper().endswith("F") and size[:-1].replace(".", "", 1).isdigit():
            diameter = float(size[:-1]) * METRES_PER_FRENCH
        else:
            diameter = read_quantity(size, "m", name="--device")
        if diameter <= 0:
            raise InputError(f'--device "{text}" must have a positive diameter.')
        words = f"device of {1e3 * diameter:.2f} mm in {vessel}"
        if not place:
            return Device(words, vessel, diameter)
        stretch = _read_stretch(place, text)
        return Device(f"{words} from {1e3 * stretch[0]:g} to {1e3 * stretch[1]:g} mm", vessel, diameter, stretch)

    def _inflow(self, text: str) -> Intervention:
        if text.replace(" ", "")[-1:] == "%" or text[:1] in "xX×":
            factor = read_change(text, "--inflow")
        else:
            factor = read_quantity(text, "m^3/s", name="--inflow") / self.planned_inflow
            if not 0.05 <= factor <= 20.0:
                raise InputError(f'--inflow "{text}" is {factor:g} times the present one; the model knows 0.05 to 20.')
        return Inflow(f"inflow x {factor:.2f}", factor)

    def _heart_rate(self, text: str) -> Intervention:
        present = 1.0 / self.situation.circulation.waveform.period
        if text.replace(" ", "")[-1:] == "%" or text[:1] in "xX×":
            factor = read_change(text, "--heart-rate")
        else:
            factor = read_quantity(text, "1/s", name="--heart-rate") / present
        rate = 60.0 * present * factor
        if not 20.0 <= rate <= 250.0:
            raise InputError(f'--heart-rate "{text}" is {rate:.0f} beats a minute; hearts beat 20 to 250 times.')
        return HeartRate(f"heart rate {rate:.0f}/min", factor)

    def _drug(self, text: str) -> Intervention:
        name, value = _named(text)
        if name not in self.drugs:
            raise InputError(f'--drug "{text}": there is no {name}; known are {", ".join(sorted(self.drugs))}.')
        if value is None:
            raise InputError(f'--drug "{text}" is not NAME=DOSE or NAME=DOSE@TIME, such as phenylephrine=100 ug@60 s.')
        dose, _, when = value.partition("@")
        read_dose(dose, f"--drug {name}")
        after = read_quantity(when, "s", name="--drug time") if when else 60.0
        return DrugGiven(f"{name} {dose.strip()}, {after:.0f} s after", name, self.drugs[name], dose, after)
