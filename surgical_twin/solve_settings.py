"""The settings of a 3D solve, as a person writes them in ``solve.toml``; what it leaves out is as planned."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.beds import CoronaryBed, GivenPressure, Resistance
from surgical_twin.flow.conditions import PortCondition
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.elastic_wall import ElasticWall
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import MAX_CFL
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian
from surgical_twin.flow.tuning import Targets, murray_split
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.plan_settings import read_settings
from surgical_twin.units import read_quantity

Array = NDArray[np.float64]

LEAST_CFL = 0.05
"""A smaller limit only asks for more parts of a step than there may be."""

MOST_STEPS = 100_000
"""In a beat; more are a slip in the unit of the time step."""


DEFAULT_THICKNESS_RATIO = 0.1


class WaveformPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity over the beat, by exactly one of name, file, table and Fourier coefficients."""

    name: str | None = None
    """"peripheral", "carotid" or "aorta": a shape; ``mean`` gives it its size"""
    file: str | None = None
    """CSV of one period, time and value; relative to ``solve.toml``"""
    time_unit: str = "s"
    unit: str | None = None
    """of the file's or the table's values, or of the Fourier coefficients"""
    time: tuple[float, ...] | None = None
    value: tuple[float, ...] | None = None
    cosine: tuple[float, ...] | None = None
    sine: tuple[float, ...] | None = None
    mean: str | None = None
    """the mean it is scaled to; its own where not given"""


class PortPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens at one port; quantities carry their units."""

    kind: Literal["flow", "pressure", "resistance", "windkessel", "coronary"]
    flow: str | WaveformPlan | None = None
    """of kind flow: a constant such as "0.3 L/min", or a waveform"""
    profile: Literal["parabolic", "plug", "womersley"] = "parabolic"
    pressure: str | WaveformPlan | None = None
    """of kind pressure"""
    resistance: str | None = None
    proximal_resistance: str | None = None
    distal_resistance: str | None = None
    compliance: str | None = None
    distal_pressure: str = "0 mmHg"
    arterial_resistance: str | None = None
    arterial_compliance: str | None = None
    microvascular_resistance: str | None = None
    myocardial_compliance: str | None = None
    venous_resistance: str | None = None
    venous_pressure: str = "0 mmHg"
    myocardial_pressure: str | WaveformPlan | None = None


class BloodPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the blood; the plan's where not given."""

    density: str | None = None
    viscosity: str | None = None
    model: Literal["newtonian", "carreau-yasuda"] = "newtonian"


class WallPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An elastic wall; without it the wall is rigid."""

    youngs_modulus: str
    thickness: str | None = None
    thickness_ratio: float | None = None
    """of the local radius; 0.1 where neither is given"""
    poisson_ratio: float = 0.5
    density: str = "1100 kg/m^3"
    reference_pressure: str = "93 mmHg"
    """in the vessel when the image was taken"""


class TuningPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Windkessels of all outlets tuned to what a clinic measures, on the 3D flow."""

    mean_pressure: str = "93 mmHg"
    pulse_pressure: str = "40 mmHg"
    distal_pressure: str = "0 mmHg"
    split: dict[str, float] | None = None
    """share of each outlet in the mean flow, as measured; by Murray's law where not given"""


class SolvePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``solve.toml`` may say."""

    beats: int = 12
    """at most"""
    periodic_within: float = 0.01
    """the run stops after the first beat this near to the periodic state, 0.01 for 1 %"""
    time_step: str | None = None
    heart_rate: str | None = None
    order: Literal[1, 2] = 1
    max_cfl: float = MAX_CFL
    snapshots: int = 40
    """of the fields in the last beat"""
    section_spacing: str = "2 mm"
    """along the centerline"""
    blood: BloodPlan = BloodPlan()
    wall: WallPlan | None = None
    tuning: TuningPlan | None = None
    ports: dict[str, PortPlan] = {}
    """by the port's name; the others are as planned"""


