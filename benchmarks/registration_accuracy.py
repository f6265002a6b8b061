"""How right the registrations are, and how right they are about themselves.

Truth: noise drawn here (Monte-Carlo), answers that came with real recordings, and known motions of a real CT head
whose copy was given another modality by remapping, bias field and noise (no real 3D pair with truth could be had).

Published beside: EM vessel-based registration in patients 8.2 mm median, image-based 2.2 mm; EVAR accepts below 5 mm;
liver rigid 3.8-7.7 mm against biomechanical 3.1 +- 1.8 mm; brain shift 5.7 to 1.2 mm by model.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/registration"))
sys.path.insert(0, str(ROOT / "benchmarks"))
DATA = ROOT.parent / "shared/data"

from registration_recordings import put, recordings  # noqa: E402

from registration.absolute_orientation import fit_points  # noqa: E402
from registration.anisotropic import register_anisotropic  # noqa: E402
from registration.landmarks import register_landmarks  # noqa: E402
from registration.rigid import apply_to_points  # noqa: E402

FIDUCIALS = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])
FAR = np.array([40.0, 120.0, -60.0])


def random_motion(rng, degrees, shift, center):
    axis = rng.normal(size=3)
    matrix = np.eye(4)
    turn = axis / np.linalg.norm(axis) * np.radians(rng.uniform(-degrees, degrees))
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    matrix[:3, 3] = center + rng.uniform(-shift, shift, 3) - matrix[:3, :3] @ center
    return matrix


def landmarks(figures, draws):
    """Predicted against actual TRE, fiducials turned at random, so that no axis is special."""
    rng = np.random.default_rng(0)
    turn = random_motion(rng, 180, 100, np.zeros(3))
    points, target = apply_to_points(turn, FIDUCIALS), apply_to_points(turn, FAR)
    fle = 0.6
    noise = rng.normal(size=(draws, 6, 3)) * fle / np.sqrt(3)
    fits = fit_points(points + noise, np.broadcast_to(points, noise.shape))
    errors = fits[:, :3, :3] @ target + fits[:, :3, 3] - target
    result = register_landmarks(points, points, fle=fle)
    actual = np.sqrt(np.mean(np.sum(errors**2, axis=1)))
    covariance = result.point_covariance(target)
    inside = np.mean(np.einsum("ni,ij,nj->n", errors, np.linalg.inv(covariance), errors) < chi2.ppf(0.95, 3))
    put(figures, "tre_isotropic", 100 * abs(result.tre(target) / actual - 1), "<= 5", "%")
    put(figures, "region_isotropic", 100 * inside, "in 94 96", "%")
    shape = turn[:3, :3] @ np.diag([0.15, 0.15, 0.6]) ** 2 @ turn[:3, :3].T
    root = np.linalg.cholesky(shape)
    errors, hits = [], []
    for _ in range(draws):
        fit = register_anisotropic(points + rng.normal(size=(6, 3)) @ root.T, points, source_covariance=shape)
        error = apply_to_points(fit.target_from_source, target) - target
        errors.append(error)
        hits.append(error @ np.linalg.solve(fit.point_covariance(target), error) < chi2.ppf(0.95, 3))
    actual = np.sqrt(np.mean(np.sum(np.square(errors), axis=1)))
    put(figures, "tre_anisotropic", 100 * abs(float(fit.tre(target)) / actual - 1), "<= 5", "%")
    put(figures, "region_anisotropic", 100 * np.mean(hits), "in 94 96", "%")


class Trials:
    """Runs trials one by one and, given a folder, keeps what each gave: an interrupted run goes on where it was."""

    def __init__(self, folder=None):
        self.folder = folder

    def __call__(self, name, count, run):
        """(count, ...) what `run` gives for each of the numbers below `count`."""
        path = None if self.folder is None else self.folder / f"{name}.jsonl"
        done = (
            [] if path is None or not path.is_file() else [json.loads(line) for line in path.read_text().splitlines()]
        )
        for k in range(len(done), count):
            done.append(np.asarray(run(k), dtype=float).tolist())
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
            print(f"{name} {k + 1}/{count}", end="\r", file=sys.stderr, flush=True)
        return np.array(done[:count])


def head():
    path = DATA / "itk_course_multimodal/visible_male.nrrd"
    return sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32) if path.is_file() else None


def images(figures, starts, trials):
    from registration.image.intensity import register_images, transform_of

    fixed = head()
    if fixed is None:
        put(figures, "image_converged", None, ">= 95", "%", "the CT head is not there")
        return
    rng = np.random.default_rng(1)
    values = sitk.GetArrayFromImage(fixed) / 255.0
    z, y, _ = np.indices(values.shape) / np.array(values.shape)[:, None, None, None]
    other = (np.sin(3.84 * values) * 180 + 40 * (values > 0.5)) * (1 + 0.25 * np.sin(3 * z) + 0.15 * y)
    remapped = sitk.GetImageFromArray(other.astype(np.float32))
    remapped.CopyInformation(fixed)
    center = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    points = center + rng.uniform(-60, 60, (40, 3))
    motions = [(random_motion(rng, 15, 20, center), int(rng.integers(1, 2**31))) for _ in range(starts)]

    def missed_by(k):
        truth, seed = motions[k]
        # The image itself is moved, and nothing but the scanners' frames is given: with images left in one frame,
        # the start from the centers of mass would already be turned right, whatever start was drawn. The motions are
        # drawn beforehand, so that a run that goes on after an interruption does not draw the first ones again.
        moving = sitk.Resample(remapped, fixed, transform_of(np.linalg.inv(truth)), sitk.sitkLinear, 0.0)
        moving = sitk.AdditiveGaussianNoise(moving, 8.0, 0.0, seed)
        found = register_images(fixed, moving)
        missed = apply_to_points(found.moving_from_fixed, points) - apply_to_points(truth, points)
        return np.linalg.norm(missed, axis=1).mean()

    errors = trials("images", starts, missed_by)
    put(figures, "image_converged", 100 * np.mean(errors <= 1.0), ">= 95", "%")
    put(figures, "image_error", np.median(errors), "<= 1", "mm")


def projections(figures, starts, trials):
    from registration.projection.carm import Attenuation, carm_camera, radiograph
    from registration.projection.match import register_projections

    fixed = head()
    if fixed is None:
        put(figures, "biplane_success", None, ">= 90", "%", "the CT head is not there")
        return
    rng = np.random.default_rng(2)
    ct = fixed * (2600.0 / 255.0) - 1000.0
    full, thin = Attenuation.from_ct(ct), Attenuation.from_ct(ct, spacing=3.0)
    middle = tuple(float(v) for v in thin.middle)
    cameras = [
        carm_camera(primary_deg=a, secondary_deg=0, source_to_detector=1100, source_to_isocenter=750, pixel_mm=1.2,
                    width=256, height=256, isocenter=middle) for a in (0.0, 90.0)
    ]  # fmt: skip
    pictures = [radiograph(full, camera, step_mm=1.0) for camera in cameras]
    pictures = [picture + rng.normal(size=picture.shape) * 0.02 for picture in pictures]
    points = thin.middle + rng.uniform(-50, 50, (40, 3))
    for name, views, goals in (("biplane", 2, (">= 90", "<= 1")), ("single_plane", 1, (">= 0", "<= 20"))):
        begun = [random_motion(rng, 10, 20, thin.middle) for _ in range(starts)]

        def missed_by(k, views=views, begun=begun):
            begin = time.process_time()
            found = register_projections(pictures[:views], cameras[:views], thin, start=begun[k])
            took = time.process_time() - begin
            miss = apply_to_points(found.world_from_volume, points) - points
            return np.linalg.norm(miss, axis=1).mean(), took

        errors, times = trials(name, starts, missed_by).T
        put(figures, f"{name}_success", 100 * np.mean(errors <= 2.0), goals[0], "%")
        put(figures, f"{name}_median", np.median(errors), goals[1], "mm")
        if views == 2:
            put(figures, "biplane_processor_time", np.median(times), "<= 10", "s")


def insonified(ct, us_from_ct, rng, size=96, spacing=1.25):
    """A cone of a CT (0 to 255) as ultrasound from the front shows it: echoes of faces across the beam, scatter not in
    the order of the CT's values, speckle, less behind what reflects or is dense, and the logarithm of it all."""
    grid = sitk.Image([size] * 3, sitk.sitkFloat32)
    grid.SetSpacing([spacing] * 3)
    middle = np.array(ct.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in ct.GetSize()]))
    grid.SetOrigin((middle - (size - 1) / 2 * spacing).tolist())
    ct_from_us = np.linalg.inv(us_from_ct)
    turn = sitk.AffineTransform(ct_from_us[:3, :3].ravel().tolist(), ct_from_us[:3, 3].tolist())
    values = sitk.GetArrayFromImage(sitk.Resample(ct, grid, turn, sitk.sitkLinear, 0.0)) / 255.0
    faces = np.abs(np.gradient(gaussian_filter(values, 0.8), axis=1))
    scatter = 0.25 * np.exp(-(((values - 0.35) / 0.25) ** 2)) + 0.05
    lost = 0.024 * spacing * (0.3 + 4.0 * np.maximum(values - 0.45, 0.0) + 8.0 * faces)
    speckle = np.hypot(*(gaussian_filter(rng.normal(size=values.shape), (0.9, 0.5, 0.9)) for _ in range(2)))
    amplitude = (6.0 * faces + scatter * (values > 0.02)) * np.exp(-np.cumsum(lost, axis=1)) * speckle / speckle.mean()
    amplitude += 0.004 * rng.random(values.shape)
    shown = np.clip(np.log10(amplitude / amplitude.max() + 1e-4) / 4.0 + 1.0, 0.0, 1.0) * 255.0
    z, y, x = np.indices(values.shape)
    wide = (y * spacing + 25.0) * np.tan(np.radians(38.0))
    cone = np.maximum(np.abs(x - (size - 1) / 2), np.abs(z - (size - 1) / 2)) * spacing < wide
    image = sitk.GetImageFromArray(np.where(cone, np.maximum(shown, 1.0), 0.0).astype(np.float32))
    image.CopyInformation(grid)
    return image


