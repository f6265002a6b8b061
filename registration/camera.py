r"""A calibrated camera: OpenCV's pinhole with five distortion coefficients, and the matrix VTK needs for it.

Camera frame: x right, y down, z forward, mm. Pixel (0, 0) is the *center* of the upper left pixel. A point
(X, Y, Z) of the camera frame is seen at x = X/Z, y = Y/Z, r^2 = x^2 + y^2,

    x_d = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
    y_d = y (1 + k1 r^2 + k2 r^4 + k3 r^6) + p1 (r^2 + 2 y^2) + 2 p2 x y
    u = fx x_d + cx,   v = fy y_d + cy

(Brown 1966, in OpenCV's ordering k1 k2 p1 p2 k3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError
from registration.rigid import Array, apply_to_points, check_rigid, invert


@dataclass(frozen=True)
class PinholeCamera:
    """Intrinsics in pixels, distortion (k1, k2, p1, p2, k3), and the camera's pose.

    Raises:
        InputError: at construction, for sizes, focal lengths or a pose that cannot be.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    camera_from_world: Array = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera image of {self.width} x {self.height} pixels is empty; give its size in pixels.")
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if len(self.distortion) != 5:
            raise InputError(f"{len(self.distortion)} distortion coefficients; give the five k1, k2, p1, p2, k3.")
        if not all(math.isfinite(value) for value in values):
            raise InputError("camera intrinsics or distortion hold a value that is not finite; calibrate again.")
        if self.fx <= 0.0 or self.fy <= 0.0:
            raise InputError(f"focal lengths fx = {self.fx:g}, fy = {self.fy:g} must be positive, in pixels.")
        object.__setattr__(self, "distortion", tuple(float(value) for value in self.distortion))
        object.__setattr__(self, "camera_from_world", check_rigid(self.camera_from_world, "camera_from_world"))

    @property
    def matrix(self) -> Array:
        """The 3x3 intrinsic matrix K in pixels."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def world_from_camera(self) -> Array:
        """The camera's pose in the world, (4, 4)."""
        return invert(self.camera_from_world)

    def posed(self, camera_from_world: ArrayLike) -> PinholeCamera:
        """The same camera elsewhere."""
        return replace(self, camera_from_world=np.asarray(camera_from_world, dtype=np.float64))

    def undistorted(self) -> PinholeCamera:
        """The same camera with an ideal lens."""
        return replace(self, distortion=(0.0, 0.0, 0.0, 0.0, 0.0))

    def project(self, points: ArrayLike) -> Array:
        """Pixels (n, 2) of world points (n, 3); NaN for a point in or behind the camera's plane.

        A point far outside the field of view may land inside the image because the distortion polynomial
        folds back; `visible` tells which pixels are real.
        """
        inside = apply_to_points(self.camera_from_world, np.asarray(points, dtype=np.float64).reshape(-1, 3))
        with np.errstate(divide="ignore", invalid="ignore"):
            rays = np.where(inside[:, 2:] > 0.0, inside[:, :2] / inside[:, 2:], np.nan)
        return self.distort(rays) * (self.fx, self.fy) + (self.cx, self.cy)

    def visible(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether each world point (n, 3) is in front of the camera and lands within the image (n,).

        Nothing is known of what may hide it. Points beyond the radius at which the radial polynomial stops
        growing are not visible, wherever it sends them.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        pixels = self.project(points)
        inside = apply_to_points(self.camera_from_world, points)
        with np.errstate(divide="ignore", invalid="ignore"):
            radius = np.hypot(inside[:, 0], inside[:, 1]) / inside[:, 2]
        within = (pixels >= -0.5).all(axis=1) & (pixels < (self.width - 0.5, self.height - 0.5)).all(axis=1)
        return np.asarray((inside[:, 2] > 0.0) & within & (radius < self.fold_radius))

    @property
    def fold_radius(self) -> float:
        """Undistorted radius r at which r (1 + k1 r^2 + k2 r^4 + k3 r^6) first stops growing; inf if it never
        does."""
        k1, k2, _, _, k3 = self.distortion
        # Derivative 1 + 3 k1 s + 5 k2 s^2 + 7 k3 s^3 in s = r^2.
        roots = np.roots([7.0 * k3, 5.0 * k2, 3.0 * k1, 1.0])
        real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0.0)]
        return math.sqrt(real.min()) if len(real) else math.inf

    def distort(self, rays: ArrayLike) -> Array:
        """Distorted normalized coordinates (n, 2) of ideal ones (n, 2)."""
        x, y = np.moveaxis(np.asarray(rays, dtype=np.float64), -1, 0)
        k1, k2, p1, p2, k3 = self.distortion
        s = x * x + y * y
        radial = 1.0 + s * (k1 + s * (k2 + s * k3))
        return np.stack(
            (
                x * radial + 2.0 * p1 * x * y + p2 * (s + 2.0 * x * x),
                y * radial + p1 * (s + 2.0 * y * y) + 2.0 * p2 * x * y,
            ),
            axis=-1,
        )

    def rays(self, pixels: ArrayLike) -> Array:
        """Ideal normalized coordinates (n, 2) of image pixels (n, 2): the inverse of the distortion, by
        Newton.

        A ray (x, y, 1) of the camera frame is NaN where no undistorted point lands on the pixel: the
        iteration is checked by distorting its result again, to 1e-9 of the focal length.
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        wanted = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        if not any(self.distortion):
            return wanted.copy()
        k1, k2, p1, p2, k3 = self.distortion
        result = self._without_radial(wanted)
        with np.errstate(all="ignore"):
            for _ in range(20):
                miss = self.distort(result) - wanted
                if np.nanmax(np.abs(miss), initial=0.0) < 1e-12:
                    break
                x, y = result[..., 0], result[..., 1]
                s = x * x + y * y
                radial = 1.0 + s * (k1 + s * (k2 + s * k3))
                slope = 2.0 * (k1 + s * (2.0 * k2 + s * 3.0 * k3))
                xx = radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x
                xy = slope * x * y + 2.0 * p1 * x + 2.0 * p2 * y
                yy = radial + slope * y * y + 6.0 * p1 * y + 2.0 * p2 * x
                determinant = xx * yy - xy * xy
                result = result - np.stack(
                    (
                        (yy * miss[..., 0] - xy * miss[..., 1]) / determinant,
                        (xx * miss[..., 1] - xy * miss[..., 0]) / determinant,
                    ),
                    axis=-1,
                )
            good = np.abs(self.distort(result) - wanted).max(axis=-1) < 1e-9
            good &= np.hypot(result[..., 0], result[..., 1]) < self.fold_radius
        return np.where(good[..., None], result, np.nan)

    def _without_radial(self, distorted: Array) -> Array:
        """Where the radial part of the lens alone would have taken these from, by bisection below its fold.

        From here Newton's method finds the whole inverse; from the distorted place itself it may end beyond the fold.
        """
        k1, k2, _, _, k3 = self.distortion
        radius = np.hypot(distorted[..., 0], distorted[..., 1])
        finite = np.isfinite(radius)
        low = np.zeros_like(radius)
        high = np.where(finite, np.minimum(self.fold_radius, 2.0 * radius + 10.0), 0.0)
        for _ in range(40):
            middle = 0.5 * (low + high)
            s = middle * middle
            beyond = middle * (1.0 + s * (k1 + s * (k2 + s * k3))) > radius
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(radius > 0.0, low / radius, 1.0)
        return np.asarray(np.where(finite[..., None], distorted * scale[..., None], distorted))

    def vtk_projection_matrix(self, near: float, far: float) -> Array:
        """OpenGL projection (4, 4) of the ideal lens for a VTK camera: x right, y up, looking along -z; depth
        -1 to 1.

        OpenCV counts pixels from the center of the first one and downwards, OpenGL spans the image from edge
        to edge and upwards, so the principal point moves by half a pixel. `near` and `far` are distances in
        mm.

        Raises:
            InputError: unless 0 < near < far.
        """
        if not 0.0 < near < far:
            raise InputError(f"clipping distances near = {near:g} and far = {far:g} mm need 0 < near < far.")
        return np.array(
            [
                [2.0 * self.fx / self.width, 0.0, 1.0 - (2.0 * self.cx + 1.0) / self.width, 0.0],
                [0.0, 2.0 * self.fy / self.height, (2.0 * self.cy + 1.0) / self.height - 1.0, 0.0],
                [0.0, 0.0, -(far + near) / (far - near), -2.0 * far * near / (far - near)],
                [0.0, 0.0, -1.0, 0.0],
            ]
        )
