"""The real volumes: each planned from the command line without a hand, and held to a reference where one comes with it.

Where a segmentation or a surface comes without an image it is the reference, and the lumen read from it the result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv
import SimpleITK as sitk
from meshes_figure import ROOT, figure, kept
from meshes_truth import samples
from rich.console import Console
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import label

from meshes.centerline import Centerline
from meshes.external import read_lumen, read_source
from meshes.grid import Grid
from meshes.level_set import wall_surface
from meshes.own_centerline import read_own_centerline
from meshes.segmentation import segment_lumen
from meshes.surfaces import MM_PER

VOLUMES: dict[str, tuple[str, str | None]] = {
    "aorta_mra": ("vmtk_aorta/input/aorta.mha", None),
    "brain_tof_mra": ("niivue_mra/chris_MRA.nii.gz", None),
    "pulmonary_labels": ("seqseg/seqseg/tests/test_data/truths/PA000005.nii.gz", None),
    **{
        f"willis_{kind}_{number}": (
            f"topcow_labels/test_assets/seg_metrics/topcow_roi/topcow_{kind}_roi_{number}.nii.gz",
            None,
        )
        for kind in ("ct", "mr")
        for number in ("003", "014", "023")
    },
    "staircase_surface": ("seqseg/seqseg/tutorial/data/Models/shawn_260.vtp", "cm"),
    "smooth_surface": ("seqseg/seqseg/tutorial/data/Models/demo.vtp", "cm"),
    "network_surface": ("seqseg/seqseg/tutorial/data/Models/seqseg_6.vtp", "cm"),
    "simvascular_model": ("simvascular_tests/new-api-tests/data/DemoProject/Models/demo.vtp", "cm"),
    "simvascular_aorta": ("simvascular_tests/new-api-tests/data/vmtk/aorta.vtp", "cm"),
    "pipe_surface": ("svfsi_pipe_rcr/04-fluid/01-pipe3D_RCR/mesh-complete/mesh-complete.exterior.vtp", "cm"),
}
"""Every image of vessels, label map of vessels and closed surface of vessels there is; the surfaces' unit."""


def planned(folder: Path | None, console: Console) -> dict[str, dict[str, object]]:
    """Each volume through ``surgical-twin plan --until mesh``: how many are refused, and the worst mesh of all."""
    goals = {
        "real_volumes_refused": ("== 0", "1"),
        "real_volumes_open_meshes": ("== 0", "1"),
        "real_volumes_min_dihedral": (">= 8", "degree"),
        "real_volumes_min_scaled_jacobian": ("> 0", "1"),
        "real_volumes_mean_scaled_jacobian": (">= 0.6", "1"),
        "real_volumes_port_flatness": ("<= 1e-6", "mm"),
    }
    there = {name: of for name, of in VOLUMES.items() if (data_folder() / of[0]).is_file()}
    if not there:
        return {name: figure(None, *goal, why="the volumes are not on this machine") for name, goal in goals.items()}
    found = {name: kept(folder, f"plan_{name}", lambda of=of: _plan(*of)) for name, of in there.items()}
    for name, one in found.items():
        console.print(f"{name}: {one}", soft_wrap=True, highlight=False)
    meshes = [one for one in found.values() if "refused" not in one]
    values = {
        "real_volumes_refused": len(found) - len(meshes),
        "real_volumes_open_meshes": sum(not one["watertight"] for one in meshes),
        "real_volumes_min_dihedral": min(one["min_dihedral_deg"] for one in meshes),
        "real_volumes_min_scaled_jacobian": min(one["min_scaled_jacobian"] for one in meshes),
        "real_volumes_mean_scaled_jacobian": min(one["mean_scaled_jacobian"] for one in meshes),
        "real_volumes_port_flatness": max(one["port_flatness_mm"] for one in meshes),
    }
    return {name: figure(float(value), *goals[name], volumes=len(found)) for name, value in values.items()}


