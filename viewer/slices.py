"""Three orthogonal slices of the planning image through the tip, as radiologists read them.

Axial slices are seen from the feet and coronal ones from the front, so that the patient's right is on the picture's
left; sagittal ones are seen from the patient's left, with the front on the picture's left. A slice is sampled in the
patient's axes, whatever way the image's own grid lies, with the same mm per pixel in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyvista as pv
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from viewer import colors
from viewer.errors import InputError
from viewer.lettering import font

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Plane:
    """One way of cutting: what is to the right and down in the picture, in LPS.

    Attributes:
        name: as 3D Slicer names it.
        right: (3,) LPS direction of the picture's right.
        down: (3,) LPS direction of the picture's bottom.
        letters: patient directions at the picture's left, right, top, bottom.
        color: of its frame, as in 3D Slicer (red, green, yellow); the name is always written beside it.
    """

    name: str
    right: tuple[float, float, float]
    down: tuple[float, float, float]
    letters: tuple[str, str, str, str]
    color: str

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) LPS direction along which slices are counted: to the left, back or head."""
        return np.abs(np.cross(self.right, self.down))


PLANES = (
    Plane("Axial", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), ("R", "L", "A", "P"), "#f0695a"),
    Plane("Coronal", (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), ("R", "L", "S", "I"), "#6fbf6b"),
    Plane("Sagittal", (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), ("A", "P", "S", "I"), "#f2d14b"),
)
OUTLINE = "#39d5ff"
LEAST_MM, MOST_MM = 15.0, 600.0
MARK_REACH_MM = 4.0
"""A landmark is drawn in a slice that passes it within this."""