def ultrasounds(figures, starts, trials):
    """From starts as tracking gives them, +-10 mm +-10 degrees; mutual information from the same starts beside it."""
    from registration.image.intensity import register_images
    from registration.image.ultrasound import register_ultrasound

    fixed = head()
    if fixed is None:
        put(figures, "ultrasound_success", None, ">= 0", "%", "the CT head is not there")
        return
    center = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    points = center + np.random.default_rng(6).uniform(-40, 40, (40, 3))

    def missed_by(k):
        rng = np.random.default_rng([6, k])
        truth = random_motion(rng, 25, 15, center)
        moving = insonified(fixed, truth, rng)
        start = random_motion(rng, 10, 10, apply_to_points(truth, center[None])[0]) @ truth
        found = [
            register(fixed, moving, start=start).moving_from_fixed
            for register in (register_ultrasound, register_images)
        ]
        misses = [apply_to_points(pose, points) - apply_to_points(truth, points) for pose in (*found, start)]
        return [np.linalg.norm(miss, axis=1).mean() for miss in misses]

    ours, information, _ = trials("ultrasounds", starts, missed_by).T
    put(figures, "ultrasound_success", 100 * np.mean(ours <= 2.0), ">= 0", "%")
    put(figures, "ultrasound_median", np.median(ours), ">= 0", "mm")
    put(figures, "ultrasound_median_mutual_information", np.median(information), ">= 0", "mm")


