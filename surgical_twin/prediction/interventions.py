"""What can be done to a circulation, as a person says it, and what it does to the reduced model.

Each intervention turns one `Situation` (circulation and anatomy) into another. What it changes of the patient's own
geometry is taken from Young & Tsai's stenosis, Poiseuille's tube and the annulus around a device (`anatomy_model`); the
trained model keeps everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.anatomy_model import (
    AnatomyModel,
    Element,
    Lesion,
    annulus_factor,
    stenosis_element,
    tube_element,
)
from surgical_twin.flow.port_model import PortModel
from surgical_twin.prediction.circulation import Circulation
from surgical_twin.prediction.pharmacology import Drug, Kinetics, read_dose

Array = NDArray[np.float64]

CLOSED = 1e5
"""A clamp multiplies the resistance to its bed by this much: what still flows is less than a rounding error to show."""

CLAMP_LENGTH = 5e-3
"""m of vessel that a clamp presses together"""

STENOSIS_SPREAD = 0.2
"""Relative uncertainty of a stenosis' drop by formula: Young & Tsai's own experiments lie within some 20 % of it."""

STRESSED_SHARE = 0.28
"""Of the blood volume, what stretches the vessels and drives venous return (Gelman, Anesthesiology 108 (2008) 735)."""

BLOOD_VOLUME = 5.0e-3
"""m^3, of an adult of 70 kg"""


@dataclass(frozen=True)
class Situation:
    """A circulation with the anatomy it flows in."""

    circulation: Circulation
    anatomy: AnatomyModel
    lesion_drop: tuple[Element, ...]
    """Per lesion: the pressure drop in the trained model from its start to where the pressure has recovered."""
    lesion_span: Array
    """(lesions,) m along the vessel over which that drop was taken"""
    split: Array
    """(N,) each outlet's share of the mean inflow, as it is now"""
    mean_inflow: float
    """m^3/s, of the ensemble's mean"""
    drop_change: dict[int, Element] = field(default_factory=dict)
    """Per lesion: what an intervention has changed of its drop."""
    drop_spread: float = 0.0
    """Relative uncertainty of what was changed of a drop."""

    @property
    def outlets(self) -> tuple[str, ...]:
        """Their names."""
        return self.circulation.model.outlets

    def fed_by(self, vessel: str) -> NDArray[np.bool_]:
        """(N,) which outlets a vessel feeds: an outlet by its name, or a branch as "branch_2".

        Raises:
            InputError: there is no such vessel.
        """
        if vessel in self.outlets:
            return np.array([name == vessel for name in self.outlets])
        count = len(self.anatomy.elements)
        if vessel.startswith("branch_") and vessel[7:].isdigit() and int(vessel[7:]) < count:
            return np.asarray(self.anatomy.feeds[int(vessel[7:])])
        branches = ", ".join(f"branch_{number}" for number in range(count))
        raise InputError(f'The case has no vessel "{vessel}"; it has {", ".join(self.outlets)} and {branches}.')

    def with_parameters(self, **changes: Array) -> Situation:
        """Other Windkessel constants."""
        parameters = replace(self.circulation.parameters, **changes)
        return replace(self, circulation=replace(self.circulation, parameters=parameters))

    def with_element(self, feeds: NDArray[np.bool_], change: Element) -> Situation:
        """One more (or less) lumped element in the way to some outlets.

        What is taken away is taken from where the trained model has it: friction from its resistance, and what that
        does not hold from its losses; losses from those that grow with the own flow, then from those that grow with
        the whole inflow, at the present split.
        """
        model = self.circulation.model
        along = feeds.astype(float)
        share = float(self.split[feeds].sum())
        resistance = _passive(model.resistance + change.resistance * np.outer(along, along))
        held = float(along @ (resistance - model.resistance) @ along) / float(along.sum()) ** 2
        # What resistance could not give, at the present mean flow.
        missing = (change.resistance - held) / (share * self.mean_inflow)
        wanted = change.loss + (missing if missing < 0.0 else 0.0)
        losses = _with_loss(model, along, wanted, share)
        made = PortModel(
            outlets=model.outlets,
            resistance=resistance,
            inertance=_definite(model.inertance + change.inertance * np.outer(along, along), model.inertance),
            memory=model.memory,
            time_constants=model.time_constants,
            **losses,
        )
        return replace(self, circulation=replace(self.circulation, model=made))


