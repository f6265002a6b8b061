"""How alike a measured and a computed radiograph are: the correlation of their gradients (Penney 1998)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, sobel

from registration.camera import PinholeCamera
from registration.projection.carm import Attenuation, radiograph
from registration.rigid import Array


def shrunk(camera: PinholeCamera, factor: int) -> PinholeCamera:
    """The camera of an image whose pixels are joined in blocks of `factor` x `factor`."""
    return PinholeCamera(
        camera.width // factor,
        camera.height // factor,
        camera.fx / factor,
        camera.fy / factor,
        (camera.cx + 0.5) / factor - 0.5,
        (camera.cy + 0.5) / factor - 0.5,
        camera_from_world=camera.camera_from_world,
    )


def _blocks(image: Array, factor: int) -> Array:
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    return image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean(axis=(1, 3))


class View:
    """One measured radiograph at one resolution, its gradients ready."""

    def __init__(self, image: Array, camera: PinholeCamera, factor: int) -> None:
        self.camera = shrunk(camera, factor)
        self.gradients = _gradients(_blocks(image, factor))
        self.norms = [float(np.sqrt(np.sum(g**2))) for g in self.gradients]

    @property
    def unit_gradients(self) -> Array:
        """Both gradients of the measured image, one after the other, each of unit length."""
        return _of_unit_length(self.gradients)

    def computed_gradients(self, volume: Attenuation, pose: Array, step: float) -> Array:
        """The same of the radiograph that a volume in some pose would give."""
        return _of_unit_length(_gradients(radiograph(volume, self.camera, pose, step_mm=step)))

    def similarity(self, volume: Attenuation, pose: Array, step: float) -> float:
        """Mean correlation of both gradients, -1 to 1."""
        drawn = _gradients(radiograph(volume, self.camera, pose, step_mm=step))
        total = 0.0
        for measured, norm, computed in zip(self.gradients, self.norms, drawn, strict=True):
            size = float(np.sqrt(np.sum(computed**2)))
            total += float(np.sum(measured * computed)) / (norm * size) if norm > 0.0 and size > 0.0 else 0.0
        return 0.5 * total


def _gradients(image: Array) -> tuple[Array, Array]:
    smooth = gaussian_filter(image, 0.7)
    result = []
    for axis in (0, 1):
        g = sobel(smooth, axis=axis)
        # Large gradients (table edge, instruments) are held down, so that no single edge decides.
        bound = 4.0 * float(np.sqrt(np.mean(g**2)))
        g = np.clip(g, -bound, bound)
        result.append(g - g.mean())
    return result[0], result[1]


def _of_unit_length(gradients: tuple[Array, Array]) -> Array:
    return np.concatenate([g.ravel() / max(float(np.sqrt(np.sum(g**2))), 1e-12) for g in gradients])
