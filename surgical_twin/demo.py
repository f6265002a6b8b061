"""The demo: the whole job on a phantom, from its CT to a scored, replayed procedure."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import SimpleITK as sitk
from rich.console import Console

from meshes.phantom import Phantom, stenosed_bifurcation
from surgical_twin.case import Case, write_atomically
from surgical_twin.errors import InputError
from surgical_twin.memory import PeakMemory
from surgical_twin.plan_settings import PlanSettings
from surgical_twin.planning import PlanRequest, write_image, write_table
from surgical_twin.procedure_pictures import make_pictures
from surgical_twin.replay import open_recording, replay
from surgical_twin.report import Figure, case_figures, latency_figures, procedure_figures, write_report
from surgical_twin.scoring import score

DEMO_TETRAHEDRA = 36_000
DEMO_RUNS = 4
TRUTH_TETRAHEDRA = 72_000


def run_demo(folder: Path, seed: int, console: Console) -> int:
    """Run the demo into a folder; what an earlier run has planned there is used again.

    Returns:
        0, or 1 where a figure missed its goal.

    Raises:
        InputError: the folder cannot be used, or a part of the demo failed.
    """
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with PeakMemory() as memory:
        console.rule("1  phantom")
        phantom = stenosed_bifurcation(seed=seed)
        request = phantom_request(phantom, folder)
        console.print(f"{request.image}: {' x '.join(map(str, phantom.image.GetSize()))} voxels")

        console.rule("2  plan")
        from surgical_twin.commands.planning import plan_case  # the commands own the progress bars

        case_folder = folder / "case"
        plan_case(request, case_folder)
        case = Case.open(case_folder)

        console.rule("3  procedure")
        recording, live_report = folder / "procedure.mcap", folder / "live.json"
        recording.unlink(missing_ok=True)
        play(case_folder, recording, live_report, seed, procedure=real_patient(phantom, folder))

        console.rule("4  replay and score")
        opened, model = open_recording(recording, case_folder)
        replayed = replay(opened, model)
        if not replayed.identical:
            console.print(f"[bold red]replay differs at state {replayed.first_difference}[/]")
        result = score(model, opened.events, case)
        pictures = make_pictures(case, result, folder)
    figures = {
        "dice": Figure(dice_coefficient(phantom, case), "", ">= 0.90"),
        **case_figures(case),
        **procedure_figures(result, replayed),
        **latency_figures(json.loads(live_report.read_text(encoding="utf-8"))),
        "demo_minutes": Figure((time.monotonic() - begin) / 60, "min", "<= 10"),
        "peak_memory": Figure(memory.peak_gb, "GB", "<= 6", why="this system has no /proc"),
    }
    return write_report("demo", figures, pictures, folder, console)


def phantom_request(phantom: Phantom, folder: Path) -> PlanRequest:
    """Write the phantom as a hospital would hand it over: an image, and where its fiducials are."""
    image, fiducials = folder / "phantom_ct.nrrd", folder / "phantom_fiducials.csv"
    write_image(phantom.image, image)
    write_table(
        fiducials,
        ("name", "x", "y", "z"),
        [(name, *(f"{value:.4f}" for value in point)) for name, point in phantom.fiducials.items()],
    )
    settings = msgspec.structs.replace(
        PlanSettings(),
        fiducials=str(fiducials.resolve()),
        # A coarse plan is minutes faster, and leaves the truth, which is finer, more that the twin does not know.
        mesh=msgspec.structs.replace(PlanSettings().mesh, max_tetrahedra=DEMO_TETRAHEDRA),
        training=msgspec.structs.replace(PlanSettings().training, beats=1.4, most_runs=DEMO_RUNS),
    )
    return PlanRequest(image=image, settings=settings)


def dice_coefficient(phantom: Phantom, case: Case) -> float:
    """Overlap of the case's lumen with the phantom's truth: 2 |A and B| / (|A| + |B|)."""
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(case.require("labels.nrrd")))) > 0
    truth = sitk.GetArrayFromImage(phantom.truth_label) > 0
    return float(2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth)))


def free_endpoint() -> str:
    """A loopback endpoint that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def real_patient(phantom: Phantom, folder: Path) -> Path:
    """Write the phantom's real lumen and a procedure on it: the patient does not have the plan's errors of geometry."""
    write_image(phantom.truth_level_set, folder / "phantom_lumen.nrrd")
    procedure = folder / "procedure.toml"
    truth = f'[truth]\nlevel_set = "phantom_lumen.nrrd"\nmax_tetrahedra = {TRUTH_TETRAHEDRA}\n'
    write_atomically(procedure, truth)
    return procedure


def play(case: Path, recording: Path, report: Path, seed: int, *, procedure: Path) -> None:
    """Run the live twin and the simulated operating room as the two commands a person would start.

    Raises:
        InputError: either failed.
    """
    command = [sys.executable, "-m", "surgical_twin"]
    # The 3D truth first: it takes minutes, and the live twin has nothing to do meanwhile.
    simulate = [*command, "simulate", str(case), "--procedure", str(procedure), "--seed", str(seed)]
    _run([*simulate, "--prepare"])
    devices, states = free_endpoint(), free_endpoint()
    sockets = ["--devices", devices, "--states", states]
    live = subprocess.Popen(
        [*command, "live", str(case), "--record", str(recording), "--report", str(report), *sockets]
    )
    try:
        _run([*simulate, *sockets])
        if live.wait(timeout=30) != 0:
            raise InputError("surgical-twin live failed; its message is above.")
    finally:
        if live.poll() is None:
            live.terminate()
            live.wait(timeout=10)


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise InputError(f"{' '.join(command[2:5])} failed; its message is above.")