def _passive(resistance: Array) -> Array:
    """The nearest resistance that feeds no flow: less friction than none is none."""
    symmetric, skew = 0.5 * (resistance + resistance.T), 0.5 * (resistance - resistance.T)
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T + skew)


def _definite(inertance: Array, before: Array) -> Array:
    """The nearest inertance that stays a positive one."""
    values, vectors = np.linalg.eigh(0.5 * (inertance + inertance.T))
    floor = 0.02 * float(np.linalg.eigvalsh(before)[0])
    return np.asarray((vectors * np.maximum(values, floor)) @ vectors.T)


def _with_loss(model: PortModel, along: Array, change: float, share: float) -> dict[str, Array]:
    """The model's losses with ``change`` q |q| more (or less) in the way to some outlets.

    Args:
        model: of the tree.
        along: (N,) 1 for the outlets behind it.
        change: Pa / (m^3/s)^2 of the flow through it.
        share: which part of the inflow goes through it.
    """
    losses = {"segments": model.segments, "loss": model.loss, "junction_loss": model.junction_loss}
    recovery = model.recovery
    if change >= 0.0:
        losses["segments"] = np.column_stack([model.segments, along])
        losses["loss"] = np.append(model.loss, change)
        losses["junction_loss"] = np.append(model.junction_loss, 0.0)
        return {**losses, "recovery": recovery}
    left = -change
    own = [s for s in range(model.segments.shape[1]) if np.array_equal(model.segments[:, s], along)]
    for name, weight in (("loss", 1.0), ("junction_loss", 1.0 / share)):
        values = losses[name].copy()
        for segment in own:
            taken = min(left, weight * values[segment])
            values[segment] -= taken / weight
            left -= taken
        losses[name] = values
    # Whatever is left is taken as a gain of pressure that goes with the inflow, which may have any sign.
    return {**losses, "recovery": recovery - left * share**2 * along}


@dataclass(frozen=True)
class Intervention:
    """Something done to the patient."""

    words: str
    """as a person would say it"""

    @property
    def systemic(self) -> bool:
        """Whether it is done to the whole body, so that what feeds the inlet changes with it."""
        return False

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """The situation after it; the generator draws what is uncertain of its effect."""
        raise NotImplementedError


@dataclass(frozen=True)
class Clamp(Intervention):
    """A vessel is closed, wholly or in part."""

    vessel: str
    closed: float = 1.0
    """share of the lumen's area"""

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Close the way to every outlet that the vessel feeds."""
        feeds = situation.fed_by(self.vessel)
        if self.closed >= 1.0:
            if feeds.all():
                raise InputError(
                    f"Clamping {self.vessel} would close every outlet: no blood could leave, and the model says "
                    "nothing about a vessel without flow."
                )
            bed = situation.circulation.parameters
            closure = np.where(
                feeds, CLOSED * (bed.proximal_resistance + bed.distal_resistance), bed.proximal_resistance
            )
            return situation.with_parameters(proximal_resistance=closure)
        branch = _branch_of(situation, self.vessel)
        diameter = 2.0 * float(situation.anatomy.radius[branch])
        throat = diameter * np.sqrt(1.0 - self.closed)
        element = _lesion_like(situation.anatomy, diameter, throat, CLAMP_LENGTH)
        return replace(situation.with_element(feeds, element), drop_spread=STENOSIS_SPREAD)


def _branch_of(situation: Situation, vessel: str) -> int:
    if vessel.startswith("branch_"):
        situation.fed_by(vessel)
        return int(vessel[7:])
    column = situation.anatomy.outlets.index(vessel)
    return int(np.flatnonzero(situation.anatomy.feeds[:, column])[-1])


def _lesion_like(anatomy: AnatomyModel, diameter: float, throat: float, length: float) -> Element:
    blood = {"density": anatomy.density, "viscosity": anatomy.viscosity}
    lesion = Lesion(0, 0.0, length, diameter, throat)
    return stenosis_element(lesion, **blood) - tube_element(length, diameter, **blood)


@dataclass(frozen=True)
class Resistance(Intervention):
    """Vascular resistance of some beds changes."""

    factor: float
    vessels: tuple[str, ...] = ()
    """all where empty"""

    @property
    def systemic(self) -> bool:
        """Where no vessel is named, the beds beyond the model answer alike."""
        return not self.vessels

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Multiply the beds' resistances."""
        feeds = np.ones(len(situation.outlets), dtype=bool)
        if self.vessels:
            feeds = np.logical_or.reduce([situation.fed_by(vessel) for vessel in self.vessels])
        return _scaled_beds(situation, np.where(feeds, self.factor, 1.0)[None])


