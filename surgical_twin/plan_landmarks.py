"""Landmarks of a case: the fiducials that registration touches, and places that a person marks for the procedure.

The latter lie in the case as ``landmarks.mrk.json``, a markups file that 3D Slicer opens and writes; the fiducials in
``fiducials.csv``. A landmark called ``target`` is what the display navigates to. Positions are mm, LPS.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError as RegistrationInputError
from registration.point_files import read_point_file
from surgical_twin.case import FIDUCIALS, IMAGE, Case, file_hash, write_atomically, write_table
from surgical_twin.errors import InputError
from surgical_twin.plan_approval import LANDMARKS

TARGET = "target"
LEAST_FIDUCIALS = 3
MOST = 200
MOST_LETTERS = 64

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

Points = dict[str, NDArray[np.float64]]


class PlanLandmarks:
    """Reads, changes and writes both.

    Raises:
        InputError: a file of the case cannot be read, or gives no names.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self.fiducials: Points = self._read(FIDUCIALS)
        self.marks: Points = self._read(LANDMARKS)

    def place(self, name: str, point: ArrayLike) -> None:
        """Put a landmark at a point (3,); a new one where there is none of that name. Fiducials keep their kind.

        Raises:
            InputError: the name is none, or the point is not in the planning image.
        """
        name, where = self._valid_name(name), self._valid_point(point)
        if name in self.fiducials:
            self._write_fiducials(self.fiducials | {name: where})
            return
        if len(self.marks) >= MOST and name not in self.marks:
            raise InputError(f"A case has {MOST} landmarks at most; remove one first.")
        self._write_marks(self.marks | {name: where})

    def add_fiducial(self, name: str, point: ArrayLike) -> None:
        """Add a fiducial for registration.

        Raises:
            InputError: as `place`, or the name is taken.
        """
        name, where = self._valid_name(name), self._valid_point(point)
        self._require_free(name)
        self._write_fiducials(self.fiducials | {name: where})

    def rename(self, old: str, new: str) -> None:
        """Call one otherwise; it keeps its place in the list.

        Raises:
            InputError: there is none of that name, or the new one is none or taken.
        """
        new = self._valid_name(new)
        if new == old:
            return
        self._require_free(new)
        for points, write in ((self.fiducials, self._write_fiducials), (self.marks, self._write_marks)):
            if old in points:
                write({new if name == old else name: point for name, point in points.items()})
                return
        raise InputError(f'There is no landmark "{old}".')

    def remove(self, name: str) -> None:
        """Take one away.

        Raises:
            InputError: there is none of that name, or too few fiducials would be left to register by.
        """
        if name in self.marks:
            self._write_marks({key: point for key, point in self.marks.items() if key != name})
        elif name in self.fiducials:
            if len(self.fiducials) <= LEAST_FIDUCIALS:
                raise InputError(f"Registration needs {LEAST_FIDUCIALS} fiducials; place another before {name} goes.")
            self._write_fiducials({key: point for key, point in self.fiducials.items() if key != name})
        else:
            raise InputError(f'There is no landmark "{name}".')

    def _read(self, name: str) -> Points:
        path = self._case.path(name)
        if not path.is_file():
            return {}
        try:
            if name == LANDMARKS and not json.loads(path.read_text(encoding="utf-8"))["markups"][0]["controlPoints"]:
                return {}
            return read_point_file(path).by_name()
        except (ValueError, KeyError, IndexError, TypeError, OSError, RegistrationInputError) as error:
            raise InputError(f"{path} cannot be read as landmarks ({error}).") from error

    def _write_marks(self, marks: Mapping[str, NDArray[np.float64]]) -> None:
        write_atomically(self._case.path(LANDMARKS), json.dumps(markups(marks), indent=1))
        self.marks = dict(marks)

    def _write_fiducials(self, points: Mapping[str, NDArray[np.float64]]) -> None:
        rows = [(name, *(f"{value:.4f}" for value in point)) for name, point in points.items()]
        path = self._case.path(FIDUCIALS)
        before = file_hash(path) if path.is_file() else ""
        write_table(path, ("name", "x", "y", "z"), rows)
        # The step that wrote them need not be done again for what a person has corrected.
        for step in self._case.manifest.get("step", {}).values():
            for recorded in (step["read"], step["wrote"]):
                if recorded.get(FIDUCIALS) == before:
                    recorded[FIDUCIALS] = file_hash(path)
        self._case.save()
        self.fiducials = dict(points)

    def _require_free(self, name: str) -> None:
        if name in self.fiducials or name in self.marks:
            raise InputError(f'The name "{name}" is taken; give another.')

    def _valid_name(self, name: str) -> str:
        name = " ".join(name.split())
        if not name or len(name) > MOST_LETTERS or "," in name or '"' in name or name.startswith("#"):
            raise InputError(f"A landmark's name has 1 to {MOST_LETTERS} letters, no comma, no quote and no # before.")
        return name

    def _valid_point(self, point: ArrayLike) -> NDArray[np.float64]:
        where = np.asarray(point, dtype=float).reshape(-1)
        if where.shape != (3,) or not np.isfinite(where).all():
            raise InputError("A landmark's place has three finite coordinates [mm, LPS].")
        path = self._case.path(IMAGE)
        if path.is_file():
            low, high = _image_bounds(path)
            if (where < low - 1.0).any() or (where > high + 1.0).any():
                words = ", ".join(f"{value:.1f}" for value in where)
                raise InputError(f"({words}) mm is not in the planning image; place the landmark inside of it.")
        return where


def markups(points: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Points as a markups file of 3D Slicer, in LPS."""
    return {
        "@schema": SCHEMA,
        "markups": [
            {
                "type": "Fiducial",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "locked": False,
                "labelFormat": "%N",
                "lastUsedControlPointNumber": len(points),
                "controlPoints": [
                    {
                        "id": str(number),
                        "label": name,
                        "description": "",
                        "associatedNodeID": "",
                        "position": [round(float(value), 4) for value in point],
                        "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
                        "selected": True,
                        "locked": False,
                        "visibility": True,
                        "positionStatus": "defined",
                    }
                    for number, (name, point) in enumerate(points.items(), 1)
                ],
            }
        ],
    }


def _image_bounds(path: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest coordinates (3,) mm LPS of an image's corners."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, spacing = np.array(reader.GetSize()), np.array(reader.GetSpacing())
    turn = np.array(reader.GetDirection()).reshape(3, 3)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (size - 1) * spacing
    places = np.array(reader.GetOrigin()) + corners @ turn.T
    return places.min(axis=0), places.max(axis=0)
