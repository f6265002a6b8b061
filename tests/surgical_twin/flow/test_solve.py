"""The solve command on a small case: what it writes, going on after a kill, and what it refuses."""

import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pyvista as pv
from vtkmodules.vtkIOHDF import vtkHDFReader

from meshes.centerline import Branch, Centerline
from meshes.files import write_centerline, write_lumen_mesh
from meshes.ports import Port
from meshes.tetrahedra import LumenMesh
from surgical_twin.case import CENTERLINE, MESH, Case
from surgical_twin.cli import main
from surgical_twin.commands.flow import solve
from surgical_twin.errors import InputError
from surgical_twin.flow.beds import Resistance
from surgical_twin.flow.domain import FlowDomain, FlowPort
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.navier_stokes import FlowDiverged, NavierStokes
from surgical_twin.flow.run import FlowRun, run_flow
from surgical_twin.flow.tuning import Targets, periodic_state, tune_in_flow
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.solve import solve_case
from surgical_twin.solve_settings import read_solve

MMHG = 133.322387415
QUICK = 'time_step = "20 ms"\nsnapshots = 10\nsection_spacing = "2 mm"\n'


@pytest.fixture
def case(tmp_path, tube_parts):
    mesh, _ = tube_parts
    points, cells, outer, tags = mesh(3.0, 20.0, 3, 6)
    ports = tuple(
        Port(name, role, tag, np.array([0, 0, z]), np.array([0, 0, sign]), 3.0, np.pi * 9)
        for name, role, tag, z, sign in (("inlet", "inlet", 1, 0.0, -1.0), ("outlet_1", "outlet", 2, 20.0, 1.0))
    )
    folder = tmp_path / "case"
    made = Case.create(folder)
    bed = Windkessel(1.2e8, 1.2e9, 2e-10)
    made.manifest["flow"] = {
        "inlet": "inlet",
        "waveform": "peripheral",
        "mean_flow_m3_s": 9e-6,
        "period_s": 0.8,
        "density_kg_m3": 1060.0,
        "viscosity_pa_s": 3.5e-3,
        "time_step_s": 0.0025,
        "windkessels": {"outlet_1": asdict(bed)},
    }
    made.save()
    write_lumen_mesh(LumenMesh(points, cells, outer, tags, ports), made.path(MESH))
    z = np.linspace(1, 19, 19)
    line = Centerline(
        np.column_stack([0 * z, 0 * z, z]), np.full(19, 3.0), np.zeros(19, int), z - 1,
        (Branch(0, np.arange(19), None, "outlet_1"),),
    )  # fmt: skip
    write_centerline(line, made.path(CENTERLINE))
    return folder


def command(case, *words):
    return [sys.executable, "-m", "surgical_twin", "solve", str(case), *words]


def type_in(case, *words):
    return subprocess.run(command(case, *words), capture_output=True, encoding="utf-8", timeout=300, check=False)


