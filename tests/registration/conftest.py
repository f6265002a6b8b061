"""A terminal at which the registration commands are run as a user runs them."""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from surgical_twin import cli
from surgical_twin.case import Case


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