def _scaled_beds(situation: Situation, factor: Array) -> Situation:
    """The distal beds' resistance multiplied: arterioles answer, the conduit vessels before them hardly do."""
    bed = situation.circulation.parameters
    return situation.with_parameters(distal_resistance=bed.distal_resistance * factor)


@dataclass(frozen=True)
class Inflow(Intervention):
    """The heart puts out more or less."""

    factor: float

    @property
    def systemic(self) -> bool:
        """It is."""
        return True

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Multiply the inflow."""
        circulation = situation.circulation
        return replace(situation, circulation=replace(circulation, scale=circulation.scale * self.factor))


@dataclass(frozen=True)
class HeartRate(Intervention):
    """The heart beats faster or slower, the flow per minute staying."""

    factor: float

    @property
    def systemic(self) -> bool:
        """It is."""
        return True

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Change the period; the mean flow is that of before."""
        circulation = situation.circulation
        period = circulation.waveform.period / self.factor
        return replace(situation, circulation=circulation.with_period(period))


@dataclass(frozen=True)
class BloodLoss(Intervention):
    """Blood is lost, and the heart's output falls with venous return.

    Output goes with the mean filling pressure, which the stressed volume makes: factor = 1 - (1 - r) V / V_stressed,
    with r the share that veins and reflexes make up for, between 30 and 80 % in people (Guyton, Physiol. Rev. 35 (1955)
    123; Gelman, Anesthesiology 108 (2008) 735). It is drawn for each member.
    """

    volume: float
    """m^3"""

    @property
    def systemic(self) -> bool:
        """It is."""
        return True

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Lower the inflow."""
        circulation = situation.circulation
        stressed = STRESSED_SHARE * BLOOD_VOLUME
        made_up = generator.uniform(0.3, 0.8, circulation.members)
        factor = 1.0 - (1.0 - made_up) * self.volume / stressed
        if factor.min() <= 0.1:
            raise InputError(
                f"A loss of {1e6 * self.volume:.0f} mL leaves some patients without an output to live on; "
                "the model says nothing about that."
            )
        return replace(situation, circulation=replace(circulation, scale=circulation.scale * factor))


@dataclass(frozen=True)
class DrugGiven(Intervention):
    """A vasoactive drug works on the beds' resistance."""

    name: str
    drug: Drug
    dose: str
    after: float
    """s since it was given"""

    @property
    def systemic(self) -> bool:
        """It is."""
        return True

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Change the resistance of all beds, each member answering in its own measure."""
        kinetics = Kinetics.of(self.drug, self.name)
        level = kinetics.concentration(read_dose(self.dose, self.name), self.after)
        sensitivity = np.exp(kinetics.spread * generator.normal(size=situation.circulation.members))
        return _scaled_beds(situation, kinetics.resistance_factor(level, sensitivity)[:, None])


@dataclass(frozen=True)
class Stent(Intervention):
    """A stenosis is opened."""

    lesion: int
    residual: float = 0.0
    """diameter reduction that is left"""

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """Take the lesion's drop out, as the trained model has it, and put back what is left of it by formula."""
        anatomy = situation.anatomy
        lesion = anatomy.lesions[self.lesion].dilated(self.residual)
        blood = {"density": anatomy.density, "viscosity": anatomy.viscosity}
        span = float(situation.lesion_span[self.lesion])
        if self.residual > 0.0:
            rest = tube_element(max(span - lesion.length, 0.0), lesion.reference_diameter, **blood)
            left = rest + stenosis_element(lesion, **blood)
        else:
            left = tube_element(span, lesion.reference_diameter, **blood)
        change = left - situation.lesion_drop[self.lesion]
        lesions = tuple(lesion if number == self.lesion else one for number, one in enumerate(anatomy.lesions))
        opened = situation.with_element(anatomy.feeds[lesion.branch], change)
        return replace(
            opened,
            anatomy=replace(anatomy, lesions=lesions),
            drop_change={**opened.drop_change, self.lesion: change},
            drop_spread=STENOSIS_SPREAD,
        )


