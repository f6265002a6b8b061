"""Virtual patients for benchmarks of assimilation: 3D truths that no reduced model was trained on, and their sensors.

A *family* is a phantom with a stenosis, planned as a hospital would; a *truth* is a 3D run in the phantom's real
lumen, on a finer mesh, with shear-thinning blood, another inflow shape and hidden circulation; a *patient* is a truth
with its own draws of sensors and registration. Families and truths take minutes and are kept in a folder
(``--cache``); each is made once, and an interrupted run goes on where it was. Nothing of the truth reaches the
session: it gets events only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshes.phantom import stenosed_bifurcation
from registration.point_files import read_point_file
from registration.rigid import apply_to_points, invert
from streams.events import Event, event_from_frame
from streams.messages import (
    FiducialTouch,
    FlowSample,
    Message,
    PressureSamples,
    SessionStart,
    Tick,
    ToolPose,
    Trigger,
    TwinState,
)
from streams.rotations import quaternion_of
from streams.transducer import MMHG_PER_CM, Line, Transducer
from streams.wire import pack
from surgical_twin.axis import Axis
from surgical_twin.case import FIDUCIALS, Case
from surgical_twin.plan_settings import PlanSettings, read_settings
from surgical_twin.planning import PlanRequest, load_axis, plan, write_image, write_table
from surgical_twin.procedure import TruthSettings
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.simulate import random_pose
from surgical_twin.truth import Truth, make_truth

Array = NDArray[np.float64]

QUICK_PLAN = """
fiducials = "fiducials.csv"
[mesh]
edges_across = 4.0
max_tetrahedra = 5000
[flow]
time_step = "10 ms"
[training]
beats = 1.3
most_runs = 3
"""

PLAN = """
fiducials = "fiducials.csv"
[mesh]
edges_across = 6.0
max_tetrahedra = 45000
[flow]
time_step = "5 ms"
[training]
beats = 1.4
"""

FAMILIES = {"s55": 0.55, "s40": 0.40, "s62": 0.62, "quick": 0.50}
"""Name and reduction of the stenosis's diameter."""

CALIBRATION: dict[str, tuple[int, ...]] = {"s55": (1, 2), "s40": (11,), "s62": (21,)}
"""Seeds of the 3D runs of each family on which the session's settings were chosen."""

CHECK: dict[str, tuple[int, ...]] = {"s55": (3, 4), "s40": (12, 13), "s62": (22, 23)}
"""Seeds of those that no setting was chosen on: what is reported is of these."""

CLAMPED: dict[str, int] = {"s55": 1, "s40": 11}
"""Families with a run in which an outlet is clamped, and the seed of the truth before it."""

QUICK = "quick"
"""A family that is planned and run in a minute, coarsely: for a look at whether all works."""

TRUTH_TETRAHEDRA, QUICK_TETRAHEDRA = 100_000, 9_000
CATHETER, ARTERIAL_LINE = "catheter_pressure", "arterial_line"
EPOCH = 1_700_000_000_000_000_000
PRESSURE_HZ, FLOW_HZ, POSE_HZ, TICK_HZ = 250.0, 20.0, 30.0, 10.0
BATCH = 5


@dataclass(frozen=True)
class Family:
    """A planned case with its 3D truths."""

    name: str
    case: Case
    model: SessionModel
    axis: Axis
    truths: tuple[Truth, ...]
    clamped: tuple[Truth, Truth] | None = None
    """a truth, and the transient that begins when an outlet of it is clamped"""


def truth_settings(folder: Path, seed: int, *, clamp: str | None = None) -> TruthSettings:
    """How the 3D truth of a seed differs from the plan; every second one has another waveform."""
    return TruthSettings(
        level_set=str((folder / "lumen.nrrd").resolve()),
        edges_across=6.0 if folder.name == QUICK else 8.0,
        max_tetrahedra=QUICK_TETRAHEDRA if folder.name == QUICK else TRUTH_TETRAHEDRA,
        beats=2.2 if clamp is None else 5.2,
        waveform="carotid" if seed % 2 else None,
        clamp=clamp,
    )