def _plan(file: str, unit: str | None) -> dict[str, Any]:
    """The figures of one volume's mesh, or with what words it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "surgical_twin", "plan", str(data_folder() / file), "--until", "mesh"]
        command += ["--case", f"{folder}/case", *(["--unit", unit] if unit else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode != 0:
            return {"refused": (done.stderr or done.stdout)[-500:]}
        return dict(tomllib.loads(Path(folder, "case", "case.toml").read_text())["step"]["mesh"]["figures"])


def aorta() -> dict[str, dict[str, object]]:
    """The contrast MR angiogram of VMTK's tutorial against VMTK's own level set, where the data are there.

    The level set ends in the middle of vessels, where its seeds were put, and within its bounding box the same vessels
    go on; so besides the Dice in that box there is the one between the level set's ends, which its centerline tells.
    It is no truth to a fraction of a voxel either: on vessels made from formulas VMTK's level set lies inside of the
    true wall (`Errors.vmtk_wall_offset_voxels`).
    """
    folder = data_folder() / "vmtk_aorta" / "input"
    goals = {
        "aorta_dice": (">= 0.96", "1"),
        "aorta_dice_between_ends": (">= 0.96", "1"),
        "aorta_surface_distance": ("<= 0.5", "voxel"),
        "aorta_hausdorff_95": ("<= 2", "voxel"),
    }
    if not folder.is_dir():
        return {name: figure(None, *goal, why="the volume is not on this machine") for name, goal in goals.items()}
    reference_image = sitk.ReadImage(str(folder / "aorta-final-levelset.mha"))
    reference = Grid.of(reference_image)
    lumen = segment_lumen(sitk.ReadImage(str(folder / "aorta.mha")))
    mask = sitk.GetArrayFromImage(lumen.label) > 0
    true = reference.values < 0
    box = np.zeros(true.shape, dtype=bool)
    box[ndimage.find_objects(true.astype(int))[0]] = True
    between = box & _between_ends(reference, read_own_centerline(folder / "aorta-centerline.vtp", reference_image))
    ours = Grid.of(lumen.level_set)
    theirs = wall_surface(reference)
    places = np.asarray(theirs.points, float)
    inner = np.all((reference.to_index(places) > 2) & (reference.to_index(places) < reference.size - 3), axis=1)
    distance = np.abs(ours.sample(places[inner]))
    mine = np.asarray(wall_surface(ours).points, float)
    index = np.clip(np.round(reference.to_index(mine)).astype(int), 0, reference.size - 1)
    back = cKDTree(places).query(mine[between[index[:, 2], index[:, 1], index[:, 0]]])[0]
    voxel = float(np.cbrt(np.prod(reference.spacing)))
    values = {
        "aorta_dice": dice(mask[box], true[box]),
        "aorta_dice_between_ends": dice(mask[between], true[between]),
        "aorta_surface_distance": float(distance.mean() / voxel),
        "aorta_hausdorff_95": max(float(np.quantile(distance, 0.95)), float(np.quantile(back, 0.95))) / voxel,
    }
    return {name: figure(value, *goals[name]) for name, value in values.items()}


GIVEN = {
    "pulmonary_label_map": ("seqseg/seqseg/tests/test_data/truths/PA000005.nii.gz", None),
    "circle_of_willis_label_map": ("topcow_labels/test_assets/seg_metrics/topcow_roi/topcow_ct_roi_003.nii.gz", None),
    "staircase_surface": ("seqseg/seqseg/tutorial/data/Models/shawn_260.vtp", "cm"),
    "smooth_surface": (
        "simvascular_tests/new-api-tests/simulation/reduced-order-modeling/input/model_surface.vtp",
        "cm",
    ),
}
"""Segmentations and surfaces that come without an image: what is given is the reference, the lumen read from it the
result. With them the units of surfaces."""


def given() -> dict[str, dict[str, object]]:
    """How well the lumen that is read from a label map or a surface agrees with it, before any branch is left out."""
    figures: dict[str, dict[str, object]] = {}
    for name, (file, unit) in GIVEN.items():
        path = data_folder() / file
        if not path.is_file():
            why = {"why": "the file is not on this machine"}
            figures[f"{name}_hausdorff_95"] = figure(None, "<= 2", "voxel", **why)
            continue
        image = read_source(path, series=None, segment=None, unit=unit).image
        lumen = read_lumen(path, image, unit=unit)
        ours = Grid.of(lumen.level_set)
        wall = np.asarray(wall_surface(ours).points, float)
        if path.suffix == ".vtp":
            surface = pv.read(path).extract_largest().triangulate()
            scale = MM_PER[unit]
            theirs = samples(np.asarray(surface.points, float) * scale, surface.faces.reshape(-1, 4)[:, 1:], 2)
            # A surface has no voxels to count: its volume instead.
            volume = float((ours.values < 0).sum() * np.prod(ours.spacing))
            off = 100.0 * abs(volume / (surface.volume * scale**3) - 1.0)
            figures[f"{name}_volume_error"] = figure(off, "<= 2", "%")
        else:
            grid = Grid.of(image)
            parts = label(grid.values > 0, connectivity=3)
            mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            theirs = np.asarray(wall_surface(grid.like(0.5 - mask.astype(np.float32))).points, float)
            near = np.flatnonzero(ndimage.binary_dilation(mask, iterations=2))
            inside = ours.sample(grid.positions_of(near), outside=1.0) < 0
            figures[f"{name}_dice"] = figure(dice(inside, mask.ravel()[near]), ">= 0.85", "1")
        voxel = float(np.cbrt(np.prod(image.GetSpacing())))
        apart = max(
            float(np.quantile(cKDTree(one).query(other)[0], 0.95)) for one, other in ((wall, theirs), (theirs, wall))
        )
        figures[f"{name}_hausdorff_95"] = figure(apart / voxel, "<= 2", "voxel")
    return figures


def data_folder() -> Path:
    """Where the real data are, on machines that have them."""
    return Path(os.environ.get("SURGICAL_TWIN_DATA", ROOT.parent / "shared" / "data"))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Twice what two masks share over what both hold."""
    return float(2.0 * (one & other).sum() / (one.sum() + other.sum()))


def _between_ends(grid: Grid, centerline: Centerline) -> np.ndarray:
    """Which voxels lie before the planes across a centerline's ends."""
    places = grid.positions_of(np.arange(grid.values.size))
    before = np.ones(len(places), dtype=bool)
    tangents = centerline.tangents()
    for number, (_, end) in enumerate(centerline.terminals()):
        offset = places - centerline.points[end]
        beyond = offset @ tangents[end] * (-1.0 if number == 0 else 1.0) > 0
        before &= ~(beyond & (np.linalg.norm(offset, axis=1) < 4 * centerline.radius[end]))
    return before.reshape(grid.values.shape)
