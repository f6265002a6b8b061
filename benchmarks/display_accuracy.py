"""Is what the overlay draws where the camera sees it, and hidden where it is hidden?

Two claims, each held against something that shares nothing with the render path:

* A landmark drawn through a random camera, lens distortion included, lands where OpenCV's ``projectPoints`` puts it:
  1,000 cameras, a small ball drawn at a random place, the centroid of its pixels against the projected outline's.
* Which of two things a pixel shows is what a ray cast through that pixel meets first: the ray that OpenCV's
  ``undistortPoints`` gives for the pixel, tried on every triangle. Pixels within three quarters of a pixel of an edge
  belong to either side and are not counted.

Run: .venv/bin/python benchmarks/display_accuracy.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys

import cv2
import numba
import numpy as np
import pyvista as pv

from registration.camera import PinholeCamera
from viewer.lens import Lens, picture

GOAL_PX, GOAL_SHARE = 0.5, 99.9


def random_camera(rng: np.random.Generator) -> PinholeCamera:
    """Focal lengths, center, pose and distortion as endoscopes, microscopes and C-arms have them."""
    width, height = (int(x) for x in rng.choice([(320, 240), (384, 288), (512, 384)]))
    focal = width * rng.uniform(0.8, 2.2)
    radial = rng.uniform(-0.25, 0.12)
    distortion = (radial, -0.25 * radial + rng.uniform(-0.03, 0.03), *rng.uniform(-2e-3, 2e-3, 2), 0.0)
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(rng.normal(size=3))[0]
    pose[:3, 3] = rng.uniform(-20, 20, 3) + (0.0, 0.0, 250.0)
    center = 0.5 * np.array([width, height]) + rng.uniform(-0.06, 0.06, 2) * width
    return PinholeCamera(
        width, height, focal, focal * rng.uniform(0.97, 1.03), *center, distortion=distortion, camera_from_world=pose
    )


def opencv_pixels(camera: PinholeCamera, points: np.ndarray) -> np.ndarray:
    """(n, 2) by OpenCV alone."""
    pose = camera.camera_from_world
    found, _ = cv2.projectPoints(
        points, cv2.Rodrigues(pose[:3, :3])[0], pose[:3, 3], camera.matrix, np.array(camera.distortion)
    )
    return found.reshape(-1, 2)


def landmark_errors(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) pixels between the drawn landmark and OpenCV's."""
    plotter = pv.Plotter(off_screen=True, border=False, lighting="none")
    plotter.set_background("black")
    ball = pv.Sphere(radius=2.0, theta_resolution=40, phi_resolution=40)
    actor = plotter.add_mesh(ball, color="white", lighting=False)
    plotter.enable_anti_aliasing("msaa", multi_samples=4)
    errors = []
    while len(errors) < count:
        camera = random_camera(rng)
        inside = rng.uniform((0.12, 0.12), (0.88, 0.88)) * (camera.width, camera.height)
        # A place seen at about that pixel, at a depth of its own.
        ray = cv2.undistortPoints(inside.reshape(1, 1, 2), camera.matrix, np.array(camera.distortion)).ravel()
        depth = rng.uniform(180.0, 320.0)
        place = camera.world_from_camera @ np.array([*(ray * depth), depth, 1.0])
        actor.SetPosition(*place[:3])
        lens = Lens.of(camera)
        lens.aim(plotter, camera.camera_from_world, plotter.renderer.ComputeVisiblePropBounds())
        image = lens.bend(picture(plotter, (lens.ideal.width, lens.ideal.height), transparent=False))[..., 0]
        drawn = image.astype(float)
        if drawn.sum() < 255 * 12:
            continue
        rows, columns = np.nonzero(drawn)
        weight = drawn[rows, columns]
        found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        # A ball's image is not centered on its center's image: the same ball's silhouette, by OpenCV, is the truth.
        errors.append(np.linalg.norm(found - silhouette_centroid(camera, place[:3], 2.0)))
    plotter.close()
    return np.array(errors)


def silhouette_centroid(camera: PinholeCamera, center: np.ndarray, radius: float) -> np.ndarray:
    """(2,) centroid of a ball's image: of the polygon that OpenCV makes of the circle where rays graze it."""
    eye = camera.world_from_camera[:3, 3]
    toward = center - eye
    distance = float(np.linalg.norm(toward))
    toward = toward / distance
    side = np.linalg.svd(toward[None])[2][1:]
    angle = np.linspace(0.0, 2.0 * np.pi, 361)[:-1]
    middle = center - toward * radius**2 / distance
    reach = radius * np.sqrt(1.0 - (radius / distance) ** 2)
    circle = middle + reach * (np.cos(angle)[:, None] * side[0] + np.sin(angle)[:, None] * side[1])
    x, y = opencv_pixels(camera, circle).T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = 0.5 * cross.sum()
    return np.array([((x + np.roll(x, -1)) * cross).sum(), ((y + np.roll(y, -1)) * cross).sum()]) / (6.0 * area)