def surfaces(figures, starts):
    from test_surface import organ, patch

    from registration.surface.icp import register_surface
    from registration.surface.target import SurfaceTarget

    rng = np.random.default_rng(3)
    target = SurfaceTarget.from_points(organ(rng, 20000))
    good = 0
    for _ in range(starts):
        points = patch(rng, 200)
        found = register_surface(points, target, start=random_motion(rng, 40, 30, points.mean(axis=0)))
        miss = apply_to_points(found.target_from_source, points) - points
        good += np.sqrt(np.mean(np.sum(miss**2, axis=1))) < 2.0
    put(figures, "surface_success", 100 * good / starts, ">= 95", "%")


def lumens(figures, runs, trials):
    from test_lumen import drift, follow, pull_back, rms, vessel

    from registration.lumen.branch_tree import BranchTree

    def followed(seed):
        # Vessels other than those by which the tracker's constants were chosen.
        rng = np.random.default_rng(1000 + seed)
        lines, radii = vessel(rng)
        tree = BranchTree.from_branches(lines, radii, names=["parent", "left", "right"])
        true, beyond = pull_back(rng, lines, radii)
        moved = drift(rng, true.mean(axis=0))
        fixes = apply_to_points(moved, true) + rng.normal(size=true.shape) * 0.5
        last, states = follow(tree, fixes)
        away = np.abs(beyond) > 8.0
        named = np.array([state.branch for state in states])
        right = np.mean(named[away] == np.where(beyond[away] > 0, "left", "parent"))
        return 1 - rms(apply_to_points(last.correction @ moved, true) - true) / rms(fixes - true), right

    removed, right = trials("lumens", runs, followed).T
    put(figures, "lumen_drift_removed_median", 100 * np.median(removed), ">= 70", "%")
    put(figures, "lumen_drift_removed_mean", 100 * np.mean(removed), ">= 70", "%")
    put(figures, "lumen_branch_right", 100 * np.mean(right), ">= 99", "%")


