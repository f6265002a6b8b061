"""Where the panes of the window are: the arrangements that a user of 3D Slicer knows, the numbers at the right."""

from __future__ import annotations

from dataclasses import dataclass

from viewer.errors import InputError

PANEL_SHARE = 0.3
"""Part of the window's width that the numbers take."""

LAYOUTS = ("conventional", "four_up", "3d", "endoluminal")
"""By their keys 1 to 4."""

PLANNING = "planning"
"""Slices and 3D alone, for a page that says everything else itself."""


@dataclass(frozen=True)
class Pane:
    """A part of the window in pixels, counted from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def holds(self, x: float, y: float) -> bool:
        """Whether a pixel lies in it."""
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


def panes(layout: str, width: int, height: int) -> dict[str, Pane]:
    """Name to pane for a window; the panel of numbers is always there but in planning.

    Names: ``3d``, ``endoluminal``, ``axial``, ``coronal``, ``sagittal``, ``waves``, ``pullback``, ``panel``.

    Raises:
        InputError: no such layout.
    """
    view = width if layout == PLANNING else round((1.0 - PANEL_SHARE) * width)
    placed = {} if layout == PLANNING else {"panel": Pane(view, 0, width - view, height)}
    if layout == "3d":
        return placed | {"3d": Pane(0, 0, view, height)}
    if layout in ("four_up", PLANNING):
        x, y = view // 2, height // 2
        return placed | {
            "axial": Pane(0, 0, x, y),
            "3d": Pane(x, 0, view - x, y),
            "coronal": Pane(0, y, x, height - y),
            "sagittal": Pane(x, y, view - x, height - y),
        }
    if layout in ("conventional", "endoluminal"):
        side = min(height // 3, view // 3)
        main = view - side
        charts = round(0.29 * height)
        placed |= {
            "waves": Pane(0, height - charts, main - main // 2, charts),
            "pullback": Pane(main - main // 2, height - charts, main // 2, charts),
        }
        big, small = ("3d", "sagittal") if layout == "conventional" else ("endoluminal", "3d")
        placed[big] = Pane(0, 0, main, height - charts)
        for row, name in enumerate(("axial", "coronal", small)):
            top, below = row * height // 3, (row + 1) * height // 3
            placed[name] = Pane(main, top, side, below - top)
        return placed
    raise InputError(f'there is no layout "{layout}"; choose from {", ".join(LAYOUTS)}.')
