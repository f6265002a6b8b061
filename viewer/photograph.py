"""A simulated camera photograph: what a calibrated camera in a simulated operating room would record.

Stands in for a real camera frame: shaded skin or bone, marker spheres, the lens's distortion and vignetting,
and sensor noise. Made from the same `PinholeCamera` as the overlay but through none of the overlay's actors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyvista as pv
from numpy.typing import NDArray

from registration.camera import PinholeCamera
from viewer.errors import InputError
from viewer.lens import Lens, picture

SKIN = "#c98f76"
BONE = "#d9cfb8"
MARKER = "#dfe3e6"
DRAPE = "#2f5d66"


@dataclass(frozen=True)
class Surface:
    """A thing in front of the camera: mesh in mm LPS, its color #rrggbb, and how glossy it is (0 to 1)."""

    mesh: pv.PolyData
    color: str = SKIN
    gloss: float = 0.15


def photograph(
    surfaces: Sequence[Surface],
    camera: PinholeCamera,
    *,
    markers: Mapping[str, Sequence[float]] | None = None,
    marker_radius: float = 4.0,
    noise: float = 0.012,
    vignetting: float = 0.35,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """The camera's image (height, width, 3).

    Args:
        surfaces: what lies before the camera.
        camera: calibrated camera with its pose; its distortion bends the image.
        markers: name and center in mm LPS of each marker sphere.
        marker_radius: mm.
        noise: standard deviation of the sensor's noise at full signal, as part of full scale; shot noise, so
            it falls with the root of the signal.
        vignetting: part of the light lost at the image's corners.
        rng: source of the noise.

    Raises:
        InputError: nothing to photograph, or noise or vignetting outside 0 to 1.
    """
    if not surfaces and not markers:
        raise InputError("nothing lies before the camera; give at least one surface or marker.")
    if not (0.0 <= noise <= 1.0 and 0.0 <= vignetting <= 1.0):
        raise InputError(f"noise {noise:g} and vignetting {vignetting:g} must lie between 0 and 1.")
    lens = Lens.of(camera)
    plotter = pv.Plotter(off_screen=True, border=False, lighting="none")
    try:
        plotter.set_background(DRAPE)
        # A lamp beside the camera and a weak one from the other side, as over an operating table.
        world_from_camera = camera.world_from_camera
        for offset, strength in (((-300.0, -400.0, -100.0), 0.85), ((500.0, -100.0, 0.0), 0.35)):
            position = world_from_camera[:3, :3] @ offset + world_from_camera[:3, 3]
            plotter.add_light(pv.Light(position=position, focal_point=_middle(surfaces, markers), intensity=strength))
        for surface in surfaces:
            plotter.add_mesh(
                surface.mesh,
                color=surface.color,
                smooth_shading=True,
                ambient=0.15,
                diffuse=0.85,
                specular=surface.gloss,
                specular_power=25,
                scalars=None,
                show_scalar_bar=False,
                copy_mesh=True,
            )
        for marker in (markers or {}).values():
            ball = pv.Sphere(radius=marker_radius, center=tuple(marker), theta_resolution=32, phi_resolution=24)
            plotter.add_mesh(ball, color=MARKER, smooth_shading=True, ambient=0.45, diffuse=0.6, specular=0.4)
        plotter.enable_anti_aliasing("msaa", multi_samples=4)
        lens.aim(plotter, camera.camera_from_world, plotter.renderer.ComputeVisiblePropBounds())
        image = lens.bend(picture(plotter, (lens.ideal.width, lens.ideal.height), transparent=False))
    finally:
        plotter.close()
    signal = image.astype(np.float64) / 255.0 * _falloff(camera, vignetting)[..., None]
    signal += noise * np.sqrt(np.clip(signal, 0.02, 1.0)) * rng.normal(size=signal.shape)
    return np.asarray(np.clip(np.round(signal * 255.0), 0, 255), dtype=np.uint8)


def _falloff(camera: PinholeCamera, loss: float) -> NDArray[np.float64]:
    """Light reaching each pixel (height, width): quadratic from the principal point, `loss` lost at the far
    corner."""
    x = (np.arange(camera.width) - camera.cx) ** 2
    y = (np.arange(camera.height) - camera.cy) ** 2
    square = y[:, None] + x[None]
    return np.asarray(1.0 - loss * square / square.max())


def _middle(surfaces: Sequence[Surface], markers: Mapping[str, Sequence[float]] | None) -> tuple[float, ...]:
    """What the lamps point at: the surfaces, so that adding a marker moves no light."""
    centers = [np.asarray(surface.mesh.center) for surface in surfaces]
    if not centers:
        centers = [np.asarray(position, dtype=np.float64) for position in (markers or {}).values()]
    return tuple(float(x) for x in np.mean(centers, axis=0))
