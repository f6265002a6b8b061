"""Rendering through a real camera: VTK draws what an ideal lens sees, a lookup bends it as the real lens
does.

Two steps, because VTK's cameras know no distortion. (1) An ideal pinhole with the calibrated focal lengths and
principal point, given to VTK as an explicit projection matrix: a view angle and a window center alone cannot express fx
!= fy and half-pixel shifts exactly. Its image is made large enough that the bent one finds every pixel it needs. (2)
For every pixel of the real image, the inverse of the lens distortion says where in the ideal image to look; OpenCV
interpolates there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray

from registration.camera import PinholeCamera
from viewer.errors import InputError

LARGEST = 3
"""The ideal image is at most this many times as wide and high as the real one; rays further out stay
empty."""


@dataclass(frozen=True)
class Lens:
    """The intrinsics of a camera, ready to render through; its pose is given with each picture.

    Attributes:
        camera: the calibrated camera.
        ideal: an undistorted camera whose image covers everything the real one sees.
        lookup: (height, width, 2) float32: where in the ideal image each real pixel looks; -10 where nowhere.
    """

    camera: PinholeCamera
    ideal: PinholeCamera
    lookup: NDArray[np.float32]

    @classmethod
    def of(cls, camera: PinholeCamera) -> Lens:
        """Prepare a camera (a fraction of a second for a large image; remembered for the same intrinsics)."""
        ideal, lookup = _prepare(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, camera.distortion
        )
        return cls(camera, ideal, lookup)

    def aim(self, plotter: pv.Plotter, camera_from_world: ArrayLike, bounds: ArrayLike) -> None:
        """Put the plotter's camera where the real one is; `bounds` (x0, x1, y0, y1, z0, z1) is what may be
        seen."""
        posed = self.ideal.posed(camera_from_world)
        box = np.asarray(bounds, dtype=np.float64).reshape(3, 2)
        corners = np.array(np.meshgrid(*box)).reshape(3, -1).T
        depth = corners @ posed.camera_from_world[2, :3] + posed.camera_from_world[2, 3]
        margin = 0.01 * float(np.ptp(depth)) + 1.0
        far = max(float(depth.max()) + margin, 2.0)
        near = min(max(float(depth.min()) - margin, far / 2000.0), 0.5 * far)
        _, down, forward = posed.camera_from_world[:3, :3]
        position = posed.world_from_camera[:3, 3]
        view = plotter.renderer.GetActiveCamera()
        view.SetPosition(*position)
        view.SetFocalPoint(*(position + forward))
        view.SetViewUp(*-down)
        view.SetClippingRange(near, far)
        view.SetExplicitProjectionTransformMatrix(pv.vtkmatrix_from_array(posed.vtk_projection_matrix(near, far)))
        view.SetUseExplicitProjectionTransformMatrix(True)
        plotter.renderer.camera_set = True

    def bend(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The real camera's image (h, w, c) of the ideal one; empty (0) where the ideal image has nothing."""
        bent = cv2.remap(
            image,
            self.lookup,
            None,  # type: ignore[call-overload]  # OpenCV's stub asks for a second map, which two channels replace
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        return np.asarray(bent, dtype=np.uint8)


@lru_cache(maxsize=4)
def _prepare(
    width: int, height: int, fx: float, fy: float, cx: float, cy: float, distortion: tuple[float, ...]
) -> tuple[PinholeCamera, NDArray[np.float32]]:
    camera = PinholeCamera(width, height, fx, fy, cx, cy, distortion)  # type: ignore[arg-type]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    wanted = camera.rays(pixels) * (fx, fy) + (cx, cy)
    if not np.isfinite(wanted).any():
        raise InputError("the lens distortion leaves no pixel that an ideal ray reaches; calibrate the camera again.")
    reach = 0.5 * (LARGEST - 1) * np.array([width, height])
    lowest = np.maximum(np.floor(np.nanmin(wanted, axis=0)) - 1, -reach).astype(int)
    highest = np.minimum(np.ceil(np.nanmax(wanted, axis=0)) + 1, reach + (width - 1, height - 1)).astype(int)
    size = highest - lowest + 1
    ideal = replace(camera.undistorted(), width=int(size[0]), height=int(size[1]), cx=cx - lowest[0], cy=cy - lowest[1])
    lookup = np.where(np.isfinite(wanted), wanted - lowest, -10.0).astype(np.float32).reshape(height, width, 2)
    lookup.setflags(write=False)
    return ideal, lookup


def picture(plotter: pv.Plotter, size: tuple[int, int], *, transparent: bool) -> NDArray[np.uint8]:
    """Render an off-screen plotter at a size: (h, w, 3), or (h, w, 4) with premultiplied alpha if
    `transparent`.

    The background is black and empty when transparent, so that color is already weighted by alpha: such
    images may be interpolated and laid over others without dark fringes.
    """
    plotter.window_size = list(size)
    plotter.render()
    if not transparent:
        return np.ascontiguousarray(plotter.screenshot(None, return_img=True)[..., :3])
    return np.ascontiguousarray(plotter.screenshot(None, transparent_background=True, return_img=True))
