"""The plan's first steps on what people really bring: from the command line to the mesh, and clear ends before it."""

import base64
import contextlib
import csv
import io
import re
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import pyvista as pv
import SimpleITK as sitk

from meshes.files import read_centerline, read_lumen_mesh
from meshes.grid import Grid
from meshes.quality import mesh_quality
from meshes.shapes import Tube, scanned
from surgical_twin.case import Case
from surgical_twin.cli import main

SETTINGS = "[mesh]\nedges_across = 3.5\nmax_tetrahedra = 6000\n"
BLOOD, TISSUE = 400.0, 40.0


def run(folder, *words):
    """The command line, in this process: starting one takes longer than most of what it does here."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["surgical-twin", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def said(done):
    return " ".join((done.stdout + done.stderr).split())


def planned(folder, *words, settings=SETTINGS):
    """A case planned up to its mesh."""
    (folder / "plan.toml").write_text(settings)
    done = run(folder, "plan", *words, "--case", "case", "--config", "plan.toml", "--until", "mesh")
    assert done.returncode == 0, said(done)
    return Case.open(folder / "case"), done


def refused(folder, *words):
    """What is said of input that cannot be used: one sentence, exit code 2, no traceback, and no mesh."""
    done = run(folder, "plan", *words, "--case", "case", "--until", "mesh")
    assert done.returncode == 2, said(done)
    assert "Traceback" not in said(done)
    assert not (folder / "case" / "mesh.vtu").exists()
    return said(done)


def notes(case):
    return " ".join(note for step in case.manifest["step"].values() for note in step["notes"])


def a_grid(size=(28, 28, 44), spacing=1.0):
    direction = np.array(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.15, 0.05).GetMatrix()).reshape(3, 3)
    origin = -direction @ (spacing * (np.array(size) - 1) / 2)
    return Grid(np.zeros(size[::-1], dtype=np.float32), origin, np.full(3, spacing), direction)


def a_scan(*tubes, grid=None, blood=BLOOD):
    grid = a_grid() if grid is None else grid
    values = scanned(
        grid,
        [lambda points: np.min([tube.distance(points) for tube in tubes], axis=0)],
        lambda depths: np.where(depths[0] < 0, blood, TISSUE),
        blur=0.45,
        noise=15.0,
        generator=np.random.default_rng(0),
    )
    return grid.like(np.rint(values).astype(np.int16)).image()


def straight(x=0.0, radius=3.5, half=40.0):
    return Tube.through([[x, 0, -half], [x + 0.5, 0.5, 0], [x, 0, half]], lambda arc: np.full_like(arc, radius))


@pytest.fixture(scope="module")
def scan():
    return a_scan(straight())


def test_a_dicom_folder_becomes_a_case_that_holds_nothing_of_the_patient(dicom, scan, tmp_path):
    grid = Grid.of(scan)
    placement = (grid.origin, grid.spacing, grid.direction)
    folder = tmp_path / "ROSENKAVALIER" / "ST0001"
    uid = dicom.write_slices(folder, grid.values, placement)
    dicom.write_slices(folder, grid.values[:3], placement, prefix="X")
    listed = run(tmp_path, "series", "ROSENKAVALIER")
    assert uid in listed.stdout.replace("\n", "").replace(" ", "").replace("│", "") or uid[:20] in listed.stdout
    case, done = planned(tmp_path, "ROSENKAVALIER", "--series", uid)
    secrets = [*dicom.PATIENT.values(), "Rosenkavalier", "Octavian", uid, "arterial 0.75"]
    secrets += [secret.upper() for secret in secrets]
    for file in case.folder.rglob("*"):
        for secret in secrets:
            assert secret.encode() not in everything_in(file), f"{secret} is in {file}"
    assert "Rosenkavalier" not in done.stdout
    assert mesh_quality(read_lumen_mesh(case.path("mesh.vtu"))).watertight


def everything_in(file):
    """A file's bytes, and those of every compressed stream in it, also where it is written as base64 (VTK's XML)."""
    if file.is_dir():
        return b""
    raw = file.read_bytes()
    runs = [run[: len(run) // 4 * 4] for run in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", raw)]
    encoded = [base64.b64decode(run) for run in runs]
    return b"\n".join([file.name.encode(), *(part for block in (raw, *encoded) for part in (block, *unpacked(block)))])


def unpacked(raw):
    """What the compressed streams in some bytes hold."""
    for begin in (match.start() for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", raw)):
        try:
            yield zlib.decompressobj(wbits=47).decompress(raw[begin:], 1 << 22)
        except zlib.error:
            continue


def test_the_search_for_identifiers_finds_them_in_compressed_files(tmp_path):
    image = sitk.Image(8, 8, 8, sitk.sitkInt16)
    image.SetMetaData("PatientName", "Octavian")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=True)
    assert b"Octavian" in everything_in(tmp_path / "a.nrrd")
    surface = pv.Sphere()
    surface.field_data["note"] = ["Octavian"]
    surface.save(tmp_path / "a.vtp")
    assert b"Octavian" in everything_in(tmp_path / "a.vtp")
    (tmp_path / "b").write_bytes(b"head" + zlib.compress(b"some text with Octavian in it" * 50) + b"tail")
    assert b"Octavian" in everything_in(tmp_path / "b")


def test_a_segmentation_edited_by_hand_is_read_back_and_all_behind_it_runs_again(scan, tmp_path):
    sitk.WriteImage(scan, str(tmp_path / "ct.nrrd"))
    case, _ = planned(tmp_path, "ct.nrrd")
    before = case.path("mesh.vtu").read_bytes()
    is_exported(tmp_path, case)
    stored = sitk.ReadImage(str(case.path("lumen.seg.nrrd")))
    assert stored.GetMetaData("Segment0_Name") == "lumen"
    assert stored.GetOrigin() == sitk.ReadImage(str(case.path("image.nrrd"))).GetOrigin()
    again, _ = planned(tmp_path, "ct.nrrd")
    assert again.path("mesh.vtu").read_bytes() == before
    # The upper third is cut off with 3D Slicer's scissors.
    values = sitk.GetArrayFromImage(stored)
    values[2 * len(values) // 3 :] = 0
    edited = sitk.GetImageFromArray(values)
    edited.CopyInformation(stored)
    for key in stored.GetMetaDataKeys():
        edited.SetMetaData(key, stored.GetMetaData(key))
    sitk.WriteImage(edited, str(case.path("lumen.seg.nrrd")), useCompression=True)
    after, _ = planned(tmp_path, "ct.nrrd")
    assert "edited by hand" in notes(after)
    shorter = mesh_quality(read_lumen_mesh(after.path("mesh.vtu"))).volume_ml
    assert shorter < 0.75 * case.manifest["step"]["mesh"]["figures"]["volume_ml"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(after.path("labels.nrrd")))), values)
    # It holds until something else is asked for, and even then it is not lost.
    kept, _ = planned(tmp_path, "ct.nrrd")
    assert kept.manifest["step"]["mesh"] == after.manifest["step"]["mesh"]
    other, _ = planned(tmp_path, "ct.nrrd", "--threshold", "200")
    assert "edited by hand" not in notes(other)


def is_exported(folder, case):
    """The mesh in the formats of solvers, as meshio reads them."""
    meshio = pytest.importorskip("meshio")
    mesh = read_lumen_mesh(case.path("mesh.vtu"))
    for ending in ("mesh", "xdmf"):
        done = run(folder, "export", "case", "--mesh", f"out.{ending}")
        assert done.returncode == 0, said(done)
        cells = meshio.read(folder / f"out.{ending}").cells_dict
        assert len(cells["tetra"]) == len(mesh.tetrahedra)
        assert len(cells["triangle"]) == len(mesh.triangles)
    assert "names no format" in said(run(folder, "export", "case", "--mesh", "out.xyz"))


def test_a_label_map_alone_is_planned_from(tmp_path):
    grid = a_grid()
    depth = straight().distance(grid.positions_of(np.arange(grid.values.size))).reshape(grid.values.shape)
    sitk.WriteImage(grid.like((depth < 0).astype(np.uint8)).image(), str(tmp_path / "lumen.nii.gz"))
    case, _ = planned(tmp_path, "lumen.nii.gz")
    assert "label map" in notes(case)
    assert case.manifest["step"]["mesh"]["figures"]["ports"] == 2


def test_a_sac_and_a_stenosis_are_measured_and_their_edges_counted(tmp_path):
    """A vessel of radius 3.5 mm, half as wide 14 mm behind its middle, with a ball of radius 6 mm in front."""
    grid = a_grid((36, 36, 90), 0.8)
    places = grid.positions_of(np.arange(grid.values.size))
    narrow = Tube.through(
        [[0, 0, -60], [0.5, 0.5, 0], [0, 0, 60]],
        lambda arc: 3.5 * (1.0 - 0.5 * np.exp(-(((arc - 74.0) / 3.0) ** 2))),
        step=0.2,
    )
    depth = np.minimum(narrow.distance(places), np.linalg.norm(places - [7.5, 0.5, -12.0], axis=1) - 6.0)
    sitk.WriteImage(
        grid.like((depth < 0).reshape(grid.values.shape).astype(np.uint8)).image(), str(tmp_path / "mask.nrrd")
    )
    case, _ = planned(tmp_path, "mask.nrrd", settings="[mesh]\nedges_across = 4.5\nmax_tetrahedra = 16000\n")
    with case.path("aneurysms.csv").open() as stream:
        (sac,) = csv.DictReader(stream)
    # The ball without what lies in the vessel.
    ball = np.linalg.norm(places - [7.5, 0.5, -12.0], axis=1) < 6.0
    volume = (ball & (narrow.distance(places) > 0)).sum() * 0.8**3 / 1000
    assert float(sac["volume_ml"]) == pytest.approx(volume, rel=0.1)
    assert sac["kind"] == "saccular"
    assert "Saccular aneurysm" in notes(case)
    figures = case.manifest["step"]["mesh"]["figures"]
    assert figures["aneurysms"] == 1
    with case.path("stenoses.csv").open() as stream:
        (stenosis,) = csv.DictReader(stream)
    assert float(stenosis["z"]) == pytest.approx(14.0, abs=2.5)
    (edges,) = figures["edges_across_stenoses"]
    assert edges >= 8.0
    assert f"{edges:.1f}" in notes(case)


def test_a_surface_alone_is_planned_from_in_the_unit_that_is_given(tmp_path):
    tube = pv.Cylinder(center=(1, 2, 3), direction=(0.2, 0.1, 1), radius=0.4, height=5.0, resolution=60, capping=False)
    tube.triangulate().save(tmp_path / "vessel.stl")
    assert "--unit cm" in refused(tmp_path, "vessel.stl")
    case, _ = planned(tmp_path, "vessel.stl", "--unit", "cm")
    assert "2 open ends" in notes(case)
    ports = read_lumen_mesh(case.path("mesh.vtu")).ports
    assert [port.radius for port in ports] == pytest.approx([4.0, 4.0], rel=0.03)
    between = np.linalg.norm(ports[0].center - ports[1].center)
    volume = case.manifest["step"]["mesh"]["figures"]["volume_ml"]
    assert volume == pytest.approx(np.pi * 16 * between / 1000, rel=0.02)


def test_two_trees_give_the_larger_and_a_word_on_the_other(tmp_path):
    wide, thin = straight(-7.5, 3.5), straight(7.5, 2.6)
    sitk.WriteImage(a_scan(wide, thin), str(tmp_path / "ct.nrrd"))
    case, _ = planned(tmp_path, "ct.nrrd")
    assert "not connected" in notes(case)
    assert read_lumen_mesh(case.path("mesh.vtu")).ports[0].radius == pytest.approx(3.5, rel=0.05)


def test_a_mask_with_hollows_and_a_handle_is_filled_and_told_of(tmp_path):
    grid = a_grid((40, 40, 56), 0.8)
    places = grid.positions_of(np.arange(grid.values.size))
    ring = np.hypot(np.hypot(places[:, 0] - 3.0, places[:, 2]) - 8.0, places[:, 1]) - 2.0
    inside = np.minimum(Tube.through([[-5, 0, -40], [-5, 0, 0], [-5, 0, 40]], lambda arc: np.full_like(arc, 3.0))
                        .distance(places), ring) < 0  # fmt: skip
    inside &= np.linalg.norm(places - [-5.0, 0.0, -15.0], axis=1) > 1.0
    sitk.WriteImage(grid.like(inside.reshape(grid.values.shape).astype(np.uint8)).image(), str(tmp_path / "mask.nrrd"))
    case, _ = planned(tmp_path, "mask.nrrd")
    told = notes(case)
    assert "Hollows of" in told
    assert "loops (handles)" in told
    figures = case.manifest["step"]["mesh"]["figures"]
    assert figures["handles"] == 1
    # Flow goes around the loop: it has no port.
    assert figures["ports"] == 2


def write_y(folder, y_shape, analytic):
    """The Y as a label map of voxels of 1 mm."""
    grid_points, image_of, capsule = analytic
    _, fork, ends, radii = y_shape
    shape, spacing = (48, 24, 68), np.ones(3)
    points = grid_points(shape, spacing)
    depth = np.min([capsule(points, fork, ends[name], radii[name]) for name in ends], axis=0)
    sitk.WriteImage(sitk.Cast(image_of(depth, shape, spacing) < 0, sitk.sitkUInt8), str(folder / "y.nrrd"))


def test_an_own_centerline_is_followed(tmp_path, y_shape, analytic):
    """Of three ends it joins two, and only those become ports."""
    _, fork, ends, _ = y_shape
    write_y(tmp_path, y_shape, analytic)
    steps = np.linspace(0, 1, 30)[:, None]
    line = np.concatenate([ends["parent"] + steps * (fork - ends["parent"]), fork + steps[1:] * (ends["left"] - fork)])
    pv.lines_from_points(line * [-1, -1, 1]).strip(join=True).save(tmp_path / "own.vtp")
    case, _ = planned(tmp_path, "y.nrrd", "--centerline", "own.vtp")
    assert "the one given" in notes(case)
    centerline = read_centerline(case.path("centerline.vtp"))
    assert len(centerline.branches) == 1
    assert np.linalg.norm(centerline.points[0] - ends["parent"]) < 2.0
    assert case.manifest["step"]["mesh"]["figures"]["ports"] == 2
    assert "does not lie in the lumen" in elsewhere(tmp_path, line)


def elsewhere(folder, line):
    pv.lines_from_points(line + 30.0).save(folder / "wrong.vtp")
    return said(run(folder, "plan", "y.nrrd", "--case", "other", "--centerline", "wrong.vtp", "--until", "mesh"))


def test_ports_are_named_and_the_inlet_chosen_by_name(tmp_path, y_shape, analytic):
    _, _, ends, radii = y_shape
    write_y(tmp_path, y_shape, analytic)
    left = ", ".join(f"{value:.1f}" for value in ends["left"])
    (tmp_path / "named.toml").write_text(f'{SETTINGS}[ports]\ninlet = "outlet_2"\nnames = {{ left = [{left}] }}\n')
    done = run(tmp_path, "plan", "y.nrrd", "--case", "case", "--config", "named.toml", "--until", "mesh")
    assert done.returncode == 0, said(done)
    ports = {port.name: port for port in read_lumen_mesh(tmp_path / "case" / "mesh.vtu").ports}
    # In a mask of voxels of 1 mm, beside the vessels' round ends.
    assert ports["inlet"].radius == pytest.approx(radii["right"], rel=0.12)
    assert ports["left"].radius == pytest.approx(radii["left"], rel=0.12)
    for name, port in (("right", ports["inlet"]), ("left", ports["left"])):
        assert np.linalg.norm(port.center - ends[name]) < 3.0
    (tmp_path / "wrong.toml").write_text('[ports]\ninlet = "aorta"\n')
    assert "is no port" in said(
        run(tmp_path, "plan", "y.nrrd", "--case", "b", "--config", "wrong.toml", "--until", "mesh")
    )


def write(folder, values, spacing=(0.9, 0.9, 0.9), name="bad.nrrd", times=1):
    image = sitk.JoinSeries([values] * times) if times > 1 else sitk.GetImageFromArray(values)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(folder / name))
    return name


def flat(kind=np.int16):
    return np.zeros((30, 30, 30), dtype=kind)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder, scan: write(folder, flat()), "same value"),
        (lambda folder, scan: write(folder, flat(np.float32) + np.float32(np.nan)), "not finite"),
        (lambda folder, scan: write(folder, np.random.default_rng(0).normal(40, 5, (30, 30, 30)).astype(np.float32)),
         "No vessel"),
        (lambda folder, scan: write(folder, 440 - sitk.GetArrayFromImage(scan)), "No vessel"),
        (lambda folder, scan: write(folder, sitk.GetArrayFromImage(scan)[20]), "three dimensions"),
        (lambda folder, scan: write(folder, scan, times=3), "extract one"),
        (lambda folder, scan: write(folder, sitk.GetArrayFromImage(scan)[20:24]), "too small to find vessels in"),
        (lambda folder, scan: write(folder, sitk.GetArrayFromImage(scan), (9e-4, 9e-4, 9e-4)), "not in mm"),
        (lambda folder, scan: write(folder, sitk.GetArrayFromImage(scan), (900.0, 900.0, 900.0)), "not in mm"),
    ],
    ids=["empty", "NaN", "no contrast", "dark vessels", "2D", "4D", "four slices", "metres", "micrometres"],
)  # fmt: skip
def test_what_is_no_angiogram_is_named(make, expected, tmp_path, scan):
    assert expected in refused(tmp_path, make(tmp_path, scan))


def test_options_that_do_not_fit_the_image_are_named(tmp_path, scan):
    sitk.WriteImage(scan, str(tmp_path / "ct.nrrd"))
    assert "No vessel is brighter than the threshold 5000" in refused(tmp_path, "ct.nrrd", "--threshold", "5000")
    assert "a grey value between" in refused(tmp_path, "ct.nrrd", "--threshold", "nan")
    assert "it is an image and no label map" in refused(tmp_path, "ct.nrrd", "--labels", "ct.nrrd")


def test_labels_on_another_grid_are_fitted_and_those_elsewhere_refused(tmp_path, scan):
    sitk.WriteImage(scan, str(tmp_path / "ct.nrrd"))
    fine = a_grid((60, 70, 110), 0.5)
    fine = Grid(fine.values, fine.origin + [0.3, 0.2, 0.1], fine.spacing, np.eye(3))
    depth = straight(half=16).distance(fine.positions_of(np.arange(fine.values.size))).reshape(fine.values.shape)
    fine = fine.like((depth < 0).astype(np.uint8))
    sitk.WriteImage(fine.image(), str(tmp_path / "labels.nrrd"))
    case, _ = planned(tmp_path, "ct.nrrd", "--labels", "labels.nrrd")
    assert "another grid" in notes(case)
    # The tube ends in half balls.
    truth = (np.pi * 3.5**2 * 32.0 + 4 / 3 * np.pi * 3.5**3) / 1000
    assert case.manifest["step"]["lumen"]["figures"]["lumen_ml"] == pytest.approx(truth, rel=0.06)
    moved = Grid(fine.values, fine.origin + 60.0, fine.spacing, fine.direction).image()
    sitk.WriteImage(moved, str(tmp_path / "moved.nrrd"))
    (tmp_path / "case").rename(tmp_path / "first")
    assert "another grid" in refused(tmp_path, "ct.nrrd", "--labels", "moved.nrrd")