def make_family(
    name: str, cache: Path, say: Callable[[str], None], seeds: Sequence[int], *, clamped: bool = False
) -> Family:
    """Plan a family's case and run its truths, as far as that is not done.

    Args:
        name: of `FAMILIES`.
        cache: the folder to keep them in.
        say: takes what is being done.
        seeds: of the truths.
        clamped: whether the run with a clamped outlet is wanted, where the family has one.
    """
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "lumen.nrrd").is_file():
        phantom = stenosed_bifurcation(seed=round(100 * FAMILIES[name]), stenosis=FAMILIES[name])
        write_image(phantom.image, folder / "ct.nrrd")
        rows = [(point, *place) for point, place in phantom.fiducials.items()]
        write_table(folder / "fiducials.csv", ("name", "x", "y", "z"), rows)
        (folder / "plan.toml").write_text(QUICK_PLAN if name == QUICK else PLAN, encoding="utf-8")
        write_image(phantom.truth_level_set, folder / "lumen.nrrd")
    case = Case.create(folder / "case")
    # A plan that was interrupted has a reduced model as well: one that was estimated from the anatomy.
    if "reduced" not in case.manifest.get("step", {}):
        settings = read_settings(folder / "plan.toml", PlanSettings)
        settings = replace_fiducials(settings, folder / "fiducials.csv")
        plan(
            PlanRequest(image=folder / "ct.nrrd", settings=settings), case, lambda step: _quietly(say, name, step.title)
        )
    model = SessionModel.load(case)
    axis = load_axis(case, None)

    def truth_of(seed: int, clamp: str | None = None) -> Truth:
        say(f"{name}: truth {seed}" + (f" with {clamp} clamped" if clamp else ""))
        return make_truth(case, axis, truth_settings(folder, seed, clamp=clamp), seed, lambda share: None)

    transient = None
    if clamped and name in CLAMPED:
        outlet = next(port for port in model.port_names[1:] if port != axis.outlet)
        transient = truth_of(CLAMPED[name]), truth_of(CLAMPED[name], outlet)
    return Family(name, case, model, axis, tuple(truth_of(seed) for seed in seeds), transient)


def replace_fiducials(settings: PlanSettings, path: Path) -> PlanSettings:
    """A plan's settings with the absolute path of its fiducials."""
    import msgspec

    return msgspec.structs.replace(settings, fiducials=str(path.resolve()))


def _quietly(say: Callable[[str], None], name: str, title: str) -> Callable[[float], None]:
    say(f"{name}: {title}")
    return lambda share: None


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    kind: str
    """height, damping, dropout, swap, registration, clamp"""
    begin_s: float
    end_s: float = np.inf