class SolveConditions(msgspec.Struct, frozen=True):
    """A solve in SI units."""

    inlets: dict[str, PortCondition]
    outlets: dict[str, PortCondition]
    targets: Targets | None
    density: float
    rheology: Newtonian | CarreauYasuda
    period: float
    time_step: float


def read_solve(path: Path | None) -> SolvePlan:
    """Read ``solve.toml``, or take the defaults where there is none.

    Raises:
        InputError: the file is missing or no TOML, a name in it is unknown, or a value is of the wrong kind.
    """
    plan = SolvePlan() if path is None else read_settings(path, SolvePlan)
    for name, low in (("beats", 1), ("snapshots", 1), ("periodic_within", 0.0), ("max_cfl", LEAST_CFL)):
        value = getattr(plan, name)
        if not np.isfinite(value) or value < low or (low == 0.0 and value == 0.0):
            raise InputError(
                f"{name} = {value:g} cannot be used; it has to be {'positive' if low == 0.0 else f'at least {low:g}'}."
            )
    return plan


def solve_conditions(plan: SolvePlan, planned: dict[str, Any], domain: FlowDomain, folder: Path) -> SolveConditions:
    """What the settings and the case's plan say together.

    Args:
        plan: the settings.
        planned: the case's ``flow``.
        domain: the lumen.
        folder: where files that the settings name lie.

    Raises:
        InputError: a port that is not in the mesh, a quantity without unit, a bed that cannot be.
    """
    names = [port.name for port in domain.ports]
    unknown = sorted(set(plan.ports) - set(names))
    if unknown:
        raise InputError(f"ports.{unknown[0]} is no port of the mesh; its ports are {', '.join(names)}.")
    period = planned["period_s"] if plan.heart_rate is None else 1.0 / _positive(plan.heart_rate, "1/s", "heart_rate")
    blood = plan.blood
    density = planned["density_kg_m3"]
    if blood.density is not None:
        density = _positive(blood.density, "kg/m^3", "blood.density")
    rheology: Newtonian | CarreauYasuda = Newtonian(planned["viscosity_pa_s"])
    if blood.model == "carreau-yasuda":
        if blood.viscosity is not None:
            raise InputError("blood.viscosity is of a Newtonian fluid; leave it out with carreau-yasuda.")
        rheology = CarreauYasuda()
    elif blood.viscosity is not None:
        rheology = Newtonian(_positive(blood.viscosity, "Pa*s", "blood.viscosity"))
    time_step = planned["time_step_s"] if plan.time_step is None else _positive(plan.time_step, "s", "time_step")
    if period / time_step > MOST_STEPS:
        raise InputError(
            f"A time step of {time_step:g} s makes {period / time_step:.3g} steps a beat; write one such as "
            f'"{1e3 * period / 320:.2g} ms".'
        )
    reader = _Reader(period, folder)
    inlets: dict[str, PortCondition] = {}
    for port in domain.inlets:
        if port.name in plan.ports:
            inlets[port.name] = reader.condition(plan.ports[port.name], port)
        elif port.name == planned["inlet"]:
            shape = PeriodicWaveform.named(planned["waveform"], mean=planned["mean_flow_m3_s"], period=period)
            inlets[port.name] = GivenFlow(shape)
        else:
            raise InputError(f"The inlet {port.name} has no condition; add [ports.{port.name}] to solve.toml.")
    outlets: dict[str, PortCondition] = {}
    for port in domain.outlets:
        if port.name in plan.ports:
            if plan.tuning is not None:
                raise InputError(
                    f"ports.{port.name} is given, and [tuning] sets all outlets; leave out one of the two."
                )
            outlets[port.name] = reader.condition(plan.ports[port.name], port)
        elif port.name in planned["windkessels"]:
            outlets[port.name] = Windkessel(**planned["windkessels"][port.name])
        else:
            raise InputError(f"The outlet {port.name} has no condition; add [ports.{port.name}] to solve.toml.")
    return SolveConditions(
        inlets, outlets, _targets(plan, domain), density, rheology, reader.period, min(time_step, reader.period / 4)
    )


