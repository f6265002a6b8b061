"""The settings of a plan, as a person writes them in ``plan.toml``; every one has a default."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from surgical_twin.errors import InputError
from surgical_twin.units import read_quantity


class SegmentationPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the lumen is found."""

    label: int | None = None
    """With ``--labels``: the value that is lumen; every value but 0 where it is not given."""


class PortPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where blood enters and leaves."""

    inlet: str | None = None
    """The port, by the name that it has without this setting, that is the inlet; the widest end where not given."""
    inlet_near: tuple[float, float, float] | None = None
    """A point [mm, LPS] near the end of the vessel that is the inlet; the widest end where it is not given."""
    names: dict[str, tuple[float, float, float]] | None = None
    """What outlets are called: each name with a point [mm, LPS] near that outlet."""
    most: int = 10
    """Ends of the vessel tree kept at most, those of the widest branches."""
    cut_radii: float = 0.0
    """Ports lie at least this many radii inward from a vessel's end."""
    extension_radii: float = 0.0
    """Flow extensions: the lumen goes on straight beyond each port by this many of its radii."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.most < 2:
            raise ValueError("most has to be 2 or more: an inlet and an outlet")
        if not 0 <= self.cut_radii <= 20 or not 0 <= self.extension_radii <= 20:
            raise ValueError("cut_radii and extension_radii have to be 0 to 20")


class MeshPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fine the 3D mesh is."""

    edges_across: float = 7.0
    """Edges across the lumen's diameter."""
    max_tetrahedra: int = 100_000
    """Elements at most: edges grow towards it."""
    stenosis_edges_across: float = 9.0
    """Edges across the lumen in a stenosis."""
    wall_layers: int = 0
    """Layers of thin tetrahedra along the wall; they come on top of ``max_tetrahedra``."""
    wall_share: float = 0.2
    """Thickness of all layers together, as a share of the local radius."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.edges_across < 2 or self.stenosis_edges_across < 2:
            raise ValueError("edges_across and stenosis_edges_across have to be 2 or more")
        if self.max_tetrahedra < 1000:
            raise ValueError("max_tetrahedra has to be 1000 or more")
        if not 0 <= self.wall_layers <= 10 or not 0.02 <= self.wall_share <= 0.5:
            raise ValueError("wall_layers has to be 0 to 10, and wall_share 0.02 to 0.5")


class FlowPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of the circulation before the procedure; quantities carry their units."""

    mean_flow: str | None = None
    """Mean inflow, such as "0.8 L/min"; from ``mean_velocity`` where it is not given."""
    mean_velocity: str = "0.15 m/s"
    """Mean velocity in the inlet's section, a usual value in conduit arteries."""
    heart_rate: str = "75 1/min"
    mean_pressure: str = "93 mmHg"
    pulse_pressure: str = "40 mmHg"
    waveform: str = "peripheral"
    """Shape of the inflow over a beat, by name (``surgical_twin.flow.waveform``)."""
    viscosity: str = "3.5 mPa*s"
    density: str = "1060 kg/m^3"
    time_step: str = "2.5 ms"


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The 3D runs the reduced model is trained on; the next is made where its error estimate is largest."""

    beats: float = 1.75
    """Length of each run in heart beats; the first three quarters of a beat, which start from rest, are not used."""
    most_runs: int = 12
    """Runs at most."""
    snapshot_every: int = 4
    """Time steps between the snapshots that are kept of a run."""
    pressure_goal_percent: float = 1.5
    """No more runs are made where the pressure field's estimated error is below this in all of the range ..."""
    velocity_goal_percent: float = 4.0
    """... and that of the velocity field below this ..."""
    wall_shear_goal_percent: float = 6.0
    """... and that of the wall shear stress below this."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 1.0 <= self.beats <= 20:
            raise ValueError("beats has to be 1 to 20: the first three quarters of a beat are not used")
        if not 3 <= self.most_runs <= 100 or not 1 <= self.snapshot_every <= 20:
            raise ValueError("most_runs has to be 3 to 100, and snapshot_every 1 to 20")
        if min(self.pressure_goal_percent, self.velocity_goal_percent, self.wall_shear_goal_percent) <= 0:
            raise ValueError("the goals have to be positive")


class PlanSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``plan.toml`` may say."""

    segmentation: SegmentationPlan = SegmentationPlan()
    ports: PortPlan = PortPlan()
    mesh: MeshPlan = MeshPlan()
    flow: FlowPlan = FlowPlan()
    training: TrainingPlan = TrainingPlan()
    fiducials: str | None = None
    """A CSV file (name, x, y, z [mm, LPS]) of the points to touch for registration, relative to ``plan.toml``;
    well-spread points of the skin are proposed where it is not given."""


def read_plan(path: Path | None) -> PlanSettings:
    """Read ``plan.toml``, or take the defaults where there is none.

    Raises:
        InputError: the file is missing or no TOML, a name in it is unknown, or a value is of the wrong kind.
    """
    if path is None:
        return PlanSettings()
    settings = read_settings(path, PlanSettings)
    read_flow(settings.flow)
    if settings.fiducials is not None:
        settings = msgspec.structs.replace(settings, fiducials=str((path.parent / settings.fiducials).resolve()))
    return settings


def read_settings[T](path: Path, kind: type[T]) -> T:
    """Read a TOML file into a settings structure.

    Raises:
        InputError: the file is missing or no TOML, a name in it is unknown, or a value is of the wrong kind.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid TOML: {error}; mend that line.") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path} has a setting that cannot be used: {error}.") from error


class FlowQuantities(msgspec.Struct, frozen=True):
    """``FlowPlan`` in SI units."""

    mean_flow: float | None
    mean_velocity: float
    period: float
    mean_pressure: float
    pulse_pressure: float
    viscosity: float
    density: float
    time_step: float


def read_flow(plan: FlowPlan) -> FlowQuantities:
    """Read the quantities of a flow plan into SI units.

    Raises:
        InputError: one cannot be read, or is not positive.
    """

    def positive(name: str, unit: str) -> float:
        text: Any = getattr(plan, name)
        value = read_quantity(text, unit, name=f"flow.{name}")
        if value <= 0:
            raise InputError(f'flow.{name} = "{text}" is not positive; write a positive quantity in {unit}.')
        return value

    return FlowQuantities(
        mean_flow=None if plan.mean_flow is None else positive("mean_flow", "m^3/s"),
        mean_velocity=positive("mean_velocity", "m/s"),
        period=1.0 / positive("heart_rate", "1/s"),
        mean_pressure=positive("mean_pressure", "Pa"),
        pulse_pressure=positive("pulse_pressure", "Pa"),
        viscosity=positive("viscosity", "Pa*s"),
        density=positive("density", "kg/m^3"),
        time_step=positive("time_step", "s"),
    )