class Volume:
    """An image with its place in the patient.

    Args:
        values: (nz, ny, nx) in any unit, such as Hounsfield units.
        lps_from_index: (4, 4) mm LPS of voxel (x, y, z).
    """

    def __init__(self, values: NDArray[np.float32], lps_from_index: ArrayLike) -> None:
        if values.ndim != 3 or min(values.shape) < 2:
            raise InputError(
                f"an image of shape {values.shape} has no slices; give a volume of 2 voxels a side or more."
            )
        self.values = np.ascontiguousarray(values, dtype=np.float32)
        self.lps_from_index = np.asarray(lps_from_index, dtype=np.float64)
        self._index_from_lps = np.linalg.inv(self.lps_from_index)
        spacing = np.linalg.norm(self.lps_from_index[:3, :3], axis=0)
        self.spacing_mm = float(spacing.min())
        low, high = np.percentile(self.values[::2, ::2, ::2], (1.0, 99.7))
        self.window_level = (float(max(high - low, 1e-6)), float(0.5 * (low + high)))

    @classmethod
    def read(cls, path: Path | str) -> Volume:
        """From an image file that SimpleITK reads (NRRD, NIfTI, MHA).

        Raises:
            InputError: it cannot be read, or is no volume.
        """
        try:
            image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        except RuntimeError as error:
            raise InputError(
                f"{path} is no image that can be read; write it again ({str(error).splitlines()[-1]})."
            ) from None
        if image.GetDimension() != 3:
            raise InputError(f"{path} has {image.GetDimension()} dimensions; slices need a volume of three.")
        direction = np.array(image.GetDirection()).reshape(3, 3)
        pose = np.eye(4)
        pose[:3, :3] = direction * image.GetSpacing()
        pose[:3, 3] = image.GetOrigin()
        return cls(sitk.GetArrayFromImage(image), pose)

    @property
    def center(self) -> NDArray[np.float64]:
        """(3,) mm LPS."""
        middle = (np.array(self.values.shape[::-1]) - 1.0) / 2.0
        return np.asarray(self.lps_from_index[:3, :3] @ middle + self.lps_from_index[:3, 3])

    def sample(
        self, origin: ArrayLike, across: ArrayLike, down: ArrayLike, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Values (rows, columns) at origin + column * across + row * down, mm LPS; NaN outside of the image."""
        turn = self._index_from_lps[:3, :3]
        start = turn @ np.asarray(origin, dtype=float) + self._index_from_lps[:3, 3]
        rows, columns = _places(shape)
        steps = turn @ np.asarray(across, dtype=float), turn @ np.asarray(down, dtype=float)
        at = [(start[axis] + columns * steps[0][axis] + rows * steps[1][axis]).astype(np.float32) for axis in (2, 1, 0)]
        return map_coordinates(self.values, at, order=1, mode="constant", cval=np.nan, prefilter=False)


@lru_cache(maxsize=8)
def _places(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row and column of each pixel of a picture."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return rows, columns


@dataclass
class SliceView:
    """How one plane is looked at; a person changes it with the mouse.

    Attributes:
        plane: which.
        center: (3,) mm LPS in the picture's middle; the slice goes through it.
        span_mm: picture's shorter side.
    """

    plane: Plane
    center: NDArray[np.float64]
    span_mm: float = 90.0

    def mm_per_pixel(self, size: tuple[int, int]) -> float:
        """At a picture's size (width, height)."""
        return self.span_mm / min(size)

    def to_pixel(self, point: ArrayLike, size: tuple[int, int]) -> tuple[float, float]:
        """Column and row at which a point, mm LPS, is seen."""
        offset = (np.asarray(point, dtype=float) - self.center) / self.mm_per_pixel(size)
        return (
            float(offset @ self.plane.right) + 0.5 * (size[0] - 1),
            float(offset @ self.plane.down) + 0.5 * (size[1] - 1),
        )

    def to_point(self, column: float, row: float, size: tuple[int, int]) -> NDArray[np.float64]:
        """The point, mm LPS, in the slice at a pixel."""
        step = self.mm_per_pixel(size)
        right, down = np.array(self.plane.right), np.array(self.plane.down)
        return np.asarray(
            self.center + step * ((column - 0.5 * (size[0] - 1)) * right + (row - 0.5 * (size[1] - 1)) * down)
        )

    def scroll(self, steps: int, spacing_mm: float) -> None:
        """Go some slices on: to the patient's left, back or head."""
        self.center = self.center + steps * spacing_mm * self.plane.normal

    def zoom(self, factor: float) -> None:
        """Show `factor` times as many millimetres."""
        self.span_mm = float(np.clip(self.span_mm * factor, LEAST_MM, MOST_MM))


def lumen_cut(lumen: pv.PolyData, view: SliceView) -> list[NDArray[np.float64]]:
    """Pieces (2, 3) mm LPS of the line in which the lumen's wall meets the slice."""
    points = np.asarray(lumen.points, dtype=np.float64)
    triangles = _triangles(lumen)
    height = (points - view.center) @ view.plane.normal
    side = height > 0.0
    first = side[triangles[:, 0]]
    crossing = triangles[(first != side[triangles[:, 1]]) | (first != side[triangles[:, 2]])]
    pieces: list[NDArray[np.float64]] = []
    if not len(crossing):
        return pieces
    ends = np.empty((len(crossing), 2, 3))
    filled = np.zeros(len(crossing), dtype=int)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = crossing[:, i], crossing[:, j]
        cut = np.flatnonzero(side[a] != side[b])
        share = height[a[cut]] / (height[a[cut]] - height[b[cut]])
        ends[cut, filled[cut]] = points[a[cut]] + share[:, None] * (points[b[cut]] - points[a[cut]])
        filled[cut] += 1
    return list(ends)


def _triangles(mesh: pv.PolyData) -> NDArray[np.int64]:
    return np.asarray(mesh.regular_faces, dtype=np.int64)


def draw_slice(
    volume: Volume,
    view: SliceView,
    size: tuple[int, int],
    *,
    window_level: tuple[float, float],
    lumen: pv.PolyData | None = None,
    tip: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    warning: str | None = None,
    note: str = "",
    scale: float = 1.0,
    marks: Mapping[str, ArrayLike] | None = None,
    cross: ArrayLike | None = None,
) -> Pixels:
    """One slice as a picture (height, width, 3).

    Args:
        volume: the image.
        view: which slice, and how near.
        size: width and height in pixels.
        window_level: width and middle of the range of grey.
        lumen: surface whose cut is drawn, mm LPS.
        tip: (3,) mm LPS for the crosshair; None draws none.
        covariance: (3, 3) mm^2 of the tip: its 95 % ellipse in this plane is drawn.
        warning: why the slice is not to be trusted; it is then hatched and says so.
        note: words at the foot, such as that the slice does not follow the tip.
        scale: of type and lines; 1 for a window of 720 pixels.
        marks: landmarks by name, (3,) mm LPS; those within `MARK_REACH_MM` of the slice are drawn.
        cross: (3,) mm LPS where all slices meet, for a crosshair that is no tip.
    """
    width, height = size
    step = view.mm_per_pixel(size)
    right, down = np.array(view.plane.right), np.array(view.plane.down)
    values = volume.sample(view.to_point(0, 0, size), step * right, step * down, (height, width))
    window, level = window_level
    grey = np.clip((values - (level - 0.5 * window)) / max(window, 1e-9), 0.0, 1.0)
    outside = np.isnan(grey)
    grey = np.nan_to_num(grey) * 255.0
    canvas = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    canvas[outside] = colors.rgb(colors.BACKGROUND)
    if lumen is not None:
        _draw_cut(canvas, lumen, view, size, scale)
    if warning is not None:
        _hatch(canvas, scale)
    elif tip is not None:
        _draw_tip(canvas, view, size, np.asarray(tip, dtype=float), covariance, scale, colors.TIP)
    elif cross is not None:
        _draw_tip(canvas, view, size, np.asarray(cross, dtype=float), None, scale, colors.COURSE)
    image = Image.fromarray(canvas)
    _write_marks(image, view, marks or {}, scale)
    _write(image, view, warning, note, scale)
    return np.asarray(image, dtype=np.uint8)


def _draw_cut(canvas: Pixels, lumen: pv.PolyData, view: SliceView, size: tuple[int, int], scale: float) -> None:
    pieces = lumen_cut(lumen, view)
    if not pieces:
        return
    offset = (np.array(pieces) - view.center) / view.mm_per_pixel(size)
    pixels = np.stack(
        [
            offset @ np.array(view.plane.right) + 0.5 * (size[0] - 1),
            offset @ np.array(view.plane.down) + 0.5 * (size[1] - 1),
        ],
        axis=-1,
    )
    # Sub-pixel ends: OpenCV takes fixed-point numbers with four binary places.
    fixed = np.round(pixels * 16.0).astype(np.int32)
    cv2.polylines(canvas, list(fixed), False, colors.rgb(OUTLINE), max(round(1.4 * scale), 1), cv2.LINE_AA, shift=4)


def _draw_tip(
    canvas: Pixels,
    view: SliceView,
    size: tuple[int, int],
    tip: NDArray[np.float64],
    covariance: ArrayLike | None,
    scale: float,
    ink: str,
) -> None:
    x, y = view.to_pixel(tip, size)
    thick = max(round(1.2 * scale), 1)
    gap = 9.0 * scale
    color = colors.rgb(ink)
    ends = (((0, y), (x - gap, y)), ((x + gap, y), (size[0], y)), ((x, 0), (x, y - gap)), ((x, y + gap), (x, size[1])))
    for a, b in ends:
        first, last = ((round(16.0 * p[0]), round(16.0 * p[1])) for p in (a, b))
        cv2.line(canvas, first, last, color, thick, cv2.LINE_AA, shift=4)
    if covariance is None:
        return
    axes = np.stack([view.plane.right, view.plane.down])
    inside = axes @ np.asarray(covariance, dtype=float).reshape(3, 3) @ axes.T
    spread, turn = np.linalg.eigh(inside)
    # 95 % of a plane's normal distribution lie within the square root of 5.991.
    half = np.sqrt(5.991464547 * np.clip(spread, 0.0, None)) / view.mm_per_pixel(size)
    angle = np.linspace(0.0, 2.0 * np.pi, 65)
    ring = (turn * half) @ np.stack([np.cos(angle), np.sin(angle)]) + np.array([[x], [y]])
    cv2.polylines(
        canvas,
        [np.round(16.0 * ring.T).astype(np.int32)],
        True,
        color,
        max(round(1.6 * scale), 1),
        cv2.LINE_AA,
        shift=4,
    )


@lru_cache(maxsize=8)
def _stripes(shape: tuple[int, int], pitch: int) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((rows + columns) % pitch < pitch // 2)


def _hatch(canvas: Pixels, scale: float) -> None:
    """Darken diagonal stripes: a slice that is not to be trusted cannot be taken for one that is."""
    stripes = _stripes(canvas.shape[:2], max(round(22 * scale), 4))
    canvas[stripes] = (0.45 * canvas[stripes] + 0.55 * np.array(colors.rgb(colors.UNTRUSTED)) * 0.6).astype(np.uint8)


def _write_marks(image: Image.Image, view: SliceView, marks: Mapping[str, ArrayLike], scale: float) -> None:
    """Rings with names, the wider the nearer the slice is."""
    draw = ImageDraw.Draw(image)
    face = font(round(13 * scale), bold=True)
    halo = max(round(2 * scale), 1)
    for name, place in marks.items():
        point = np.asarray(place, dtype=float)
        away = abs(float((point - view.center) @ view.plane.normal))
        if away > MARK_REACH_MM:
            continue
        x, y = view.to_pixel(point, image.size)
        reach = scale * (3.0 + 5.0 * (1.0 - away / MARK_REACH_MM))
        ring = [x - reach, y - reach, x + reach, y + reach]
        draw.ellipse(ring, outline=colors.TARGET, width=max(round(2 * scale), 1))
        beside = (x + 9 * scale, y - 9 * scale)
        draw.text(beside, name, font=face, fill=colors.TARGET, anchor="ls", stroke_width=halo, stroke_fill="#000000")


@lru_cache(maxsize=16)
def _frame(plane: Plane, size: tuple[int, int], scale: float) -> Image.Image:
    """What a plane's slices of one size have in common, to be laid over them: frame, name and orientation letters."""
    laid = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(laid)
    width, height = size
    draw.rectangle([0, 0, width - 1, height - 1], outline=plane.color, width=max(round(2 * scale), 1))
    letter = font(round(17 * scale), bold=True)
    pad = 9 * scale
    places = (
        (pad, height / 2, "lm"),
        (width - pad, height / 2, "rm"),
        (width / 2, pad, "ma"),
        (width / 2, height - pad, "md"),
    )
    halo = max(round(2 * scale), 1)
    for name, (x, y, anchor) in zip(plane.letters, places, strict=True):
        draw.text((x, y), name, font=letter, fill=colors.TEXT, anchor=anchor, stroke_width=halo, stroke_fill="#000000")
    small = font(round(14 * scale), bold=True)
    draw.text((pad, pad), plane.name, font=small, fill=plane.color, stroke_width=halo, stroke_fill="#000000")
    return laid


def _write(image: Image.Image, view: SliceView, warning: str | None, note: str, scale: float) -> None:
    laid = _frame(view.plane, image.size, scale)
    image.paste(laid, mask=laid)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    small = font(round(14 * scale), bold=True)
    pad = 9 * scale
    halo = max(round(2 * scale), 1)
    places = (((width - pad, pad), _side(view), colors.TEXT, "ra"), ((pad, height - pad), note, "#f5c542", "ls"))
    for place, words, ink, anchor in places:
        if words:
            draw.text(place, words, font=small, fill=ink, anchor=anchor, stroke_width=halo, stroke_fill="#000000")
    if warning is not None:
        face = font(round(16 * scale), bold=True)
        half = 0.5 * draw.textlength(warning, font=face) + pad
        middle = (width / 2, height * 0.33)
        draw.rectangle(
            [middle[0] - half, middle[1] - 14 * scale, middle[0] + half, middle[1] + 14 * scale], fill=colors.ALARM
        )
        draw.text(middle, warning, font=face, fill="#ffffff", anchor="mm")


def _side(view: SliceView) -> str:
    """The slice's place with its direction's letter, as 3D Slicer writes it: S 12.3 mm."""
    value = float(view.center @ view.plane.normal)
    axis = int(np.argmax(view.plane.normal))
    letter = (("R", "L"), ("A", "P"), ("I", "S"))[axis][int(value >= 0.0)]
    return f"{letter} {abs(value):.1f} mm"
