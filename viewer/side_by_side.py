"""Two states of one lumen side by side, before and after something is done, and the pressure along the vessel."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pyvista as pv
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from viewer import colors
from viewer.errors import InputError
from viewer.lettering import font, wrap
from viewer.waveforms import STYLE, new_figure

Pixels = NDArray[np.uint8]

BEFORE, AFTER = "#9aa7b5", "#4fc3b1"
_HEAD, _SCALE = 84, 64
"""Height in pixels of the words above and the color scale below."""


def lumen_pair(
    lumen: pv.PolyData,
    before: ArrayLike,
    after: ArrayLike,
    *,
    titles: tuple[str, str],
    limits: tuple[float, float] | None = None,
    size: tuple[int, int] = (1280, 560),
) -> Pixels:
    """The same surface twice from the same side, colored by pressure on one scale.

    Args:
        lumen: surface, mm LPS.
        before: (n,) mmHg at its points.
        after: (n,) mmHg.
        titles: words above each.
        limits: ends of the color scale in mmHg; those of both fields together where None.
        size: width and height in pixels.

    Raises:
        InputError: a field of another length, or not finite.
    """
    fields = [np.asarray(before, dtype=float), np.asarray(after, dtype=float)]
    for field in fields:
        if field.shape != (lumen.n_points,) or not np.isfinite(field).all():
            raise InputError(f"a field to draw must hold {lumen.n_points} finite values; it has {field.shape}.")
    low, high = limits or (min(f.min() for f in fields), max(f.max() for f in fields))
    if high - low < 1.0:
        low, high = 0.5 * (low + high) - 0.5, 0.5 * (low + high) + 0.5
    width, height = size
    half = width // 2
    rendered = [_render(lumen, field, (low, high), (half, height - _HEAD - _SCALE)) for field in fields]
    canvas = Image.new("RGB", size, colors.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for column, (picture, title) in enumerate(zip(rendered, titles, strict=True)):
        canvas.paste(Image.fromarray(picture), (column * half, _HEAD))
        for row, line in enumerate(wrap(title, font(22, bold=True), half - 40, draw)[:2]):
            draw.text(
                (column * half + 20, 34 + 28 * row), line, font=font(22, bold=True), fill=colors.TEXT, anchor="ls"
            )
    draw.line([(half, 12), (half, height - _SCALE - 12)], fill=colors.RULE, width=2)
    _scale(draw, canvas, (low, high), height - _SCALE)
    return np.asarray(canvas, dtype=np.uint8)


def pressure_profiles(
    distance: ArrayLike, before: Sequence[ArrayLike], after: Sequence[ArrayLike], *, size: tuple[int, int] = (1280, 360)
) -> Pixels:
    """Pressure along the vessel before and after, each as value, lower and upper end of its 95 % interval, mmHg."""
    x = np.asarray(distance, dtype=float)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(size)
        for label, color, (value, lower, upper) in (("before", BEFORE, before), ("after", AFTER, after)):
            axes.fill_between(x, np.asarray(lower), np.asarray(upper), color=color, alpha=0.25, linewidth=0)
            axes.plot(x, np.asarray(value), color=color, linewidth=2.4, label=f"{label} (95 %)")
        axes.set_title("Mean pressure along the vessel")
        axes.set_xlabel("distance from the inlet [mm]")
        axes.set_ylabel("pressure [mmHg]")
        axes.set_xlim(float(x.min()), float(x.max()))
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _render(
    lumen: pv.PolyData, values: NDArray[np.float64], limits: tuple[float, float], size: tuple[int, int]
) -> Pixels:
    """From the patient's front, head up, along the lumen's thinnest direction."""
    plotter = pv.Plotter(off_screen=True, window_size=list(size), lighting="none")
    try:
        plotter.set_background(colors.BACKGROUND)
        plotter.add_light(pv.Light(light_type="headlight", intensity=1.0))
        mesh = pv.PolyData(np.asarray(lumen.points), lumen.faces)
        mesh.point_data["pressure"] = values
        table = pv.LookupTable(values=colors.pressure_table(), scalar_range=limits)
        plotter.add_mesh(mesh, scalars="pressure", cmap=table, clim=limits, smooth_shading=True, show_scalar_bar=False)
        points = np.asarray(lumen.points, dtype=float)
        center = 0.5 * (points.min(axis=0) + points.max(axis=0))
        toward = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][2]
        if toward[1] > 0.0 or (toward[1] == 0.0 and toward.sum() < 0.0):
            toward = -toward
        up = (0.0, 0.0, 1.0) if abs(toward[2]) < 0.9 else (0.0, -1.0, 0.0)
        plotter.camera_position = [
            tuple(center + toward * float(np.ptp(points, axis=0).max()) * 3.0),
            tuple(center),
            up,
        ]
        plotter.reset_camera()
        plotter.camera.zoom(1.15)
        return np.ascontiguousarray(plotter.screenshot(None, return_img=True)[..., :3])
    finally:
        plotter.close()


def _scale(draw: ImageDraw.ImageDraw, canvas: Image.Image, limits: tuple[float, float], top: int) -> None:
    width = canvas.width
    bar = Image.fromarray(colors.pressure_table()[None, :, :3]).resize((width // 2, 14))
    left = width // 4
    canvas.paste(bar, (left, top + 10))
    for share in (0.0, 0.5, 1.0):
        value = limits[0] + share * (limits[1] - limits[0])
        place = (left + share * width / 2, top + 48)
        draw.text(place, f"{value:.0f} mmHg", font=font(16), fill=colors.MUTED, anchor="ms")