@dataclass(frozen=True)
class Patient:
    """One procedure on one truth, as its draws make it."""

    family: Family
    truth: Truth
    seed: int
    touch_noise_mm: float = 2.0
    noise_mmhg: float = 2.0
    bias_mmhg: float = 3.0
    """standard deviation of the catheter's bias, and of the line's where it was not zeroed"""
    zero_mmhg: float | None = None
    """standard deviation of the line's zero where somebody zeroed it; the twin is told"""
    dropouts: float = 0.05
    fault: Fault | None = None
    speed_mm_s: float = 15.0
    settle_s: float = 8.0
    rest_s: float = 3.0
    at_rest_s: float | None = None
    """the tip stays at the inlet for this long instead of going anywhere"""

    def generator(self, purpose: int) -> np.random.Generator:
        """Draws for one purpose."""
        return np.random.default_rng([self.seed, purpose])

    @property
    def biases(self) -> tuple[float, float]:
        """Of the catheter and of the line, mmHg."""
        catheter, line = self.generator(1).normal(size=2)
        return self.bias_mmhg * float(catheter), (self.zero_mmhg or self.bias_mmhg) * float(line)

    @property
    def line(self) -> tuple[float, float]:
        """Natural frequency [Hz] and damping of the arterial line."""
        first, second = self.generator(2).normal(size=2)
        return 18.0 * float(np.exp(0.25 * first)), 0.35 * float(np.exp(0.25 * second))

    @property
    def ends(self) -> tuple[float, float]:
        """mm along the axis between which the tip moves."""
        axis = self.family.axis
        return float(axis.radius[0]), float(axis.distance[-1]) - float(axis.radius[-1])

    @property
    def duration_s(self) -> float:
        """Seconds."""
        if self.at_rest_s is not None:
            return self.at_rest_s
        begin, end = self.ends
        return self.settle_s + 2.0 * (end - begin) / self.speed_mm_s + self.rest_s

    def distance(self, time_s: float) -> float:
        """Where the tip is, mm along the axis."""
        begin, end = self.ends
        if self.at_rest_s is not None:
            return begin
        travel = (end - begin) / self.speed_mm_s
        times = np.cumsum([self.settle_s, travel, self.rest_s, travel])
        return float(np.interp(time_s, times, [begin, end, end, begin]))

    def crossing_s(self) -> float:
        """When the tip is 8 mm before the narrowest place on its way in."""
        begin, _ = self.ends
        return self.settle_s + max(0.0, self.family.axis.narrowest - 8.0 - begin) / self.speed_mm_s

    def truth_at(self, time_s: float) -> tuple[Truth, float]:
        """The truth that holds at a time, and its own time then."""
        fault = self.fault
        if fault is not None and fault.kind == "clamp" and time_s >= fault.begin_s:
            assert self.family.clamped is not None
            return self.family.clamped[1], time_s - fault.begin_s
        return self.truth, time_s

    def pressure(self, time_s: float, distance: float) -> float:
        """True pressure, mmHg."""
        truth, own = self.truth_at(time_s)
        return truth.pressure_at(own, distance)

    def faulty(self, kind: str, time_s: float) -> bool:
        """Whether a fault of some kind is going on."""
        return self.fault is not None and self.fault.kind == kind and self.fault.begin_s <= time_s < self.fault.end_s

    def messages(self) -> Iterator[tuple[float, Message]]:
        """All messages with the time at which each is sent."""
        yield from self._poses()
        yield from self._pressures()
        yield from self._flows()
        for number, time_s in enumerate(np.arange(0.0, self.duration_s, self.truth.period)):
            jitter = 0.001 * float(self.generator(3).normal())
            stamp = max(0.0, float(time_s) + jitter)
            yield stamp, Trigger(stream="ecg", sequence=number, source_time_ns=at(stamp), kind="r_wave")
        for number in range(int(self.duration_s * TICK_HZ)):
            time_s = number / TICK_HZ
            yield time_s, Tick(stream="session/clock", sequence=number, source_time_ns=at(time_s))

    def _poses(self) -> Iterator[tuple[float, Message]]:
        generator = self.generator(4)
        tracker_from_image = invert(random_pose(self.generator(5)))
        points = read_point_file(self.family.case.require(FIDUCIALS)).by_name()
        for number, (name, point) in enumerate(sorted(points.items())):
            touched = apply_to_points(tracker_from_image, point[None])[0]
            x, y, z = (float(v) for v in touched + generator.normal(size=3) * self.touch_noise_mm)
            time_s = 0.01 + 0.01 * number
            yield (
                time_s,
                FiducialTouch(
                    stream="touch",
                    sequence=number,
                    source_time_ns=at(time_s),
                    fiducial=name,
                    tool="pointer",
                    position=(x, y, z),
                ),
            )
        moved = np.eye(4)
        direction = generator.normal(size=3)
        moved[:3, 3] = 10.0 * direction / np.linalg.norm(direction)
        for number in range(int(self.duration_s * POSE_HZ)):
            time_s = number / POSE_HZ
            tip = self.family.axis.at(self.distance(time_s))[0]
            if self.faulty("registration", time_s):
                tip = apply_to_points(moved, tip[None])[0]
            x, y, z = (
                float(v) for v in apply_to_points(tracker_from_image, tip[None])[0] + generator.normal(size=3) * 0.15
            )
            w, a, b, c = quaternion_of(tracker_from_image[:3, :3])
            yield (
                time_s,
                ToolPose(
                    stream="tracker",
                    sequence=number,
                    source_time_ns=at(time_s),
                    tool="catheter",
                    position=(x, y, z),
                    quaternion=(w, a, b, c),
                    valid=True,
                    error=0.26,
                ),
            )

    def _pressures(self) -> Iterator[tuple[float, Message]]:
        generator = self.generator(6)
        times = np.arange(int(self.duration_s * PRESSURE_HZ)) / PRESSURE_HZ
        inlet = np.array([self.pressure(float(t), 0.0) for t in times])
        tip = np.array([self.pressure(float(t), self.distance(float(t))) for t in times])
        frequency, damping = self.line
        radial = Transducer(lines=(Line(0.0, frequency, damping),)).measure(
            lambda time_s: float(np.interp(time_s, times, inlet)), times
        )
        if self.fault is not None and self.fault.kind == "damping":
            lines = [Line(0.0, None, 0.3), Line(self.fault.begin_s, 1.2, 2.5)]
            if self.fault.end_s < self.duration_s:
                lines.append(Line(self.fault.end_s, None, 0.3))
            tip = Transducer(lines=tuple(lines)).measure(lambda time_s: float(np.interp(time_s, times, tip)), times)
        catheter_bias, line_bias = self.biases
        tip = tip + catheter_bias + generator.normal(size=len(times)) * self.noise_mmhg
        radial = radial + line_bias + generator.normal(size=len(times)) * self.noise_mmhg
        height = np.array([self.faulty("height", float(t)) for t in times])
        tip = tip + 20.0 * MMHG_PER_CM * height
        swapped = np.array([self.faulty("swap", float(t)) for t in times])
        tip, radial = np.where(swapped, radial, tip), np.where(swapped, tip, radial)
        lost = generator.random((2, len(times) // BATCH)) < self.dropouts
        for number in range(len(times) // BATCH):
            part = slice(number * BATCH, (number + 1) * BATCH)
            begin, end = float(times[part][0]), float(times[part][-1])
            common: dict[str, Any] = {
                "sequence": number,
                "source_time_ns": at(begin),
                "sample_period_ns": round(1e9 / PRESSURE_HZ),
            }
            if not lost[0, number] and not self.faulty("dropout", end):
                yield (
                    end,
                    PressureSamples(
                        stream="pressure/catheter",
                        sensor=CATHETER,
                        tool="catheter",
                        values_mmhg=tuple(tip[part].tolist()),
                        **common,
                    ),
                )
            if not lost[1, number]:
                yield (
                    end,
                    PressureSamples(
                        stream="pressure/line",
                        sensor=ARTERIAL_LINE,
                        tool=None,
                        port=self.family.model.port_names[0],
                        values_mmhg=tuple(radial[part].tolist()),
                        zero_deviation_mmhg=self.zero_mmhg,
                        **common,
                    ),
                )

    def _flows(self) -> Iterator[tuple[float, Message]]:
        generator = self.generator(7)
        inlet = self.family.model.port_names[0]
        for number in range(int(self.duration_s * FLOW_HZ)):
            time_s = number / FLOW_HZ
            truth, own = self.truth_at(time_s)
            flow = truth.flow_at(own, inlet)
            measured = flow + max(0.08 * abs(flow), 0.2) * float(generator.normal())
            if generator.random() < self.dropouts:
                continue
            yield (
                time_s,
                FlowSample(
                    stream="flow/probe",
                    sequence=number,
                    source_time_ns=at(time_s),
                    sensor="probe",
                    port=inlet,
                    flow_ml_s=measured,
                    deviation_ml_s=max(0.08 * abs(measured), 0.2),
                ),
            )

    def events(self) -> list[Event]:
        """What the session gets, in order."""
        ordered = sorted(self.messages(), key=lambda item: item[0])
        start = SessionStart(
            stream="session/start", sequence=0, source_time_ns=EPOCH, case_hash="virtual", seed=self.seed, settings={}
        )
        messages = [(0.0, start), *ordered]
        return [
            event_from_frame(number, at(sent) + 2_000_000, pack(message))
            for number, (sent, message) in enumerate(messages)
        ]

    def play(self) -> list[TwinState]:
        """The twin's states."""
        session, state = Session(self.family.model), SessionState()
        published: list[TwinState] = []
        for event in self.events():
            state, outputs = session.step(state, event)
            published += outputs
        return published


def at(time_s: float) -> int:
    """Nanoseconds since the epoch."""
    return EPOCH + round(time_s * 1e9)


def with_fault(patient: Patient, kind: str, begin_s: float, end_s: float) -> Patient:
    """The same patient with a fault."""
    return replace(patient, fault=Fault(kind, begin_s, end_s))
