"""How fast the registrations are, beside the libraries people use, in the same run.

Peers: small_gicp in this environment; open3d and itk-elastix where they can be imported, by this interpreter or by the
one named with ``--peer-python``. A time means nothing by itself; the ratios are what is compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/registration"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from registration_accuracy import head, put, random_motion  # noqa: E402

from registration.rigid import apply_to_points  # noqa: E402

OPEN3D = """
import sys, time, json, numpy as np, open3d as o3d
d = np.load(sys.argv[1]); times, good = [], 0
def cloud(p):
    c = o3d.geometry.PointCloud(); c.points = o3d.utility.Vector3dVector(p); return c
t = cloud(d["target"]); t.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=6.0, max_nn=20))
reg = o3d.pipelines.registration
for p, m in zip(d["sources"], d["starts"]):
    s = cloud(p); a = time.perf_counter(); T = m
    for reach in (40.0, 15.0, 5.0):
        T = reg.registration_icp(s, t, reach, T, reg.TransformationEstimationPointToPlane(),
                                 reg.ICPConvergenceCriteria(max_iteration=40)).transformation
    times.append(time.perf_counter() - a)
    e = p @ T[:3, :3].T + T[:3, 3] - p; good += np.sqrt((e**2).sum(1).mean()) < 2.0
print(json.dumps([float(np.median(times)), good / len(times)]))
"""

ELASTIX = """
import sys, time, json, itk, numpy as np
fixed, moving = (itk.imread(sys.argv[k], itk.F) for k in (1, 2))
itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
p = itk.ParameterObject.New(); p.AddParameterMap(itk.ParameterObject.GetDefaultParameterMap("rigid", 4))
a = time.perf_counter()
_, r = itk.elastix_registration_method(fixed, moving, parameter_object=p, number_of_threads=1)
t = time.perf_counter() - a
m = r.GetParameterMap(0)
print(json.dumps([t, [float(v) for v in m["TransformParameters"]], [float(v) for v in m["CenterOfRotationPoint"]]]))
"""


def peer(python, script, *words):
    """Last line of a peer's script as JSON, or the reason why there is none."""
    try:
        done = subprocess.run([python, "-c", script, *map(str, words)], capture_output=True, text=True, timeout=600)
        return json.loads(done.stdout.strip().splitlines()[-1]), None
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError) as error:
        return None, f"{type(error).__name__}: the peer cannot be run by {python}"


def surfaces(figures, python, trials):
    import small_gicp
    from test_surface import organ, patch

    from registration.surface.icp import register_surface
    from registration.surface.target import SurfaceTarget

    rng = np.random.default_rng(0)
    surface = organ(rng, 20000)
    target = SurfaceTarget.from_points(surface)
    sources = [patch(rng, 2000) for _ in range(trials)]
    count = min(len(s) for s in sources)
    sources = np.array([s[:count] for s in sources])
    starts = np.array([random_motion(rng, 40, 30, s.mean(axis=0)) for s in sources])
    cloud = small_gicp.PointCloud(surface)
    tree = small_gicp.KdTree(cloud)
    small_gicp.estimate_normals(cloud, tree, num_neighbors=12)
    register_surface(sources[0], target, start=starts[0])
    times = {"ours": [], "small_gicp": []}
    good = {"ours": 0, "small_gicp": 0}
    for points, start in zip(sources, starts, strict=True):
        begin = time.perf_counter()
        ours = register_surface(points, target, start=start).target_from_source
        times["ours"].append(time.perf_counter() - begin)
        begin, theirs, moved = time.perf_counter(), start, small_gicp.PointCloud(points)
        for reach in (40.0, 15.0, 5.0):
            theirs = small_gicp.align(
                cloud, moved, tree, theirs, registration_type="PLANE_ICP", max_correspondence_distance=reach,
                num_threads=1, max_iterations=40,
            ).T_target_source  # fmt: skip
        times["small_gicp"].append(time.perf_counter() - begin)
        for name, pose in (("ours", ours), ("small_gicp", theirs)):
            good[name] += np.sqrt(np.mean(np.sum((apply_to_points(pose, points) - points) ** 2, axis=1))) < 2.0
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "clouds.npz", target=surface, sources=sources, starts=starts)
        open3d, why = peer(python, OPEN3D, Path(folder) / "clouds.npz")
    put(figures, "surface_success", 100 * good["ours"] / trials, ">= 95", "%")
    put(figures, "surface_success_small_gicp", 100 * good["small_gicp"] / trials, ">= 0", "%")
    put(figures, "surface_success_open3d", None if open3d is None else 100 * open3d[1], ">= 0", "%", why)
    fastest = min([np.median(times["small_gicp"])] + ([] if open3d is None else [open3d[0]]))
    put(figures, "surface_time_against_fastest", np.median(times["ours"]) / fastest, "<= 1.2", "ratio")