def elastic_wall(plan: WallPlan, radius: Array) -> ElasticWall:
    """The wall of a vessel.

    Args:
        plan: its settings.
        radius: (w,) m, the vessel's at each node of the wall.

    Raises:
        InputError: both thickness and its ratio are given, or a value cannot be.
    """
    if plan.thickness is not None and plan.thickness_ratio is not None:
        raise InputError("wall.thickness and wall.thickness_ratio say the same; give one of the two.")
    ratio = DEFAULT_THICKNESS_RATIO if plan.thickness_ratio is None else plan.thickness_ratio
    if not (np.isfinite(ratio) and 0.0 < ratio <= 1.0):
        raise InputError(f"wall.thickness_ratio = {ratio:g} is of the radius, between 0 and 1; 0.1 is an artery's.")
    thickness = ratio * radius
    if plan.thickness is not None:
        thickness = np.full_like(radius, _positive(plan.thickness, "m", "wall.thickness"))
    return ElasticWall(
        youngs_modulus=_positive(plan.youngs_modulus, "Pa", "wall.youngs_modulus"),
        thickness=thickness,
        radius=radius,
        poisson_ratio=plan.poisson_ratio,
        density=_positive(plan.density, "kg/m^3", "wall.density"),
        reference_pressure=read_quantity(plan.reference_pressure, "Pa", name="wall.reference_pressure"),
    )


def _targets(plan: SolvePlan, domain: FlowDomain) -> Targets | None:
    tuning = plan.tuning
    if tuning is None:
        return None
    outlets = {port.name: port.radius for port in domain.outlets}
    if tuning.split is None:
        split = murray_split(outlets)
    else:
        if set(tuning.split) != set(outlets):
            raise InputError(
                f"tuning.split has {sorted(tuning.split)}, and the mesh has the outlets {sorted(outlets)}; give each a "
                "share."
            )
        split = tuning.split
    return Targets(
        mean_pressure=_positive(tuning.mean_pressure, "Pa", "tuning.mean_pressure"),
        pulse_pressure=_positive(tuning.pulse_pressure, "Pa", "tuning.pulse_pressure"),
        split=split,
        distal_pressure=read_quantity(tuning.distal_pressure, "Pa", name="tuning.distal_pressure"),
    )


def _positive(text: str, unit: str, name: str) -> float:
    value = read_quantity(text, unit, name=name)
    if value <= 0:
        raise InputError(f'{name} = "{text}" is not positive; write a positive quantity in {unit}.')
    return value


