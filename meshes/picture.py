"""Pictures in which a person sees at one look what was segmented, and how good its mesh is."""

from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk

from meshes.grid import Grid
from meshes.mending import scaled_jacobians
from meshes.quality import smallest_dihedrals
from meshes.tetrahedra import LumenMesh

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize

VIEWS = (("axial", 0), ("coronal", 1), ("sagittal", 2))
"""Each view's name and the axis of the array (in LPS order) that it looks along."""


def write_projections(image: sitk.Image, label: sitk.Image, path: Path, *, title: str = "") -> None:
    """Three orthogonal maximum-intensity projections with the outline of the label, as PNG.

    In the radiological convention: the patient's right is at the viewer's left, and the head or the front is up.

    Args:
        image: what was segmented.
        label: 1 in the lumen, on the same grid.
        path: the picture; written under a temporary name and renamed.
        title: printed on top.
    """
    upright = sitk.DICOMOrient(image, "LPS")
    values = Grid.of(upright)
    mask = sitk.GetArrayFromImage(sitk.DICOMOrient(label, "LPS")) > 0
    low, high = np.quantile(values.values, [0.02, 0.999])
    figure, axes = plt.subplots(1, 3, figsize=(16, 6.5), facecolor="black", layout="constrained")
    spacing = values.spacing[::-1]
    for axis, (name, along) in zip(axes, VIEWS, strict=True):
        shown, outline = values.values.max(axis=along), mask.max(axis=along)
        rows, columns = [number for number in range(3) if number != along]
        # Toward the head is up; in the axial view the front is.
        origin = "upper" if along == 0 else "lower"
        extent_x, extent_y = shown.shape[1] * spacing[columns], shown.shape[0] * spacing[rows]
        extent = (0.0, extent_x, extent_y, 0.0) if origin == "upper" else (0.0, extent_x, 0.0, extent_y)
        axis.imshow(shown, cmap="gray", vmin=low, vmax=high, origin=origin, extent=extent, interpolation="bilinear")
        x = (np.arange(shown.shape[1]) + 0.5) * spacing[columns]
        y = (np.arange(shown.shape[0]) + 0.5) * spacing[rows]
        if outline.any():
            axis.contour(x, y, outline, levels=[0.5], colors="#ffb000", linewidths=0.8)
        letters = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
        left, right, top, bottom = letters[name]
        for letter, x_at, y_at in ((left, 0.02, 0.5), (right, 0.98, 0.5), (top, 0.5, 0.97), (bottom, 0.5, 0.03)):
            axis.text(x_at, y_at, letter, color="white", ha="center", va="center", transform=axis.transAxes)
        axis.set_title(name, color="white")
        axis.set_axis_off()
    if title:
        figure.suptitle(title, color="white")
    temporary = path.with_name(f".{path.stem}.part.png")
    figure.savefig(temporary, dpi=100, facecolor="black")
    plt.close(figure)
    temporary.replace(path)


def write_mesh_picture(mesh: LumenMesh, path: Path, *, title: str = "") -> None:
    """The mesh, its triangles colored by the quality behind them, and how qualities are spread.

    It is seen from the front (LPS y), or across its two longer extents where from the front it would be seen end-on.

    Args:
        mesh: what to show.
        path: the picture, PNG; written under a temporary name and renamed.
        title: printed on top.
    """
    quality = scaled_jacobians(mesh.points, mesh.tetrahedra)
    angles = np.degrees(smallest_dihedrals(mesh.points, mesh.tetrahedra))
    worst = np.ones(len(mesh.points))
    np.minimum.at(worst, mesh.tetrahedra.ravel(), np.repeat(quality, 4))
    corners = mesh.points[mesh.triangles]
    extent = np.ptp(mesh.points, axis=0)
    along = 1 if extent[1] < extent.max() else int(np.argmin(extent))
    across, up = (axis for axis in range(3) if axis != along)
    # From the front the patient's right is at the viewer's left, from the left side the front, from below the right:
    # what is behind is drawn first.
    toward = 1.0 if along == 0 else -1.0
    order = np.argsort(toward * corners[:, :, along].mean(axis=1))
    front = corners[order][:, :, [across, up]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[order]
    shade = 0.55 + 0.45 * np.clip(
        toward * normals[:, along] / np.maximum(np.linalg.norm(normals, axis=1), 1e-30), 0.0, 1.0
    )
    colors = plt.get_cmap("viridis")(np.clip(worst[mesh.triangles].min(axis=1), 0.0, 0.6)[order] / 0.6)
    colors[:, :3] *= shade[:, None]
    at_port = mesh.triangle_tags[order] > 0
    colors[at_port] = (0.86, 0.22, 0.18, 1.0)
    # As wide as the vessel needs beside its color bar, at equal scales.
    width = float(np.clip(6.5 * extent[across] / max(extent[up], 1e-9) + 2.5, 4.5, 9.0))
    figure = plt.figure(figsize=(width + 6.0, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(width, 6.0))
    view = left.subplots()
    view.add_collection(PolyCollection(front, facecolors=colors, edgecolors="none"))
    view.autoscale_view()
    view.set_aspect("equal")
    view.set_xlabel(f"{'xyz'[across]} (LPS) [mm]")
    view.set_ylabel(f"{'xyz'[up]} (LPS) [mm]")
    if along == 2:
        view.invert_yaxis()
    view.set_title("worst scaled Jacobian at each triangle; ports red", fontsize=10)
    for port in mesh.ports:
        place = (port.center[across], port.center[up])
        plate = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        view.annotate(port.name, place, fontsize=8, color="black", ha="center", bbox=plate)
    left.colorbar(ScalarMappable(Normalize(0.0, 0.6), "viridis"), ax=view, shrink=0.6)
    upper, lower = right.subplots(2, 1)
    upper.hist(quality, bins=np.linspace(0.0, 1.0, 51), color="#31688e")
    upper.set_title(f"scaled Jacobian: smallest {quality.min():.3f}, mean {quality.mean():.3f}", fontsize=10)
    lower.hist(angles, bins=np.linspace(0.0, 72.0, 49), color="#35b779")
    lower.axvline(8.0, color="#dc3830")
    lower.set_title(f"smallest dihedral angle of each tetrahedron: least {angles.min():.1f} degrees", fontsize=10)
    for axis in (upper, lower):
        axis.set_yscale("log")
        axis.set_ylabel("tetrahedra")
    if title:
        figure.suptitle(title)
    temporary = path.with_name(f".{path.stem}.part.png")
    figure.savefig(temporary, dpi=90)
    plt.close(figure)
    temporary.replace(path)
