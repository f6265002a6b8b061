"""Poses over time from files: PLUS and 3D Slicer sequences (.mha, .nrrd headers), and plain tables.

A pose that its file marks as not valid, that holds a value that is not finite, or that is all zeros (some
trackers' word for "not seen") is kept with `valid` False, and never used as a pose.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError
from registration.point_files import FARTHEST_MM
from registration.rigid import Array, check_rigid, invert, matrix_from_quaternion
from registration.tables import read_rows
from registration.verdict import Verdict

MOST_LOST = 0.1
"""Part of a recording's poses that may be lost without a word."""

POSE_COLUMNS = ("t", "x", "y", "z", "qx", "qy", "qz", "qw")
"""Of a table of poses, and the first four of one of positions."""

_FIELD = re.compile(r"^Seq_Frame(\d+)_(\w+)\s*:?=\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class PoseStream:
    """Poses of one tool over time.

    Attributes:
        name: ``target_from_source`` in words, e.g. "StylusToTracker" as the file says it.
        time_s: (n,) stamps in seconds of the file's clock.
        poses: (n, 4, 4) in mm; the identity where not valid.
        valid: (n,) whether the pose may be used.
        unscaled: how many are not valid because their quaternion is not of unit length: a fault of the file, not of
            the tracker's view.
    """

    name: str
    time_s: Array
    poses: Array
    valid: NDArray[np.bool_]
    unscaled: int = 0

    def used(self) -> PoseStream:
        """The valid poses alone, in order of time, repeated stamps dropped.

        Raises:
            InputError: none is valid.
        """
        keep = np.flatnonzero(self.valid)
        if not len(keep):
            raise InputError(f"{self.name}: none of {len(self.valid)} poses is valid; {self._why_lost}")
        keep = keep[np.argsort(self.time_s[keep], kind="stable")]
        keep = keep[np.concatenate([[True], np.diff(self.time_s[keep]) > 0.0])]
        return PoseStream(self.name, self.time_s[keep], self.poses[keep], np.ones(len(keep), dtype=bool))

    @property
    def loss(self) -> Verdict:
        """How many poses cannot be used, for a person to judge: more than a tenth is to be looked at."""
        lost = int(np.sum(~self.valid))
        said = f"{lost} of {len(self.valid)} poses of {self.name} are not valid"
        if self.unscaled or lost > MOST_LOST * len(self.valid):
            return Verdict("check", f"{said}; {self._why_lost}")
        return Verdict("pass", said)

    @property
    def _why_lost(self) -> str:
        if self.unscaled:
            return f"{self.unscaled} have a quaternion that is not of unit length: mend the file"
        return "was the tool ever in view?" if not self.valid.any() else "was the tool in view?"


@dataclass(frozen=True)
class SequenceHeader:
    """What a PLUS sequence says per frame: stamps (n,), and each transform's values by its name."""

    path: Path
    time_s: Array
    streams: dict[str, PoseStream]

    def stream(self, tool: str, reference: str | None = None) -> PoseStream:
        """``reference_from_tool`` (or ``Tracker_from_tool`` where no reference is given).

        A frame is valid only where both the tool and the reference are.

        Raises:
            InputError: the file does not hold these frames.
        """
        direct = f"{tool}To{reference or 'Tracker'}"
        if direct in self.streams:
            return self.streams[direct]
        first, second = f"{tool}ToTracker", f"{reference}ToTracker"
        wanted = (first,) if reference is None else (first, second)
        missing = [name for name in wanted if name not in self.streams]
        if reference is None or missing:
            raise InputError(
                f"{self.path} has no transform {' or '.join(missing or [direct])}; "
                f"it has {', '.join(self.streams) or 'none'}."
            )
        a, b = self.streams[first], self.streams[second]
        valid = a.valid & b.valid
        poses = np.array([invert(r) @ t if ok else np.eye(4) for r, t, ok in zip(b.poses, a.poses, valid, strict=True)])
        return PoseStream(direct, self.time_s, poses, valid)


def read_sequence(path: Path) -> SequenceHeader:
    """Read the per-frame fields of a PLUS or Slicer sequence, whether or not it holds images.

    Raises:
        InputError: the file cannot be read or has no frames.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a sequence file (.mha, .nrrd).") from error
    end = data.find(b"ElementDataFile")
    if data.startswith(b"NRRD"):
        end = data.find(b"\n\n")
    text = data[: end if end >= 0 else len(data)].decode("latin-1").replace("\r", "")
    fields: dict[str, dict[int, str]] = {}
    for number, name, value in _FIELD.findall(text):
        fields.setdefault(name, {})[int(number)] = value
    if "Timestamp" not in fields:
        raise InputError(f"{path} holds no stamped frames; it is no PLUS or Slicer sequence.")
    frames = sorted(fields["Timestamp"])
    try:
        time_s = np.array([float(fields["Timestamp"][k]) for k in frames])
    except ValueError as error:
        raise InputError(f"{path} has a time stamp that is no number ({error}).") from None
    streams = {}
    for name in fields:
        if not name.endswith("Transform"):
            continue
        status = fields.get(f"{name}Status", {})
        rows = [_matrix(fields[name].get(k), status.get(k, "OK")) for k in frames]
        valid = np.array([row is not None for row in rows])
        poses = np.array([np.eye(4) if row is None else row for row in rows])
        streams[name.removesuffix("Transform")] = PoseStream(name.removesuffix("Transform"), time_s, poses, valid)
    return SequenceHeader(Path(path), time_s, streams)


def _matrix(text: str | None, status: str) -> Array | None:
    if text is None or status != "OK":
        return None
    try:
        return check_rigid(np.array(text.split(), dtype=np.float64).reshape(4, 4), tolerance=2e-3)
    except ValueError:  # InputError is one: a pose that cannot be is a pose that is not there
        return None


def poses_from_rows(
    time_s: ArrayLike, positions: ArrayLike, quaternions: ArrayLike, *, name: str = "poses", scalar_first: bool = False
) -> PoseStream:
    """A stream from positions (n, 3) in mm and quaternions (n, 4), x y z w unless `scalar_first`.

    Rows of zeros, of values that are not finite or as far off as no tracker sees (some devices' word for "not seen"),
    or with a quaternion that is not of unit length within 1 % are marked as not valid.
    """
    t = np.asarray(time_s, dtype=np.float64)
    p = np.asarray(positions, dtype=np.float64).reshape(len(t), 3)
    q = np.asarray(quaternions, dtype=np.float64).reshape(len(t), 4)
    if not scalar_first:
        q = np.roll(q, 1, axis=1)
    finite = np.isfinite(t) & (np.abs(p) <= FARTHEST_MM).all(axis=1) & np.isfinite(q).all(axis=1)
    length = np.linalg.norm(np.where(np.isfinite(q), q, 0.0), axis=1)
    valid = finite & (np.abs(length - 1.0) <= 0.01)
    poses = np.array([matrix_from_quaternion(q[i], p[i]) if valid[i] else np.eye(4) for i in range(len(t))])
    return PoseStream(name, t, poses.reshape(-1, 4, 4), valid, int(np.sum(finite & ~valid & (length > 0.0))))


def read_pose_table(path: Path, *, unit_mm: float = 1.0, scalar_first: bool = False) -> PoseStream:
    """Read a table of time [s], x, y, z, and a quaternion (x y z w), commas or blanks between.

    A first line of words is skipped, unless it names the columns in another order or other units.

    Args:
        path: the file.
        unit_mm: length of the file's unit in mm, where its heading does not say it; 1000 for meters.
        scalar_first: the quaternion is w x y z.

    Raises:
        InputError: the file cannot be read, a row has other than eight numbers, or the unit is no length.
    """
    if not (math.isfinite(unit_mm) and unit_mm > 0.0):
        raise InputError(f"a unit of {unit_mm:g} mm is not a positive length.")
    meaning = "time, x, y, z and a quaternion, eight numbers"
    columns = POSE_COLUMNS if not scalar_first else ("t", "x", "y", "z", "qw", "qx", "qy", "qz")
    table = read_rows(path, (8,), meaning, columns, unit_mm=unit_mm)
    return poses_from_rows(table[:, 0], table[:, 1:4], table[:, 4:], name=Path(path).name, scalar_first=scalar_first)


def read_position_table(path: Path) -> tuple[Array, Array]:
    """Read a table of time [s], x, y, z [mm]: stamps (n,) and positions (n, 3), NaN where a device sent such.

    Raises:
        InputError: the file cannot be read, or a row has other than four numbers.
    """
    table = read_rows(path, (4,), "time_s, x, y, z in mm, four numbers", POSE_COLUMNS)
    return table[:, 0], table[:, 1:]
