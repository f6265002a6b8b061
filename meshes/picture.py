"""A picture in which a person sees at one look what was segmented."""

from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk

from meshes.grid import Grid

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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
