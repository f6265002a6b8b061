"""Landmarks in the 3D view: a ball with its name at each, anew whenever a person has changed them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.flat import port_label


class LandmarkMarks:
    """Balls and names in a renderer.

    Args:
        renderer: to draw in.
        radius: of a ball, mm.
    """

    def __init__(self, renderer: vtk.vtkRenderer, radius: float) -> None:
        self._renderer, self._radius = renderer, radius
        self._props: list[vtk.vtkProp] = []
        self._labels: list[vtk.vtkTextActor] = []
        self.places: dict[str, NDArray[np.float64]] = {}

    def show(self, places: Mapping[str, ArrayLike]) -> None:
        """Draw these (3,) mm LPS, by name, and no others."""
        for prop in (*self._props, *self._labels):
            self._renderer.RemoveViewProp(prop)
        self.places = {name: np.asarray(place, dtype=float) for name, place in places.items()}
        self._props, self._labels = [], []
        for name, place in self.places.items():
            ball = vtk.vtkSphereSource()
            ball.SetRadius(self._radius)
            ball.SetThetaResolution(20)
            ball.SetPhiResolution(14)
            mapper = vtk.vtkPolyDataMapper()
            mapper.SetInputConnection(ball.GetOutputPort())
            actor = vtk.vtkActor()
            actor.SetMapper(mapper)
            actor.SetPosition(*place)
            actor.GetProperty().SetColor(*colors.unit_rgb(colors.TARGET))
            actor.GetProperty().SetAmbient(0.5)
            label = port_label(name, place + (0.0, 0.0, 4.0 * self._radius))
            label.GetTextProperty().SetColor(*colors.unit_rgb(colors.TARGET))
            self._renderer.AddActor(actor)
            self._renderer.AddViewProp(label)
            self._props.append(actor)
            self._labels.append(label)

    def resize(self, size: int) -> None:
        """Set the names' size in pixels."""
        for label in self._labels:
            label.GetTextProperty().SetFontSize(size)