class _Reader:
    """Reads ports' settings; the period is the beat's, which a table or file may set."""

    def __init__(self, period: float, folder: Path) -> None:
        self.period, self._folder = period, folder

    def condition(self, plan: PortPlan, port: FlowPort) -> PortCondition:
        """The condition of one port."""
        where = f"ports.{port.name}"
        needed = _NEEDED[plan.kind]
        for name in needed:
            if getattr(plan, name) is None:
                raise InputError(f"{where} is of kind {plan.kind} and lacks {name}; give it.")
        for name in _ALL - needed:
            if getattr(plan, name) is not None:
                raise InputError(f"{where}.{name} has no meaning with kind {plan.kind}; leave it out.")

        def quantity(name: str, unit: str) -> float:
            return read_quantity(getattr(plan, name), unit, name=f"{where}.{name}")

        if plan.kind == "flow":
            return GivenFlow(self._waveform(plan.flow, "m^3/s", f"{where}.flow"), plan.profile)
        if plan.kind == "pressure":
            return GivenPressure(self._waveform(plan.pressure, "Pa", f"{where}.pressure"))
        if plan.kind == "resistance":
            return Resistance(quantity("resistance", _RESISTANCE), quantity("distal_pressure", "Pa"))
        try:
            if plan.kind == "windkessel":
                return Windkessel(
                    quantity("proximal_resistance", _RESISTANCE),
                    quantity("distal_resistance", _RESISTANCE),
                    quantity("compliance", _COMPLIANCE),
                    quantity("distal_pressure", "Pa"),
                )
            return CoronaryBed(
                quantity("arterial_resistance", _RESISTANCE),
                quantity("arterial_compliance", _COMPLIANCE),
                quantity("microvascular_resistance", _RESISTANCE),
                quantity("myocardial_compliance", _COMPLIANCE),
                quantity("venous_resistance", _RESISTANCE),
                self._waveform(plan.myocardial_pressure, "Pa", f"{where}.myocardial_pressure"),
                quantity("venous_pressure", "Pa"),
            )
        except InputError as error:
            raise error if where in str(error) else InputError(f"{where}: {error}") from error

    def _waveform(self, plan: str | WaveformPlan | None, unit: str, name: str) -> PeriodicWaveform:
        assert plan is not None
        if isinstance(plan, str):
            return PeriodicWaveform.constant(read_quantity(plan, unit, name=name), self.period)
        ways = {"name": plan.name, "file": plan.file, "time": plan.time, "cosine": plan.cosine}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                f"{name} has {', '.join(given) or 'nothing'}; give exactly one of name, file, time with value, and "
                "cosine with sine."
            )
        try:
            found = self._shape(plan, given[0], unit, name)
        except InputError as error:
            raise error if name in str(error) else InputError(f"{name}: {error}") from error
        if plan.mean is not None and plan.name is None:
            if found.mean == 0:
                raise InputError(f"{name} has a mean of zero and cannot be scaled to {plan.mean}; leave mean out.")
            found = found.scaled(read_quantity(plan.mean, unit, name=f"{name}.mean") / found.mean)
        if given[0] in ("file", "time") and abs(found.period - self.period) > 1e-6 * self.period:
            raise InputError(
                f"{name} has a period of {found.period:g} s, and the beat has {self.period:g} s; set heart_rate to "
                f'"{60.0 / found.period:g} 1/min", give a table of one beat, or set time_unit (it is '
                f'"{plan.time_unit}") if the times are in another unit.'
            )
        return found

    def _shape(self, plan: WaveformPlan, way: str, unit: str, name: str) -> PeriodicWaveform:
        if way == "name":
            if plan.mean is None:
                raise InputError(f'{name} is the shape "{plan.name}" and lacks mean; give it with its unit.')
            mean = _positive(plan.mean, unit, f"{name}.mean")
            return PeriodicWaveform.named(str(plan.name), mean=mean, period=self.period)
        if plan.unit is None:
            raise InputError(f'{name} lacks unit, that of its values, such as "mL/s"; give it.')
        factor = read_quantity(f"1 {plan.unit}", unit, name=f"{name}.unit")
        seconds = read_quantity(f"1 {plan.time_unit}", "s", name=f"{name}.time_unit")
        if way == "file":
            return PeriodicWaveform.from_csv(self._folder / str(plan.file), time_unit=seconds, value_unit=factor)
        if way == "time":
            value = np.asarray(plan.value if plan.value is not None else (), dtype=float)
            return PeriodicWaveform.from_table(np.asarray(plan.time) * seconds, value * factor)
        sine = np.asarray(plan.sine if plan.sine is not None else np.zeros(len(plan.cosine or ())), dtype=float)
        return PeriodicWaveform.from_fourier(np.asarray(plan.cosine) * factor, sine * factor, self.period)


_RESISTANCE = "Pa*s/m^3"
_COMPLIANCE = "m^3/Pa"
_NEEDED: dict[str, set[str]] = {
    "flow": {"flow"},
    "pressure": {"pressure"},
    "resistance": {"resistance"},
    "windkessel": {"proximal_resistance", "distal_resistance", "compliance"},
    "coronary": {
        "arterial_resistance",
        "arterial_compliance",
        "microvascular_resistance",
        "myocardial_compliance",
        "venous_resistance",
        "myocardial_pressure",
    },
}
_ALL = set().union(*_NEEDED.values())