def test_a_case_is_solved_into_its_periodic_state(case):
    (case / "solve.toml").write_text(QUICK)
    done = type_in(case, "--config", str(case / "solve.toml"))
    assert done.returncode == 0, done.stderr
    assert "outlet_1" in done.stdout
    results = case / "solve" / "planned"
    summary = tomllib.loads((results / "summary.toml").read_text())
    assert summary["beats"] < 12
    assert summary["run"]["beat_change"] <= 0.01
    assert summary["run"]["mass_error"] < 1e-6
    outlet = summary["port"]["outlet_1"]
    # Mean flow times resistance, whatever the lumen does.
    assert outlet["mean_flow_ml_s"] == pytest.approx(9.0, rel=0.005)
    assert outlet["mean_pressure_mmhg"] == pytest.approx(9e-6 * 1.32e9 / MMHG, rel=0.01)
    reader = vtkHDFReader()
    reader.SetFileName(str(results / "fields.vtkhdf"))
    reader.Update()
    assert reader.GetNumberOfSteps() == 11
    reader.SetStep(7)
    reader.Update()
    grid = pv.wrap(reader.GetOutputDataObject(0))
    run = FlowRun.load(results / "run.npz")
    np.testing.assert_allclose(grid["pressure_mmhg"], run.pressure[7] / MMHG, rtol=1e-5)
    assert {"velocity_m_s", "wall_shear_stress_pa"} <= set(grid.array_names)
    assert grid.bounds[5] == pytest.approx(20.0)
    wall = pv.read(results / "wall.vtp")
    assert wall["TAWSS"].max() > wall["TAWSS"].min() > 0
    assert 0 <= wall["OSI"].min() <= wall["OSI"].max() <= 0.5
    table = np.genfromtxt(results / "ports.csv", delimiter=",", names=True)
    assert len(table) == round(summary["beats"] * 40) + 1
    sections = np.genfromtxt(results / "sections.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    np.testing.assert_allclose(sections["mean_flow_ml_s"], 9.0, rtol=0.02)
    assert (sections["ffr"] > 0.95).all()
    assert (sections["ffr"] <= 1.001).all()


def test_an_elastic_wall_moves_and_says_how_far(case):
    settings = case / "solve.toml"
    settings.write_text(QUICK + 'beats = 3\n[wall]\nyoungs_modulus = "0.7 MPa"\nthickness = "0.3 mm"\n')
    assert type_in(case, "--config", str(settings), "--out", "elastic").returncode == 0
    summary = tomllib.loads((case / "solve/elastic/summary.toml").read_text())
    wall = pv.read(case / "solve/elastic/wall.vtp")
    moved = np.linalg.norm(wall.point_data["displacement_mm"], axis=1)
    assert 0.0 < moved.max() <= summary["wall"]["displacement_max_mm"] + 1e-6
    # Outwards of the inlet's rim and of the outlet's, which do not move.
    rim = (wall.points[:, 2] < 1e-6) | (wall.points[:, 2] > 20 - 1e-6)
    assert (moved[rim] == 0.0).all()
    assert (moved[~rim] > 0.0).all()
    # Moens and Korteweg's, sqrt(E h / (2 rho R (1 - nu^2))).
    assert summary["run"]["wave_speed_m_s"] == pytest.approx(np.sqrt(0.7e6 * 0.3e-3 / (2 * 1060 * 3e-3 * 0.75)))
    assert summary["run"]["mass_error"] < 1e-9


def test_a_solve_that_is_killed_goes_on_and_gives_the_same(case):
    """Killed after its first checkpoint; the resumed run's samples are the same to the bit."""
    (case / "solve.toml").write_text('time_step = "5 ms"\nsnapshots = 4\nperiodic_within = 1e-9\n')
    words = ("--config", str(case / "solve.toml"), "--beats", "1")
    assert type_in(case, *words, "--out", "through").returncode == 0
    process = subprocess.Popen(command(case, *words, "--out", "killed"), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    checkpoint = case / "solve" / "killed" / "checkpoint.npz"
    until = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not checkpoint.exists():
        pytest.skip("the run was over before it could be killed")
    assert type_in(case, *words, "--out", "killed").returncode == 0
    one, other = (FlowRun.load(case / "solve" / name / "run.npz") for name in ("through", "killed"))
    np.testing.assert_array_equal(one.port_pressure, other.port_pressure)
    np.testing.assert_array_equal(one.wall_shear, other.wall_shear)
    np.testing.assert_array_equal(one.velocity, other.velocity)
    assert not checkpoint.exists()


PORT = "[ports.outlet_1]\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[ports.elsewhere]\nkind = "pressure"\npressure = "90 mmHg"', "ports.elsewhere is no port"),
        (PORT + 'kind = "pressure"\npressure = "90"', "mmHg|Pa"),
        (PORT + 'kind = "resistance"\nresistance = "-1 mmHg*s/mL"', "negative"),
        (PORT + 'kind = "windkessel"\nproximal_resistance = "1 mmHg*s/mL"\ndistal_resistance = "9 mmHg*s/mL"\n'
         'compliance = "-0.1 mL/mmHg"', "compliance must be positive"),
        (PORT + 'kind = "windkessel"\nproximal_resistance = "1 mmHg*s/mL"', "lacks"),
        (PORT + 'kind = "pressure"\npressure = "90 mmHg"\ncompliance = "0.1 mL/mmHg"', "no meaning"),
        ('[ports.inlet]\nkind = "flow"\nflow = {time = [0, 0.2, 0.4, 0.8], value = [1, 2, 3, 4], unit = "mL/s"}',
         "not periodic"),
        ('[ports.inlet]\nkind = "flow"\nflow = {time = [0, 0.2, 0.4, 0.8], value = [1, 2, 3, 1]}', "lacks unit"),
        ('[ports.inlet]\nkind = "flow"\nflow = {time = [0, 0.2, 0.4, 1.0], value = [1, 2, 3, 1], unit = "mL/s"}',
         "heart_rate"),
        ('[ports.inlet]\nkind = "flow"\nflow = {file = "none.csv", unit = "mL/s"}', "none.csv"),
        ('[ports.inlet]\nkind = "flow"\nflow = {name = "carotid"}', "lacks mean"),
        (PORT + 'kind = "flow"\nflow = "5 mL/s"', "do not balance"),
        ('time_step = "1 ns"', "steps a beat"),
        ('section_spacing = "1 um"', "finer than a tenth of the mesh's cells"),
        ('max_cfl = 0.001', "max_cfl"),
        ('beats = 0', "beats"),
        ('colour = "red"', "colour"),
        ('[tuning]\nsplit = {outlet_1 = 0.7}', "sum to 1"),
        ('[tuning]\nsplit = {outlet_9 = 1.0}', "outlet_9"),
        ('[blood]\nmodel = "carreau-yasuda"\nviscosity = "4 mPa*s"', "leave it out"),
        ('[wall]\nthickness = "1 mm"', "youngs_modulus"),
        ('[wall]\nyoungs_modulus = "-1 MPa"', "not positive"),
        ('[wall]\nyoungs_modulus = "1 MPa"\nthickness = "1 mm"\nthickness_ratio = 0.1', "one of the two"),
        ('[wall]\nyoungs_modulus = "1 MPa"\nthickness_ratio = 10', "between 0 and 1"),
        ('order = 2\n[wall]\nyoungs_modulus = "1 MPa"', "order 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused_in_a_sentence(case, settings, words):
    (case / "solve.toml").write_text(settings)
    with pytest.raises(InputError, match=words):
        solve_case(Case.open(case), read_solve(case / "solve.toml"), settings_folder=case, name="a",
                   say=lambda what, share: None)  # fmt: skip
    assert not (case / "solve" / "a" / "run.npz").exists()


def test_the_command_says_it_in_one_line_with_exit_code_2(case, tmp_path, monkeypatch, capsys):
    (case / "solve.toml").write_text('[ports.nowhere]\nkind = "pressure"\npressure = "90 mmHg"')
    for words in ((case, "--config", case / "solve.toml"), (tmp_path / "no case",)):
        monkeypatch.setattr(sys, "argv", ["surgical-twin", "solve", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        assert "error:" in capsys.readouterr().err


def test_different_beds_at_different_ports_and_two_inlets(tube_parts):
    """A tube cut lengthwise at its ends: two inlets side by side, and two outlets with beds of different kinds."""
    mesh, _ = tube_parts
    points, cells, outer, tags = mesh(3e-3, 20e-3, 5, 8)
    x = points[outer][:, :, 0].mean(axis=1)
    touching = np.where((tags > 0) & (x < 0), tags + 2, tags)
    tags = np.where(np.abs(x) < 1.1e-3, 0, touching)
    half = 0.5 * np.pi * 9e-6
    ports = [
        FlowPort(name, role, tag, np.zeros(3), np.array([0, 0, sign]), 2e-3, half)
        for name, role, tag, sign in (
            ("right_in", "inlet", 1, -1.0),
            ("left_in", "inlet", 3, -1.0),
            ("right_out", "outlet", 2, 1.0),
            ("left_out", "outlet", 4, 1.0),
        )
    ]
    with pytest.raises(InputError, match="touch each other"):
        FlowDomain.build(points, cells, outer, touching, ports)
    domain = FlowDomain.build(points, cells, outer, tags, ports)
    wave = PeriodicWaveform.named("peripheral", mean=3e-6, period=0.8)
    inflow = {"right_in": GivenFlow(wave), "left_in": GivenFlow(wave.scaled(0.5), "plug")}
    outlets = {"right_out": Windkessel(2e8, 3e9, 2e-10), "left_out": Resistance(5e9)}
    run = run_flow(domain, inflow=inflow, outlets=outlets, duration=0.8, time_step=0.01)
    np.testing.assert_allclose(run.port_flow[5:, :2].sum(axis=1), run.port_flow[5:, 2:].sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(run.port_pressure[20:, 3], 5e9 * run.port_flow[20:, 3], rtol=1e-6)
    with pytest.raises(InputError, match="each its own condition"):
        run_flow(domain, inflow=wave, outlets=outlets, duration=0.1, time_step=0.01)
    with pytest.raises(InputError, match="differ in their period"):
        run_flow(domain, inflow={**inflow, "left_in": GivenFlow(PeriodicWaveform.constant(1e-6, 0.7))}, outlets=outlets,
                 duration=0.1, time_step=0.01)  # fmt: skip


def test_tuning_on_the_flow_meets_its_targets(tube):
    """The tube's own drop is a fiftieth of the pressure: Windkessels tuned without it would miss by that."""
    domain = tube(1e-3, 30e-3, 2, 6)
    wave = PeriodicWaveform.named("carotid", mean=1e-6, period=0.8)
    targets = Targets(93 * MMHG, 40 * MMHG, {"outlet_1": 1.0}, 5 * MMHG)

    def run(beds, start):
        return run_flow(
            domain, inflow=wave, outlets=beds, duration=2.4, time_step=0.02, initial_capacitor_pressure=start,
            periodic_within=0.005, last_beat_only=True,
        )  # fmt: skip

    tuned = tune_in_flow(run, wave, targets)
    check = run(tuned.beds, tuned.start)
    part = slice(-41, None)
    inlet = check.port_pressure[part, 0]
    assert np.trapezoid(inlet, check.time[part]) / 0.8 == pytest.approx(93 * MMHG, rel=0.011)
    assert np.ptp(inlet) == pytest.approx(40 * MMHG, rel=0.011)
    assert 1 < tuned.runs <= 4
    alone = periodic_state(tuned.beds["outlet_1"].circuit(), wave)
    assert alone[0] < inlet.min()


def test_steps_are_cut_where_blood_is_too_fast_for_them(tube):
    """In four parts of 5 ms a step of 20 ms gives what four steps of 5 ms give."""
    wave = PeriodicWaveform.named("peripheral", mean=9e-6, period=0.8)
    outlets = {"outlet_1": Windkessel(1e8, 1e9, 2e-10)}
    whole = NavierStokes(tube(3e-3, 20e-3, 4, 10), inflow=wave, outlets=outlets, time_step=0.02, max_cfl=2.0)
    for _ in range(15):
        whole.step()
    assert whole.parts > whole.steps
    assert whole.max_cfl < 2.0 * 1.3  # what the flow gains within a step is not known before
    fine = NavierStokes(tube(3e-3, 20e-3, 4, 10), inflow=wave, outlets=outlets, time_step=0.0025)
    for _ in range(120):
        fine.step()
    assert whole.port_pressure[0] == pytest.approx(fine.port_pressure[0], rel=0.01)


def test_a_step_that_diverges_leaves_the_last_good_state_and_says_where(tube, tmp_path):
    wave = PeriodicWaveform.constant(5e-6, 0.8)
    outlets = {"outlet_1": Windkessel(1e8, 1e9, 2e-10)}
    solver = NavierStokes(tube(3e-3, 20e-3, 3, 6), inflow=wave, outlets=outlets, time_step=0.01)
    for _ in range(5):
        solver.step()
    before = solver.state()
    solver.fastest = 0.01
    with pytest.raises(FlowDiverged, match=r"step 6 at 0\.0600 s, with .* m/s near \(.*\) mm"):
        solver.step()
    for name, values in solver.state().items():
        np.testing.assert_array_equal(values, before[name])
    solver.fastest = 50.0
    solver.step()
    assert solver.steps == 6


def test_a_run_that_diverges_keeps_its_last_good_state(tube, tmp_path, monkeypatch):
    monkeypatch.setattr("surgical_twin.flow.navier_stokes.FASTEST", 0.6)
    wave = PeriodicWaveform.named("aorta", mean=5e-6, period=0.8)
    checkpoint = tmp_path / "run.checkpoint.npz"
    with pytest.raises(FlowDiverged, match="last good state") as told:
        run_flow(tube(3e-3, 20e-3, 3, 6), inflow=wave, outlets={"outlet_1": Windkessel(1e8, 1e9, 2e-10)}, duration=0.8,
                 time_step=0.01, checkpoint=checkpoint)  # fmt: skip
    assert str(checkpoint) in str(told.value)
    with np.load(checkpoint) as data:
        assert 0 < float(data["numbers"][0]) < 0.8
        assert np.abs(data["velocity"]).max() < 0.6


def test_a_full_disk_is_said_and_the_old_checkpoint_kept(tube, tmp_path):
    conditions = {"inflow": PeriodicWaveform.constant(3e-6, 0.5), "outlets": {"outlet_1": Windkessel(1e8, 1e9, 1e-10)},
                  "duration": 0.6, "time_step": 0.01}  # fmt: skip
    checkpoint = tmp_path / "run.npz"
    (tmp_path / ".run.npz.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left"):
        run_flow(tube(3e-3, 20e-3, 2, 3), **conditions, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_results_that_find_no_room_leave_no_half_file_and_the_checkpoint(case, monkeypatch):
    (case / "solve.toml").write_text('time_step = "10 ms"\nsnapshots = 4\nperiodic_within = 1e-9\nbeats = 1\n')
    plan = read_solve(case / "solve.toml")
    folder = case / "solve" / "full"

    def solved():
        return solve_case(Case.open(case), plan, settings_folder=case, name="full", say=lambda what, share: None)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(InputError, match=r"fields\.vtkhdf cannot be written: it needs .* MB"):
            solved()
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.npz", "ports.csv"]
    solved()
    left = {path.name for path in folder.iterdir()}
    assert {"fields.vtkhdf", "wall.vtp", "summary.toml"} <= left
    assert "checkpoint.npz" not in left


def test_a_checkpoint_of_other_conditions_is_refused(tube, tmp_path):
    domain = tube(3e-3, 20e-3, 2, 3)
    wave = PeriodicWaveform.constant(3e-6, 0.5)
    beds = {"outlet_1": Windkessel(1e8, 1e9, 1e-10)}
    checkpoint = tmp_path / "run.npz"

    class Stop(Exception):
        pass

    def stop(share):
        if share > 0.9:
            raise Stop

    with pytest.raises(Stop):
        run_flow(domain, inflow=wave, outlets=beds, duration=0.6, time_step=0.01, checkpoint=checkpoint, progress=stop)
    other = {"outlet_1": Windkessel(1e8, 2e9, 1e-10)}
    with pytest.raises(InputError, match="other conditions"):
        run_flow(domain, inflow=wave, outlets=other, duration=0.6, time_step=0.01, checkpoint=checkpoint)


def test_two_processes_give_the_answer_of_one(case):
    """The command under mpiexec with one and two processes: ports, fields and wall shear to the solver's tolerance."""
    mpiexec = Path(sys.prefix) / "bin" / "mpiexec"
    if not mpiexec.exists():
        pytest.skip("there is no mpiexec beside this Python")
    (case / "solve.toml").write_text(QUICK)
    runs = []
    for count in (1, 2):
        name = f"on_{count}"
        words = command(case, "--config", str(case / "solve.toml"), "--beats", "1", "--out", name)
        done = subprocess.run([str(mpiexec), "-n", str(count), *words], capture_output=True, encoding="utf-8",
                              timeout=300, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("outlet_1") == 2  # in the table and with its pressure ratio, by one process alone
        runs.append(FlowRun.load(case / "solve" / name / "run.npz"))
    one, two = runs
    np.testing.assert_allclose(two.port_pressure, one.port_pressure, rtol=1e-6)
    np.testing.assert_allclose(two.port_flow, one.port_flow, rtol=1e-6, atol=1e-6 * one.port_flow.max())
    for field in ("velocity", "wall_shear"):
        whole = getattr(one, field)
        np.testing.assert_allclose(getattr(two, field), whole, atol=1e-5 * np.abs(whole).max())


def test_processes_that_do_not_know_of_each_other_are_refused(case, monkeypatch):
    """As Open MPI's launcher starts them."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes that do not know of each other"):
        solve(case)
    assert not (case / "solve").exists()