def images(figures, python):
    from registration.image.intensity import register_images, transform_of

    fixed = head()
    if fixed is None:
        put(figures, "image_time_against_elastix", None, "<= 1", "ratio", "the CT head is not there")
        return
    rng = np.random.default_rng(1)
    center = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    truth = random_motion(rng, 10, 12, center)
    # moving(truth(x)) = fixed(x)
    moving = sitk.Resample(fixed, fixed, transform_of(np.linalg.inv(truth)), sitk.sitkLinear, 0.0)
    values = sitk.GetArrayFromImage(moving) / 255.0
    other = np.sin(3.84 * values) * 180 + 40 * (values > 0.5) + rng.normal(size=values.shape) * 8
    moving_other = sitk.GetImageFromArray(other.astype(np.float32))
    moving_other.CopyInformation(moving)
    points = center + rng.uniform(-60, 60, (40, 3))
    begin = time.perf_counter()
    found = register_images(fixed, moving_other).moving_from_fixed
    ours = time.perf_counter() - begin
    error = np.linalg.norm(apply_to_points(found, points) - apply_to_points(truth, points), axis=1).mean()
    put(figures, "image_error", error, "<= 1", "mm")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.nrrd" for name in ("fixed", "moving")]
        for image, path in zip((fixed, moving_other), paths, strict=True):
            sitk.WriteImage(image, str(path))
        elastix, why = peer(python, ELASTIX, *paths)
    if elastix is None:
        put(figures, "image_time_against_elastix", None, "<= 1", "ratio", why)
        return
    euler = sitk.Euler3DTransform(elastix[2], *elastix[1][:3], elastix[1][3:])
    theirs = np.array([euler.TransformPoint(p.tolist()) for p in points])
    their_error = np.linalg.norm(theirs - apply_to_points(truth, points), axis=1).mean()
    put(figures, "image_error_elastix", their_error, ">= 0", "mm")
    put(figures, "image_time_against_elastix", ours / elastix[0], "<= 1", "ratio")


def elastic(figures):
    from test_elastic import BASE, ElasticBody, box, sag, top_points

    rng = np.random.default_rng(4)
    body = ElasticBody(*box())
    points = top_points(rng, 50)
    body.prepare(points, support=BASE)
    begin = time.perf_counter()
    body.register(sag(points))
    put(figures, "elastic_solve", time.perf_counter() - begin, "<= 2", "s")


def chain(figures):
    """image <- reference, tracker <- reference and tracker <- tool, the tool's pose new each time."""
    from registration.frames import FrameGraph

    rng = np.random.default_rng(5)
    poses = [random_motion(rng, 90, 100, np.zeros(3)) for _ in range(202)]
    covariance = np.diag([1e-6] * 3 + [0.04] * 3)
    graph = FrameGraph()
    graph.set("image", "reference", poses[0], covariance)
    graph.set("tracker", "reference", poses[1], covariance)
    best = float("inf")
    for part in np.tile(np.arange(2, 202).reshape(10, 20), (20, 1)):
        begin = time.perf_counter()
        for k in part.tolist():
            graph.set("tracker", "tool", poses[k], covariance, k)
            graph.get("image", "tool").transform_point((0.0, 0.0, 150.0))
        best = min(best, (time.perf_counter() - begin) / 20)
    put(figures, "pose_chain", 1e6 * best, "<= 50", "us")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few trials")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has open3d and itk-elastix")
    options = parser.parse_args()
    figures: dict = {}
    chain(figures)
    elastic(figures)
    surfaces(figures, options.peer_python, 8 if options.quick else 50)
    images(figures, options.peer_python)
    print(json.dumps({"benchmark": "registration_speed", "figures": figures}))


if __name__ == "__main__":
    main()