def elastic(figures):
    from test_elastic import BASE, ElasticBody, box, face_points, sagged, top_points

    rng = np.random.default_rng(4)
    tissue, targets, truth = sagged(rng)
    body, exposed = ElasticBody(*box()), top_points(rng, 50)
    for name, points, goal in (("exposed_face", exposed, ">= 70"), ("three_faces", face_points(rng, 50), ">= 70")):
        measured = tissue(points) - points + rng.normal(size=points.shape) * 0.3
        rigid = apply_to_points(fit_points(points[None], points[None] + measured)[0], targets)
        body.prepare(points, support=BASE)
        bent = body.register(measured, noise_mm=0.3)(targets)
        before, after = (np.linalg.norm(p - truth, axis=1).mean() for p in (rigid, bent))
        put(figures, f"elastic_cut_{name}", 100 * (1 - after / before), goal, "%")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws and starts")
    parser.add_argument("--keep", type=Path, help="folder for what each trial gave, to go on after an interruption")
    parser.add_argument("--only", nargs="*", help="only these parts, by the names of their functions")
    options = parser.parse_args()
    quick, trials = options.quick, Trials(options.keep)
    figures: dict = {}
    parts = {
        "landmarks": lambda: landmarks(figures, 1000 if quick else 10_000),
        "surfaces": lambda: surfaces(figures, 10 if quick else 100),
        "lumens": lambda: lumens(figures, 6 if quick else 40, trials),
        "elastic": lambda: elastic(figures),
        "recordings": lambda: recordings(figures),
        "images": lambda: images(figures, 3 if quick else 50, trials),
        "ultrasounds": lambda: ultrasounds(figures, 2 if quick else 20, trials),
        "projections": lambda: projections(figures, 2 if quick else 100, trials),
    }
    if unknown := set(options.only or ()) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in options.only or parts:
        parts[name]()
    print(json.dumps({"benchmark": "registration_accuracy", "figures": figures}))


if __name__ == "__main__":
    main()
