"""How a patient is registered in a session: by touched fiducials, or by a registration that was made elsewhere."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.landmarks import LandmarkRegistration
from registration.pose_error import PoseError
from registration.rigid import check_rigid, matrix_from_quaternion, quaternion_from_matrix
from streams.messages import PatientRegistration, fault
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.registration_results import FOLDER

Array = NDArray[np.float64]

FIELDS = ("method", "position", "quaternion", "covariance", "center")
"""What a `PatientRegistration` says of one, beside its head."""

LANDMARKS = "landmarks"


@dataclass(frozen=True)
class Registered:
    """The patient, registered."""

    target_from_source: Array
    """(4, 4) planning image (LPS) from the tracker's frame, mm"""
    error: PoseError
    """in the image"""
    fre: float | None
    """RMS residual at the fiducials, mm; None where there were none"""
    method: str
    widening: float = 1.0
    """Factor on variances, in ``error``, that keeps regions honest where the fiducials' error was estimated."""

    def expected_tre(self, point: Array) -> float:
        """RMS target registration error [mm] to expect at a point (3,) of the image."""
        return float(self.error.tre(point)) / math.sqrt(self.widening)

    @classmethod
    def by_landmarks(cls, found: LandmarkRegistration) -> Registered:
        """What touched fiducials gave."""
        return cls(found.target_from_source, found.error, found.fre, LANDMARKS, found.widening)

    @classmethod
    def as_told(cls, message: PatientRegistration) -> Registered:
        """What was found elsewhere."""
        covariance = np.array(message.covariance).reshape(6, 6)
        error = PoseError(0.5 * (covariance + covariance.T), np.array(message.center))
        return cls(matrix_from_quaternion(message.quaternion, message.position), error, None, message.method)


def read_registration(case: Case, name: str) -> dict[str, Any]:
    """The `FIELDS` of a registration's result, for the message that tells a session of it.

    Args:
        case: where the result is.
        name: of the registration in the case (``surface`` for ``registration/surface.json``), or a path.

    Raises:
        InputError: there is none of that name, it failed, or it does not tie the tracker to the image.
    """
    path = Path(name)
    if path.suffix != ".json":
        path = case.path(f"{FOLDER}/{name}.json")
    if not path.is_file():
        there = sorted(one.stem for one in case.path(FOLDER).glob("*.json"))
        known = f"it has {', '.join(there)}" if there else "it has none: make one with surgical-twin register"
        raise InputError(f"{path} is no registration of the case; {known}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        verdict, method = content["verdict"], content["registration"]
        pose = np.array(content["image_from_tracker"], dtype=float)
        covariance = np.array(content["covariance"], dtype=float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not tie the tracker to the image ({error!r}); "
            "name a result of register landmarks or register surface."
        ) from error
    if verdict == "fail":
        raise InputError(f"{path} failed ({content.get('reason')}); register again before the twin goes by it.")
    matrix = check_rigid(pose, f"image_from_tracker of {path}")
    fields = {
        "method": str(method),
        "position": tuple(map(float, matrix[:3, 3])),
        "quaternion": tuple(map(float, quaternion_from_matrix(matrix))),
        "covariance": tuple(map(float, covariance.ravel())),
        "center": (0.0, 0.0, 0.0),
    }
    wrong = fault(PatientRegistration(stream="case", sequence=0, source_time_ns=0, **fields))  # type: ignore[arg-type]
    if wrong is not None:
        raise InputError(f"{path} cannot be used: {wrong}; register again.")
    return fields
