"""Touched landmarks for registration: from a file of points, or from a recording of the stylus that touched them."""

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from registration.calibration.motion_files import SEQUENCES, read_poses
from registration.dwells import Dwells, find_dwells
from registration.point_files import FARTHEST_MM, PointSet, read_point_file
from registration.tables import number_of, read_text
from registration.verdict import Verdict
from surgical_twin.errors import InputError
from surgical_twin.registration_inputs import read_tip

Array = NDArray[np.float64]


def read_touched(
    path: Path, tip: str | None, tool: str, reference: str | None
) -> tuple[PointSet, Dwells | None, Verdict]:
    """Touched points, how they were found where a tip is given and the file is a recording, and how much of it is lost.

    Args:
        path: a file of points, or a recording of poses.
        tip: x,y,z in the tool's frame in mm, an earlier calibration's result, or a PLUS configuration (``.xml``), which
            tells where ToolTip is in Tool; None for a file of points.
        tool: the stylus' name in a sequence.
        reference: the reference's name in it, if one was tracked.

    Raises:
        InputError: a file cannot be read, or the recording shows nothing being touched.
    """
    if tip is None:
        if path.suffix.lower() in SEQUENCES:
            raise InputError(
                f"{path} is a recording; give the stylus' --tip: X,Y,Z in mm, or the result of calibrate pivot."
            )
        return read_point_file(path), None, Verdict("pass", f"{path} holds points")
    recorded = read_poses(path, tool, reference)
    dwells = find_dwells(recorded, _tip_from(tip, tool))
    names = tuple(str(k) for k in range(1, len(dwells.places) + 1))
    return PointSet(path, dwells.places, names, named=False), dwells, recorded.loss


def refuse_other_count(touched: PointSet, dwells: Dwells, target: PointSet) -> None:
    """Dwells are paired in order, so there must be as many as landmarks.

    Raises:
        InputError: there are not.
    """
    if len(touched.points) == len(target.points):
        return
    times = ", ".join(f"{begin:.1f}" for begin in dwells.begin_s)
    left_out = "".join(f"{left}; " for left in dwells.left_out)
    raise InputError(
        f"{touched.path} shows {len(dwells.begin_s)} landmarks being touched (from {times} s on), and {target.path} "
        f"has {len(target.points)}; {left_out}touch each once in its order, for a second, turning the stylus, or let "
        "--unordered find out which is which."
    )


def _tip_from(text: str, tool: str) -> Array:
    if Path(text).suffix.lower() == ".xml":
        return _plus_tip(Path(text), tool)
    if text.count(",") != 2 or Path(text).is_file():
        return read_tip(Path(text))
    numbers = [number_of(part) for part in text.split(",")]
    if any(value is None or not math.isfinite(value) or abs(value) > FARTHEST_MM for value in numbers):
        raise InputError(f'--tip "{text}" is not X,Y,Z: the tip in the tool\'s frame in mm with commas between.')
    return np.array(numbers, dtype=np.float64)


def _plus_tip(path: Path, tool: str) -> Array:
    words = read_text(path, "a PLUS configuration (.xml)")
    try:
        found = [
            np.array(element.get("Matrix", "").split(), dtype=np.float64).reshape(4, 4)
            for element in ElementTree.fromstring(words).iter("Transform")
            if (element.get("From"), element.get("To")) == (f"{tool}Tip", tool)
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is no PLUS configuration ({error}); give the tip as X,Y,Z in mm.") from error
    if not found or not (np.abs(found[0]) <= FARTHEST_MM).all():
        raise InputError(f"{path} does not tell where {tool}Tip is in {tool}; give the tip as X,Y,Z in mm.")
    return found[0][:3, 3]
