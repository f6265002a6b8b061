"""A small case planned, and a short procedure played on it, by the commands that a person would type."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshes.phantom import stenosed_bifurcation
from surgical_twin.demo import free_endpoint
from surgical_twin.planning import write_image, write_table

PLAN = """
fiducials = "fiducials.csv"
[mesh]
edges_across = 5.0
max_tetrahedra = 14000
[flow]
time_step = "5 ms"
[training]
beats = 1.3
most_runs = 4
"""

PROCEDURE = """
[truth]
level_set = "lumen.nrrd"
edges_across = 6.0
max_tetrahedra = 22000
[catheter]
settle = "4 s"
speed = "20 mm/s"
dwell = "2 s"
"""


@dataclass
class Room:
    """A folder with what a user has, and the commands typed in it so far."""

    folder: Path
    typed: list[list[str]] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """A command line, remembered as typed."""
        self.typed.append(list(words))
        return [sys.executable, "-m", "surgical_twin", *words]

    def run(self, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for it."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, capture_output=True, encoding="utf-8", timeout=timeout, check=False
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Type a command and go on."""
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    phantom = stenosed_bifurcation(seed=0)
    write_image(phantom.image, folder / "ct.nrrd")
    write_image(phantom.truth_level_set, folder / "lumen.nrrd")  # the patient's, which the plan does not see
    write_table(
        folder / "fiducials.csv",
        ("name", "x", "y", "z"),
        [(name, *point) for name, point in phantom.fiducials.items()],
    )
    (folder / "plan.toml").write_text(PLAN)
    (folder / "procedure.toml").write_text(PROCEDURE)
    return Room(folder)


@pytest.fixture(scope="session")
def planned(room):
    """The room after planning."""
    done = room.run("plan", "ct.nrrd", "--case", "case", "--config", "plan.toml")
    assert done.returncode == 0, done.stderr
    return room


TRIES = 3
STALLED_MS = 100.0
"""A session so far behind its messages ran on a machine that stood still meanwhile. It says so in its states, which is
tested elsewhere; what it knows of the patient is then no measure of anything, and the procedure is played again."""


def _play(planned):
    (planned.folder / "procedure.mcap").unlink(missing_ok=True)
    sockets = ["--devices", free_endpoint(), "--states", free_endpoint()]
    live = planned.start("live", "case", "--record", "procedure.mcap", "--report", "live.json", *sockets)
    try:
        simulated = planned.run("simulate", "case", "--procedure", "procedure.toml", "--seed", "3", *sockets)
        assert simulated.returncode == 0, simulated.stderr
        output, error = live.communicate(timeout=60)
        assert live.returncode == 0, error + output
    finally:
        if live.poll() is None:
            live.kill()


@pytest.fixture(scope="session")
def played(planned):
    """The room after a procedure was played against the live twin and recorded."""
    prepared = planned.run("simulate", "case", "--procedure", "procedure.toml", "--seed", "3", "--prepare")
    assert prepared.returncode == 0, prepared.stderr
    for _ in range(TRIES):
        _play(planned)
        report = json.loads((planned.folder / "live.json").read_text(encoding="utf-8"))
        if (report["latency_p99_ms"] or 0.0) < STALLED_MS:
            break
    return planned


@pytest.fixture(scope="session")
def live_report(played):
    return json.loads((played.folder / "live.json").read_text(encoding="utf-8"))