def occlusion_agreement(count: int, rng: np.random.Generator) -> tuple[float, int]:
    """Share of pixels [%] that show what the ray through them meets first, and how many were counted."""
    right = counted = 0
    for _ in range(count):
        camera = random_camera(rng)
        offset = camera.world_from_camera[:3, :3] @ np.array([*rng.uniform(-25, 25, 2), 230.0])
        middle = camera.world_from_camera[:3, 3] + offset
        knot = pv.ParametricTorus(ringradius=30.0, crosssectionradius=9.0, u_res=60, v_res=40)
        bars = pv.Cylinder(radius=6.0, height=120.0, resolution=40, direction=rng.normal(size=3)).triangulate()
        meshes = [
            knot.rotate_vector(rng.normal(size=3), rng.uniform(0, 360)).translate(middle).triangulate(),
            bars.translate(middle + rng.uniform(-12, 12, 3)),
        ]
        plotter = pv.Plotter(off_screen=True, border=False, lighting="none")
        plotter.set_background("black")
        for mesh, color in zip(meshes, ("#ff0000", "#00ff00"), strict=True):
            plotter.add_mesh(mesh, color=color, lighting=False)
        lens = Lens.of(camera)
        lens.aim(plotter, camera.camera_from_world, plotter.renderer.ComputeVisiblePropBounds())
        image = lens.bend(picture(plotter, (lens.ideal.width, lens.ideal.height), transparent=False))
        plotter.close()
        pixels = rng.uniform(0, 1, (9000, 2)) * (camera.width - 1, camera.height - 1)
        pixels = np.unique(np.round(pixels).astype(int), axis=0)
        truth = first_hit(camera, meshes, pixels)
        # Rays half a pixel to each side: where they do not agree, an edge passes through the pixel.
        steady = np.ones(len(pixels), dtype=bool)
        for shift in ((0.75, 0), (-0.75, 0), (0, 0.75), (0, -0.75)):
            steady &= first_hit(camera, meshes, pixels + shift) == truth
        shown = image[pixels[:, 1], pixels[:, 0]].astype(int)
        label = np.where(shown[:, 0] > 127, 0, np.where(shown[:, 1] > 127, 1, -1))
        # Pixels of the empty ground, which anyone gets right, do not count.
        kept = steady & ((truth >= 0) | (label >= 0))
        right += int((label[kept] == truth[kept]).sum())
        counted += int(kept.sum())
    return 100.0 * right / counted, counted


def first_hit(camera: PinholeCamera, meshes: list[pv.PolyData], pixels: np.ndarray) -> np.ndarray:
    """(n,) which mesh a ray through each pixel meets first, -1 for none."""
    ideal = cv2.undistortPoints(
        pixels.astype(float).reshape(-1, 1, 2), camera.matrix, np.array(camera.distortion)
    ).reshape(-1, 2)
    rays = np.column_stack([ideal, np.ones(len(ideal))]) @ camera.world_from_camera[:3, :3].T
    rays = np.ascontiguousarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))
    nearest, which = np.full(len(rays), np.inf), np.full(len(rays), -1)
    for number, mesh in enumerate(meshes):
        distance = cast(
            camera.world_from_camera[:3, 3].copy(), rays, np.asarray(mesh.points, float)[mesh.regular_faces]
        )
        closer = distance < nearest
        nearest[closer], which[closer] = distance[closer], number
    return which


@numba.njit(fastmath=False)
def cast(eye: np.ndarray, rays: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(n,) distance at which each ray meets a triangle first, inf for none.

    Moeller & Trumbore, J. Graphics Tools 2 (1997) 21-28.
    """
    nearest = np.full(len(rays), np.inf)
    for t in range(len(triangles)):
        first = triangles[t, 1] - triangles[t, 0]
        second = triangles[t, 2] - triangles[t, 0]
        offset = eye - triangles[t, 0]
        turned = np.cross(offset, first)
        reach = second @ turned
        for r in range(len(rays)):
            across = np.cross(rays[r], second)
            size = first @ across
            if abs(size) < 1e-14:
                continue
            u = (offset @ across) / size
            if u < 0.0 or u > 1.0:
                continue
            v = (rays[r] @ turned) / size
            if v < 0.0 or u + v > 1.0:
                continue
            distance = reach / size
            if 0.0 < distance < nearest[r]:
                nearest[r] = distance
    return nearest


def main() -> None:
    """Print the figures; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 cameras and 2 scenes instead of 1,000 and 20")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    errors = landmark_errors(60 if arguments.quick else 1000, rng)
    share, counted = occlusion_agreement(2 if arguments.quick else 20, rng)
    print(f"landmarks: {len(errors)} cameras, median {np.median(errors):.3f} px, largest {errors.max():.3f} px")
    print(f"occlusion: {share:.3f} % of {counted} pixels")
    figures = {
        "landmark_error_max": {"value": round(float(errors.max()), 3), "goal": f"<= {GOAL_PX}", "unit": "px"},
        "landmark_error_median": {"value": round(float(np.median(errors)), 3), "goal": f"<= {GOAL_PX}", "unit": "px"},
        "occlusion_right": {"value": round(share, 3), "goal": f">= {GOAL_SHARE}", "unit": "%"},
    }
    print(json.dumps({"benchmark": "display_accuracy", "figures": figures}))


if __name__ == "__main__":
    sys.exit(main())
