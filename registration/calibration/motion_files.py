"""What a recording shows of a motion: poses, positions, or one signal over time, and the lag between two recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from registration.calibration.pose_stream_offset import find_pose_stream_offset, turning_speed
from registration.calibration.time_offset import (
    TimeOffset,
    find_time_offset,
    line_position,
    motion_along_main_direction,
)
from registration.errors import InputError
from registration.image.files import read_image
from registration.pose_files import POSE_COLUMNS, PoseStream, poses_from_rows, read_pose_table, read_sequence
from registration.rigid import Array
from registration.tables import read_rows

SEQUENCES = (".mha", ".mhd", ".nrrd", ".nhdr")


@dataclass(frozen=True)
class Motion:
    """Stamps (n,) in seconds, a signal (n,) that moves with the tool, and the poses where the recording has them."""

    time_s: Array
    signal: Array
    poses: PoseStream | None
    meaning: str


def read_motion(path: Path, tool: str | None = None, reference: str | None = None) -> Motion:
    """The motion in a recording.

    A PLUS or Slicer sequence gives the tool's poses where a tool is named, else the place of the brightest line in each
    of its images (a tank's floor, a wire). A table gives by its width: time and value; time and position; time,
    position and quaternion. Positions become the place along the direction in which they vary most.

    Args:
        path: the recording.
        tool: name of the tracked tool in a sequence.
        reference: name of the reference in a sequence, if one was tracked.

    Raises:
        InputError: the recording cannot be read, or shows no motion.
    """
    if path.suffix.lower() in SEQUENCES:
        header = read_sequence(path)
        if tool is not None:
            return _of_poses(header.stream(tool, reference))
        images = _frames(path, header.streams)
        if len(images) != len(header.time_s):
            raise InputError(f"{path} has {len(images)} images and {len(header.time_s)} stamps; record it again.")
        rows = np.array([line_position(image) for image in images])
        if np.isnan(rows).mean() > 0.5:
            raise InputError(f"{path} shows a line in fewer than half of its images; image a flat floor or a wire.")
        return Motion(header.time_s, rows, None, "row of the brightest line [px]")
    meaning = "time_s and a value, time_s,x,y,z, or time_s,x,y,z,qx,qy,qz,qw"
    table = read_rows(path, (2, 4, 8), meaning, POSE_COLUMNS)
    if table.shape[1] == 2:
        return Motion(table[:, 0], table[:, 1], None, "signal")
    if table.shape[1] == 8:
        return _of_poses(poses_from_rows(table[:, 0], table[:, 1:4], table[:, 4:], name=path.name))
    kept = table[np.isfinite(table).all(axis=1)]
    if len(kept) < 2:
        raise InputError(f"{path} holds fewer than two finite positions; record it again.")
    return Motion(kept[:, 0], motion_along_main_direction(kept[:, 1:]), None, "place along the main direction [mm]")


def read_poses(path: Path, tool: str, reference: str | None = None) -> PoseStream:
    """Poses of a tool from a PLUS or Slicer sequence or from a table of time,x,y,z,qx,qy,qz,qw.

    Raises:
        InputError: the recording cannot be read.
    """
    return read_sequence(path).stream(tool, reference) if path.suffix.lower() in SEQUENCES else read_pose_table(path)


def find_lag(first: Motion, second: Motion, *, reach_s: float = 1.0) -> TimeOffset:
    """Lag of the second recording behind the first.

    Two recordings with poses are compared by how fast the body turned, which no mounting changes; others by
    their signals.

    Raises:
        InputError: as `find_time_offset`.
    """
    if first.poses is not None and second.poses is not None:
        return find_pose_stream_offset(first.poses, second.poses, reach_s=reach_s)
    return find_time_offset(first.time_s, first.signal, second.time_s, second.signal, reach_s=reach_s)


def compared(first: Motion, second: Motion) -> tuple[tuple[Array, Array], tuple[Array, Array], str]:
    """What `find_lag` compares of both, each (stamps, values), and what it is."""
    if first.poses is not None and second.poses is not None:
        return turning_speed(first.poses.used()), turning_speed(second.poses.used()), "speed of turning [rad/s]"
    return (first.time_s, first.signal), (second.time_s, second.signal), "signal (standardized)"


def _of_poses(stream: PoseStream) -> Motion:
    used = stream.used()
    along = motion_along_main_direction(used.poses[:, :3, 3])
    return Motion(used.time_s, along, stream, "place along the main direction [mm]")


def _frames(path: Path, streams: dict[str, PoseStream]) -> Array:
    """Images (n, rows, columns) of a sequence."""
    named = f"name one of its tools ({', '.join(streams)})" if streams else "record the images along"
    try:
        image = read_image(path)
    except InputError:
        raise InputError(f"{path} holds no images; {named}.") from None
    frames = sitk.GetArrayFromImage(image)
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3 or min(frames.shape[1:]) < 8:
        raise InputError(f"{path} holds no gray images; {named}.")
    return np.asarray(frames)
