"""The case: a folder a person can read, holding one patient's plan.

``case.toml`` says what was done, with which settings, software versions and input hashes; beside it
lie standard files (NRRD, VTP, VTU, NPZ, CSV) that 3D Slicer and ParaView open. Each planning step
reads and writes the case, can be run again alone, and is skipped when nothing it read has changed.
"""

import csv
import hashlib
import io
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from surgical_twin import __version__
from surgical_twin.errors import InputError

CASE_FORMAT = 1
"""Version of the case's layout; a case of another version is refused, not guessed at."""

IMAGE = "image.nrrd"
LABELS = "labels.nrrd"
LEVEL_SET = "level_set.nrrd"
PICTURE = "lumen.png"
"""Projections of the image with the lumen's outline, to judge the segmentation by."""

LUMEN = "lumen.nrrd"
"""The level set without the branches that the centerline leaves out: what is meshed."""

CENTERLINE = "centerline.vtp"
CENTERLINE_TABLE = "centerline.csv"
BRANCHES = "branches.csv"
STENOSES = "stenoses.csv"
MESH = "mesh.vtu"
SURFACE = "surface.vtp"
ANATOMY = "anatomy.vtp"
FIDUCIALS = "fiducials.csv"
AXIS = "axis.csv"
"""Stations along the vessel from the inlet through its narrowest place: name is the distance in mm."""

REDUCED = "reduced.npz"
MANIFEST = "case.toml"
MISSING = "missing"
"""The manifest's table of what sensors lose because of their values; ``missing_settings``."""

SESSION_FILES = (MESH, FIDUCIALS, AXIS, REDUCED, CENTERLINE, CENTERLINE_TABLE)
"""What a live session reads: two cases with equal contents of these give equal twin states."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's contents, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is never half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file that `write_table` wrote, each by the header's names.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); plan the case again.") from error


@dataclass
class Case:
    """One case folder and its manifest."""

    folder: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path) -> "Case":
        """Open the case at ``folder``, or begin a new one there.

        Raises:
            InputError: the folder holds something else, or a case of another version.
        """
        if (folder / MANIFEST).exists():
            return cls.open(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder} exists and is no case (it has no {MANIFEST}); name a new or empty folder with --case."
            )
        return cls(folder, {"case": {"format": CASE_FORMAT, "software": f"surgical-twin {__version__}"}})

    @classmethod
    def open(cls, folder: Path) -> "Case":
        """Open an existing case.

        Raises:
            InputError: there is none, its manifest cannot be read, or it is of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{folder} is no case: it has no {MANIFEST}; make one with surgical-twin plan IMAGE --case."
            )
        try:
            manifest = tomllib.loads(path.read_text(encoding="utf-8"))
            version = manifest["case"]["format"]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read as a case manifest ({error}); plan the case again.") from error
        if version != CASE_FORMAT:
            raise InputError(
                f"{folder} is a case of format {version}, and this software reads format {CASE_FORMAT}; plan it again "
                "into a new folder, or use the software version that the manifest names."
            )
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """Where the case's file ``name`` lies."""
        return self.folder / name

    def require(self, name: str) -> Path:
        """The path of a file that must be there.

        Raises:
            InputError: the step that writes it has not been run.
        """
        path = self.path(name)
        if not path.is_file():
            raise InputError(
                f"The case {self.folder} has no {name}: its planning is not finished; run surgical-twin plan."
            )
        return path

    def save(self) -> None:
        """Write the manifest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(MANIFEST), tomli_w.dumps(self.manifest))

    def step(self, name: str) -> dict[str, Any]:
        """What the manifest holds on a planning step; empty where it has not been run."""
        steps: dict[str, dict[str, Any]] = self.manifest.get("step", {})
        return steps.get(name, {})

    def is_current(self, name: str, inputs: Sequence[str], settings: Mapping[str, Any]) -> bool:
        """Whether a step need not be run again.

        It need not if it was run by this software version with the same settings, and what it read and wrote
        is unchanged.
        """
        done = self.step(name)
        if not done or done["software"] != __version__ or done["settings"] != dict(settings):
            return False
        recorded = {**done["read"], **done["wrote"]}
        if set(done["read"]) != set(inputs):
            return False
        return all(
            self.path(file).is_file() and file_hash(self.path(file)) == known for file, known in recorded.items()
        )

    def record_step(
        self,
        name: str,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        settings: Mapping[str, Any],
        figures: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Say in the manifest what a step read, with which settings, what it wrote and found."""
        self.manifest.setdefault("step", {})[name] = {
            "software": __version__,
            "settings": dict(settings),
            "figures": dict(figures or {}),
            "notes": list(notes),
            "read": {file: file_hash(self.path(file)) for file in inputs},
            "wrote": {file: file_hash(self.path(file)) for file in outputs},
        }
        self.save()

    @property
    def follow_lumen(self) -> bool:
        """Whether a session takes the drift that the lumen shows out of the tip's position: ``follow_lumen`` of the
        manifest's table ``registration``; not if it does not say.

        Raises:
            InputError: it is neither true nor false.
        """
        table = self.manifest.get("registration", {})
        wanted = table.get("follow_lumen", False) if isinstance(table, dict) else None
        if not isinstance(wanted, bool):
            raise InputError(f"{self.path(MANIFEST)}: registration.follow_lumen is {wanted!r}; give true or false.")
        return wanted

    def session_hash(self) -> str:
        """Hash of everything in the case that a live session depends on."""
        digest = hashlib.sha256()
        for name in SESSION_FILES:
            digest.update(name.encode())
            digest.update(file_hash(self.require(name)).encode())
        digest.update(repr(sorted(self.manifest["flow"].items())).encode())
        digest.update(repr(self.follow_lumen).encode())
        if MISSING in self.manifest:
            digest.update(repr(self.manifest[MISSING]).encode())
        calibration = self.path("calibration.json")
        if calibration.is_file():
            digest.update(file_hash(calibration).encode())
        return digest.hexdigest()
