"""A terminal at which the registration commands are run as a user runs them."""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from meshes.centerline import Centerline, Line
from meshes.files import write_centerline, write_lumen_mesh
from meshes.ports import Port
from meshes.tetrahedra import LumenMesh
from surgical_twin import cli
from surgical_twin.case import CENTERLINE, CENTERLINE_TABLE, MESH, Case, write_table


class Terminal:
    """Runs ``surgical-twin`` on one case."""

    def __init__(self, case, monkeypatch, capsys):
        self.case = case
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.said = self.complained = ""

    def run(self, group, command, *words):
        """The exit code; what was printed is in `said` and `complained`, each on one line."""
        line = ["surgical-twin", group, command, str(self.case), *map(str, words)]
        self._monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = self._capsys.readouterr()
        self.said, self.complained = " ".join(printed.out.split()), " ".join(printed.err.split())
        return end.value.code

    def result(self, name):
        """What a command found, whole; no unfinished file may lie beside it."""
        folder = self.case / "registration"
        assert not list(folder.glob(".*"))
        return json.loads((folder / f"{name}.json").read_text())

    def files(self):
        """Names and contents of everything in the case."""
        return {path.relative_to(self.case): path.read_bytes() for path in self.case.rglob("*") if path.is_file()}

    def refused(self, group, command, *words):
        """The one sentence with which a command refuses its input, the case being left as it was."""
        before = self.files()
        assert self.run(group, command, *words) == 2, self.said
        assert self.files() == before
        assert (self.case / "registration").exists() == any(path.parts[0] == "registration" for path in before)
        assert self.complained.startswith("error: ")
        assert "Traceback" not in self.complained
        return self.complained


@pytest.fixture
def terminal(tmp_path, monkeypatch, capsys):
    made = Case.create(tmp_path / "case")
    made.save()
    return Terminal(made.folder, monkeypatch, capsys)


@pytest.fixture
def table(tmp_path):
    """Writes rows of numbers, with names before them where these are given, and returns the path."""

    def write(name, rows, *, names=None, head=None):
        lines = [",".join(f"{float(value)!r}" for value in row) for row in np.asarray(rows, dtype=float)]
        if names is not None:
            lines = [f"{label},{line}" for label, line in zip(names, lines, strict=True)]
        path = tmp_path / name
        path.write_text("\n".join(([head] if head else []) + lines) + "\n")
        return path

    return write


def head(size=40, spacing=4.0):
    """A CT of a skull-like shell with bony lumps, in Hounsfield units, its middle at the origin."""
    rng = np.random.default_rng(0)
    z, y, x = (np.indices((size, size, size)) - (size - 1) / 2) * spacing
    r = np.sqrt((x / 60) ** 2 + (y / 70) ** 2 + (z / 65) ** 2)
    hu = np.where(r < 1, 40.0, -1000.0)
    hu[(r < 1) & (r > 0.88)] = 1000.0
    for _ in range(10):
        c, s = rng.uniform(-40, 40, 3), rng.uniform(5, 14)
        hu[(x - c[0]) ** 2 + (y - c[1]) ** 2 + (z - c[2]) ** 2 < s**2] = rng.uniform(500, 1500)
    image = sitk.GetImageFromArray(gaussian_filter(hu, 0.6).astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([-0.5 * (size - 1) * spacing] * 3)
    return image


@pytest.fixture(scope="session")
def head_ct():
    return head


def fork():
    """A parent of 90 mm that bends and forks into two branches of 70 mm; points and radii."""
    s = np.linspace(0, 1, 60)[:, None]
    parent = np.array([0, 0, 90.0]) * s + 12 * np.sin(np.pi * s) * (1, 0.3, 0)
    lines, radii = [parent], [np.full(60, 4.0)]
    for side in (1, -1):
        along = np.array((side * np.sin(0.6), 0.1, np.cos(0.6)))
        lines.append(parent[-1] + 70 * s * along + 6 * np.sin(np.pi * s / 1.3) * (0.2, side, 0.3))
        radii.append(np.linspace(3.2, 2.4, 60))
    return lines, radii


@pytest.fixture
def planned(terminal):
    """The case with a centerline, its table and a mesh that has ports."""
    lines, radii = fork()
    frayed = lines[1][-1] + np.arange(1, 20)[:, None] * (lines[1][-1] - lines[1][-2])  # behind the port
    parts = [
        Line(lines[0], radii[0], None),
        Line(np.concatenate([lines[1], frayed]), np.concatenate([radii[1], np.full(19, 0.3)]), 0, "left"),
        Line(lines[2], radii[2], 0, "right"),
    ]
    centerline = Centerline.of_lines(parts)
    opened = Case.open(terminal.case)
    write_centerline(centerline, opened.path(CENTERLINE))
    rows = [
        (branch, *(f"{v:.4f}" for v in (arc, *point, radius, np.pi * radius**2, radius)))
        for branch, arc, point, radius in zip(
            centerline.branch, centerline.arc_length, centerline.points, centerline.radius, strict=True
        )
    ]
    head = ("branch", "arc_length_mm", "x", "y", "z", "inscribed_radius_mm", "area_mm2", "equivalent_radius_mm")
    write_table(opened.path(CENTERLINE_TABLE), head, rows)
    ends = [("inlet", "inlet", lines[0][0]), ("left", "outlet", lines[1][-1]), ("right", "outlet", lines[2][-1])]
    ports = tuple(
        Port(name=name, role=role, center=place, normal=np.array([0, 0, 1.0]), area=50.0, radius=4.0, tag=k + 1)
        for k, (name, role, place) in enumerate(ends)
    )
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = LumenMesh(corners, np.array([[0, 1, 2, 3]]), faces, np.array([1, 2, 3, 0], dtype=np.int32), ports)
    write_lumen_mesh(mesh, opened.path(MESH))
    return terminal


@pytest.fixture(scope="session")
def forked():
    """Lines and radii of the vessel of `planned`."""
    return fork()


def write_radiograph(path, integrals, primary, pixel=2.4):
    """A DICOM X-ray angiography image: intensity behind the patient, bones dark."""
    pixels = np.clip(3000.0 * np.exp(-integrals), 0, 4095).astype(np.uint16)
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((pixel, pixel, 1.0)[: image.GetDimension()])
    tags = {
        "0008|0060": "XA",
        "0008|0016": "1.2.840.10008.5.1.4.1.1.12.1",
        "0018|1110": "1100",
        "0018|1111": "750",
        "0018|1510": f"{primary}",
        "0018|1511": "0",
        "0028|1040": "LIN",
    }
    for key, value in tags.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="session")
def xray():
    return write_radiograph