@dataclass(frozen=True)
class Device(Intervention):
    """A catheter or sheath lies in a vessel and takes up part of its lumen."""

    vessel: str
    diameter: float
    """m"""
    stretch: tuple[float, float] | None = None
    """m from the beginning of the branch, between which it lies; all along it where None"""

    def apply(self, situation: Situation, generator: np.random.Generator) -> Situation:
        """The branch's friction becomes that of an annulus where the device lies, and the blood there less."""
        branch = _branch_of(situation, self.vessel)
        anatomy = situation.anatomy
        length = float(anatomy.length[branch])
        start, end = self.stretch or (0.0, length)
        if start >= length:
            raise InputError(
                f"{self.vessel} (branch_{branch}) is {1e3 * length:.0f} mm long; a device from {1e3 * start:.0f} mm on "
                "does not lie in it."
            )
        met = [
            number
            for number, lesion in enumerate(anatomy.lesions)
            if lesion.branch == branch and lesion.start < end and lesion.start + lesion.length > start
        ]
        narrowest = min([2.0 * float(anatomy.radius[branch]), *(anatomy.lesions[number].diameter for number in met)])
        if self.diameter >= 0.95 * narrowest:
            raise InputError(
                f"A device of {1e3 * self.diameter:.2f} mm does not pass {self.vessel}, which is "
                f"{1e3 * narrowest:.2f} mm wide at its narrowest."
            )
        share = (min(end, length) - start) / length
        ratio = self.diameter / (2.0 * float(anatomy.radius[branch]))
        base = anatomy.elements[branch]
        change = Element(
            share * base.resistance * (annulus_factor(ratio) - 1.0),
            0.0,
            share * base.inertance * (1.0 / (1.0 - ratio**2) - 1.0),
        )
        changed: dict[int, Element] = {}
        for number in met:
            # The throat with the device in it is a throat of the area that is left.
            lesion = anatomy.lesions[number]
            left = replace(lesion, diameter=float(np.sqrt(lesion.diameter**2 - self.diameter**2)))
            blood = {"density": anatomy.density, "viscosity": anatomy.viscosity}
            more = stenosis_element(left, **blood) - anatomy.lesion_element(number)
            change = change + more
            changed[number] = more
        narrowed = situation.with_element(anatomy.feeds[branch], change)
        return replace(narrowed, drop_change={**narrowed.drop_change, **changed}, drop_spread=STENOSIS_SPREAD)


def apply_all(situation: Situation, interventions: Sequence[Intervention], seed: int) -> Situation:
    """One after the other; ``seed`` draws what is uncertain of their effects."""
    generator = np.random.default_rng(seed)
    for intervention in interventions:
        situation = intervention.apply(situation, generator)
    return situation
