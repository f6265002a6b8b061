"""Flat things in a window: pictures drawn pixel for pixel, the compass's letters, labels of ports."""

from __future__ import annotations

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk

from viewer import colors
from viewer.lettering import font_file


class FlatPicture:
    """An image drawn flat on a renderer, pixel for pixel."""

    def __init__(self, renderer: vtk.vtkRenderer, *, layer: int = 2) -> None:
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255.0)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkImageData()
        self._held: NDArray[np.uint8] | None = None
        self._mapper.SetInputData(self._image)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.SetVisibility(False)
        self._actor.SetLayerNumber(layer)
        renderer.AddViewProp(self._actor)

    def show(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Draw an image (height, width, 3) with its lower left corner at a pixel of the window."""
        height, width = pixels.shape[:2]
        # VTK counts rows from the bottom; the array is held here for as long as VTK reads it.
        self._held = np.ascontiguousarray(pixels[::-1]).reshape(-1, 3)
        self._image.SetDimensions(width, height, 1)
        self._image.GetPointData().SetScalars(numpy_to_vtk(self._held))
        self._image.Modified()
        self._actor.SetPosition(x, y)
        self._actor.SetVisibility(True)

    def hide(self) -> None:
        """Draw nothing."""
        self._actor.SetVisibility(False)


class Compass:
    """The letters at the edges of a view that say which way the patient lies (R L A P S I)."""

    _NAMES = (("R", "L"), ("A", "P"), ("I", "S"))  # toward -, + of LPS x, y, z

    def __init__(self, renderer: pv.Renderer) -> None:
        self._renderer = renderer
        places = ((0.02, 0.5, 0, 1), (0.98, 0.5, 2, 1), (0.5, 0.02, 1, 0))
        self._letters = []
        for x, y, across, along in places:
            letter = vtk.vtkTextActor()
            letter.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
            letter.GetPositionCoordinate().SetValue(x, y)
            style_text(letter.GetTextProperty(), colors.MUTED)
            letter.GetTextProperty().SetJustification(across)
            letter.GetTextProperty().SetVerticalJustification(along)
            renderer.AddViewProp(letter)
            self._letters.append(letter)
        renderer.AddObserver("StartEvent", lambda *_: self.turn())

    def resize(self, scale: float, *, shown: bool = True) -> None:
        """Set the size of type; 1 for a window of 720 pixels. In a small view there is room for ports' names only."""
        for letter in self._letters:
            letter.SetVisibility(shown)
            letter.GetTextProperty().SetFontSize(round(18 * scale))

    def turn(self) -> None:
        """Name the directions of the present view."""
        view = self._renderer.GetActiveCamera().GetViewTransformMatrix()
        right = np.array([view.GetElement(0, i) for i in range(3)])
        up = np.array([view.GetElement(1, i) for i in range(3)])
        for letter, direction in zip(self._letters, (-right, right, -up), strict=True):
            name = self._name(direction)
            if letter.GetInput() != name:
                letter.SetInput(name)

    def _name(self, direction: NDArray[np.float64]) -> str:
        axis = int(np.argmax(np.abs(direction)))
        return self._NAMES[axis][int(direction[axis] > 0.0)]


def style_text(text: vtk.vtkTextProperty, color: str) -> None:
    """The display's typeface in a color."""
    text.SetFontFamily(vtk.VTK_FONT_FILE)
    text.SetFontFile(font_file(bold=True))
    text.SetColor(*colors.unit_rgb(color))


def port_label(name: str, position: ArrayLike) -> vtk.vtkTextActor:
    """A port's name that stays upright and in front."""
    label = vtk.vtkTextActor()
    label.SetInput(name.replace("_", " "))
    label.GetPositionCoordinate().SetCoordinateSystemToWorld()
    label.GetPositionCoordinate().SetValue(*np.asarray(position, dtype=np.float64))
    style = label.GetTextProperty()
    style_text(style, colors.TEXT)
    style.SetJustificationToCentered()
    style.SetVerticalJustificationToCentered()
    style.SetBackgroundColor(*colors.unit_rgb(colors.BACKGROUND))
    style.SetBackgroundOpacity(0.6)
    return label
