"""The simulated operating room: a procedure on a simulated patient, published as its devices would.

The tracker's frame is a random one that the twin has to find by registration; the fiducials are touched with
error; the catheter goes from the inlet through the narrowest place and back; every device has its noise. The truth is
kept beside the case for scoring, where the live twin does not look.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from registration.point_files import read_point_file
from registration.rigid import invert
from streams.devices import (
    Device,
    FiducialTouches,
    FlowDevice,
    HeartbeatDevice,
    PressureDevice,
    TrackerDevice,
    TriggerDevice,
)
from streams.links import Link, LinkErrors
from streams.tracker_errors import with_errors
from surgical_twin.axis import Axis
from surgical_twin.case import FIDUCIALS, Case, write_atomically
from surgical_twin.planning import load_axis
from surgical_twin.procedure import (
    TOUCH_INTERVAL_S,
    TOUCH_START_S,
    Motion,
    ProcedureSettings,
    plan_motion,
)
from surgical_twin.registration_inputs import read_branch_tree
from surgical_twin.session_model import outlets_behind
from surgical_twin.simulated_errors import Notes, is_synchronized, line_of, link_errors, tracker_errors
from surgical_twin.simulated_observations import (
    arterial_line,
    cardiac_output,
    doppler,
    moved_transducer,
    section_flow,
)
from surgical_twin.truth import Truth, make_truth
from surgical_twin.units import read_quantity

Array = NDArray[np.float64]

CATHETER = "catheter"
PATH_MARGIN_RADII = 1.0
"""The tip keeps this many radii from both ends of the path."""

PROCEDURE_RECORD = "truth/procedure.json"


@dataclass(frozen=True)
class SimulatedProcedure:
    """Everything that happens in one simulated procedure, as a function of the time since its start [s]."""

    case: Case
    settings: ProcedureSettings
    seed: int
    axis: Axis
    truth: Truth
    motion: Motion
    path_start: float
    """mm along the axis where the path begins."""
    image_from_tracker: Array

    @classmethod
    def prepare(
        cls, case: Case, settings: ProcedureSettings, seed: int, say: Callable[[float], None]
    ) -> "SimulatedProcedure":
        """Make the simulated patient and plan the catheter's way.

        Raises:
            InputError: the case is not planned to its end, or a setting cannot be used.
        """
        axis = load_axis(case, settings.catheter.to)
        truth = make_truth(case, axis, settings.truth, seed, say)
        start = PATH_MARGIN_RADII * float(axis.radius[0])
        end = float(axis.distance[-1]) - PATH_MARGIN_RADII * float(axis.radius[-1])
        fiducials = read_point_file(case.require(FIDUCIALS)).by_name()
        motion = plan_motion(end - start, len(fiducials), settings.catheter)
        return cls(case, settings, seed, axis, truth, motion, start, random_pose(np.random.default_rng([seed, 2])))

    def distance(self, time_s: float) -> float:
        """Where the tip is along the axis [mm from the inlet]."""
        return self.path_start + self.motion.distance(time_s)

    def tip(self, time_s: float) -> Array:
        """(3,) where the tip truly is in the image [mm, LPS]."""
        position: Array = self.axis.at(self.distance(time_s))[0]
        return position

    def tip_pressure_mmhg(self, time_s: float) -> float:
        """The true pressure at the tip."""
        return self.truth.pressure_at(time_s, self.distance(time_s))

    def tool_pose(self, time_s: float) -> Array:
        """(4, 4) tracker_from_tool: the tool's origin is its tip, its z axis points along the vessel."""
        distance = self.distance(time_s)
        ahead, behind = self.axis.at([distance + 0.5, distance - 0.5])
        along = (ahead - behind) / np.linalg.norm(ahead - behind)
        side = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
        side /= np.linalg.norm(side)
        image_from_tool = np.eye(4)
        image_from_tool[:3, :3] = np.column_stack([side, np.cross(along, side), along])
        image_from_tool[:3, 3] = self.tip(time_s)
        pose: Array = invert(self.image_from_tracker) @ image_from_tool
        return pose

    def devices(self) -> list[Device]:
        """The devices that watch this procedure, each behind its link."""
        generators = [np.random.default_rng([self.seed, 3, number]) for number in range(5)]
        links = [np.random.default_rng([self.seed, 4, number]) for number in range(4)]
        tracker, pressure, flow = self.settings.tracker, self.settings.pressure, self.settings.flow
        fiducials = read_point_file(self.case.require(FIDUCIALS)).by_name()
        tracker_from_image = invert(self.image_from_tracker)
        touches = [
            (
                TOUCH_START_S + TOUCH_INTERVAL_S * number,
                name,
                tracker_from_image[:3, :3] @ point + tracker_from_image[:3, 3],
            )
            for number, (name, point) in enumerate(fiducials.items())
        ]
        inlet = self.truth.port_names[0]
        duration = self.motion.duration
        reported = with_errors(self.tool_pose, tracker_errors(tracker), links[3])
        catheter = TrackerDevice(
            tool=CATHETER,
            pose=reported,
            rate_hz=read_quantity(tracker.rate, "1/s", name="tracker.rate"),
            duration_s=duration,
            position_noise=read_quantity(tracker.position_noise, "mm", name="tracker.position_noise"),
            rotation_noise=read_quantity(tracker.rotation_noise, "rad", name="tracker.rotation_noise"),
            generator=generators[0],
        )
        transducer = PressureDevice(
            sensor="catheter_pressure",
            tool=CATHETER,
            pressure_mmhg=self.tip_pressure_mmhg,
            rate_hz=read_quantity(pressure.rate, "1/s", name="pressure.rate"),
            duration_s=duration,
            noise_mmhg=read_quantity(pressure.noise, "mmHg", name="pressure.noise"),
            samples_per_message=pressure.samples_per_message,
            bias_mmhg=read_quantity(pressure.bias, "mmHg", name="pressure.bias"),
            transducer=line_of(pressure, self.settings.intervention, self.truth.period, duration),
            generator=generators[2],
        )
        transducer.prepare()
        probe = FlowDevice(
            sensor="flow_probe",
            port=inlet,
            flow_ml_s=lambda time_s: self.truth.flow_at(time_s, inlet),
            rate_hz=read_quantity(flow.rate, "1/s", name="flow.rate"),
            duration_s=duration,
            relative_noise=flow.noise,
            generator=generators[3],
        )

        def unseen(time_s: float) -> bool:
            return reported(time_s) is None

        linked: list[Device] = [
            Link(catheter, link_errors(tracker, unseen), links[0]),
            Link(moved_transducer(transducer, self.settings.intervention), link_errors(pressure, unseen), links[1]),
            Link(probe, link_errors(flow, unseen), links[2]),
            *self._beside(unseen),
        ]
        touching = FiducialTouches(
            touches=touches,
            tool="pointer",
            noise=read_quantity(tracker.touch_noise, "mm", name="tracker.touch_noise"),
            generator=generators[1],
        )
        monitor = TriggerDevice(
            kind="r_wave", times=np.arange(0.0, duration, self.truth.period), generator=generators[4]
        )
        # Each device says for which streams its clock stands.
        told = (
            ("tracker", tracker, (catheter.stream, "touch/pointer")),
            ("monitor", pressure, ("pressure/catheter_pressure", "pressure/arterial_line", "trigger/r_wave")),
            ("flow_probe", flow, ("flow/flow_probe",)),
        )
        heartbeats = [
            HeartbeatDevice(name, duration, synchronized=is_synchronized(settings), streams=streams)
            for name, settings, streams in told
        ]
        # The pointer is the tracker's: it has its clock, and no message of a person's touch is lost.
        of_tracker = link_errors(tracker, unseen)
        clock = LinkErrors(clock_offset_s=of_tracker.clock_offset_s, clock_drift_ppm=of_tracker.clock_drift_ppm)
        return [
            *linked,
            Link(touching, clock, links[3]),
            monitor,
            *heartbeats,
            Notes(self.settings.intervention, duration),
        ]

    def _beside(self, unseen: Callable[[float], bool]) -> list[Device]:
        """The devices that a procedure may have beside the usual ones."""
        chosen, duration = self.settings, self.motion.duration
        draws = [np.random.default_rng([self.seed, 5, number]) for number in range(5)]
        devices: list[Device] = []
        if chosen.arterial_line.present:
            line = arterial_line(chosen.arterial_line, self.truth, duration, draws[0])
            devices.append(Link(line, link_errors(chosen.arterial_line, unseen), draws[1]))
        if chosen.section_flow.every is not None:
            place = self.axis.at(chosen.section_flow.place * float(self.axis.distance[-1]))[0]
            outlets = self.truth.port_names[1:]
            tree = read_branch_tree(self.case)
            branch = tree.names[int(tree.branch[tree.tree.query(place)[1]])]
            behind = outlets_behind(self.case, outlets)[branch]
            names = tuple(name for name, is_behind in zip(outlets, behind, strict=True) if is_behind)
            devices.append(section_flow(chosen.section_flow, self.truth, place, names, duration, draws[2]))
        if chosen.doppler.every is not None:
            distance = chosen.doppler.place * float(self.axis.distance[-1])
            place, ahead, behind_it = self.axis.at([distance, distance + 0.5, distance - 0.5])
            along = (ahead - behind_it) / np.linalg.norm(ahead - behind_it)
            tracker_from_image = invert(self.image_from_tracker)
            devices.append(
                doppler(chosen.doppler, self.truth, distance, place, along, tracker_from_image, duration, draws[3])
            )
        if chosen.cardiac_output.every is not None:
            devices.append(cardiac_output(chosen.cardiac_output, self.truth, duration, draws[4]))
        return devices

    def record(self, epoch_ns: int) -> None:
        """Keep what scoring needs beside the case."""
        path = self.case.path(PROCEDURE_RECORD)
        content = {
            "seed": self.seed,
            "settings": msgspec.to_builtins(self.settings),
            "to": self.axis.outlet,
            "path_start": self.path_start,
            "epoch_ns": epoch_ns,
            "image_from_tracker": self.image_from_tracker.tolist(),
            "motion": {"times": self.motion.times.tolist(), "distances": self.motion.distances.tolist()},
        }
        write_atomically(path, json.dumps(content, indent=1))


def random_pose(generator: np.random.Generator) -> Array:
    """(4, 4) a uniformly random rotation and a tracker about a metre away."""
    quaternion = generator.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = generator.normal(size=3) * 600.0
    return pose
