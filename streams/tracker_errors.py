"""What a simulated tracker does to a pose besides noise: it is blind at times, bent by metal, and drifts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.rotations import rotation_about

Array = NDArray[np.float64]
Pose = Callable[[float], Array | None]

FEATURES = 24


@dataclass(frozen=True)
class TrackerErrors:
    """Errors that are not noise."""

    occlusions: Sequence[tuple[float, float]] = ()
    """begin and end [s] of each time that something stands before the tool"""
    most_tilt_deg: float = 180.0
    """An optical tool is seen while its y axis is within this angle of the direction to the tracker."""
    distortion_mm: float = 0.0
    """root mean square of the displacement by metal in an electromagnetic field"""
    distortion_length_mm: float = 150.0
    """over which the field changes"""
    distortion_deg: float = 0.0
    """root mean square of the rotation that goes with it"""
    drift_mm_per_min: float = 0.0
    """of the sensor, in a fixed direction"""


class Distortion:
    """A smooth vector field with a given root mean square: a sum of plane waves with random directions and phases.

    Such sums approach a Gaussian random field with a squared-exponential covariance (A. Rahimi, B. Recht, "Random
    features for large-scale kernel machines", NIPS 2007). The field is fixed in space: the same place is always
    displaced alike, which averaging does not help against.
    """

    def __init__(self, rms: float, length_mm: float, generator: np.random.Generator) -> None:
        self._waves = generator.normal(size=(FEATURES, 3)) / length_mm
        self._phases = generator.uniform(0, 2 * math.pi, FEATURES)
        # Each component has a third of the mean square.
        self._weights = generator.normal(size=(FEATURES, 3)) * rms * math.sqrt(2.0 / (3.0 * FEATURES))

    def at(self, position: Array) -> Array:
        """(3,) displacement at a (3,) position."""
        value: Array = np.cos(self._waves @ position + self._phases) @ self._weights
        return value


def with_errors(pose: Pose, errors: TrackerErrors, generator: np.random.Generator) -> Pose:
    """The pose that the tracker would report without noise, as a function of time [s]; None where it sees nothing.

    Args:
        pose: true (4, 4) tracker_from_tool.
        errors: what is wrong.
        generator: draws the fields and directions.
    """
    place = Distortion(errors.distortion_mm, errors.distortion_length_mm, generator)
    turn = Distortion(math.radians(errors.distortion_deg), errors.distortion_length_mm, generator)
    direction = generator.normal(size=3)
    direction /= np.linalg.norm(direction)
    least = math.cos(math.radians(errors.most_tilt_deg))

    def reported(time_s: float) -> Array | None:
        truth = pose(time_s)
        if truth is None or any(begin <= time_s < end for begin, end in errors.occlusions):
            return None
        position = truth[:3, 3]
        distance = float(np.linalg.norm(position))
        if errors.most_tilt_deg < 180.0 and distance > 0 and float(-truth[:3, 1] @ position) / distance < least:
            return None
        bent = truth.copy()
        bent[:3, 3] = position + place.at(position) + direction * errors.drift_mm_per_min * time_s / 60.0
        if errors.distortion_deg:
            bent[:3, :3] = rotation_about(turn.at(position)) @ truth[:3, :3]
        return bent

    return reported
