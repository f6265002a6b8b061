"""Commands that tie tracker, patient, images and tools together: register and calibrate."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from surgical_twin.commands.console import CaseFolder, out
from surgical_twin.errors import InputError

register = typer.Typer(no_args_is_help=True, help="Register tracker, patient and images to each other.")
calibrate = typer.Typer(no_args_is_help=True, help="Calibrate tools, cameras and clocks.")

PointsFile = Annotated[Path, typer.Argument(help="Table of points: name,x,y,z or x,y,z in mm, one per line.")]


def _points(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Points (n, 3) and their names from a table: CSV of name,x,y,z or x,y,z, header or not, or Slicer FCSV."""
    import csv

    import numpy as np

    rows: list[list[float]] = []
    names: list[str] = []
    slicer = path.suffix.lower() == ".fcsv"
    flip = False
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table of points ({error}).") from error
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            # Slicer's older files are RAS; the patient frame here is LPS.
            flip = flip or "CoordinateSystem = 0" in line or "CoordinateSystem = RAS" in line
            continue
        parts = [part.strip() for part in next(csv.reader([line]), [])]
        if not any(parts):
            continue
        fields = parts[1:4] if slicer else (parts[-3:] if len(parts) in (3, 4) else parts)
        try:
            values = [float(field) for field in fields]
        except ValueError:
            if rows:
                raise InputError(f"{path} line {number} is not a name and three numbers: {line!r}.") from None
            continue
        if len(values) != 3:
            raise InputError(f"{path} line {number} has {len(values)} numbers; give x, y, z in mm.")
        name = parts[11] if slicer and len(parts) > 11 else (parts[0] if len(parts) == 4 else str(len(rows) + 1))
        rows.append(values)
        names.append(name)
    if not rows:
        raise InputError(f"{path} holds no points; give lines of name,x,y,z in mm.")
    points = np.array(rows)
    return (points * (-1.0, -1.0, 1.0) if flip else points), tuple(names)


def _say(case: Any, name: str, verdict: Any, figures: dict[str, Any], draw: Any = None) -> None:
    """Keep the result, say the verdict, and end with 1 where it failed."""
    from surgical_twin.registration_results import keep_result

    path, picture = keep_result(case, name, verdict, figures, draw)
    color = {"pass": "green", "check": "yellow", "fail": "red"}[verdict.level]
    out.print(Text(str(verdict), style=f"bold {color}"), soft_wrap=True)
    out.print(Text(f"{path}" + (f", {picture}" if picture else "")), soft_wrap=True)
    if verdict.level == "fail":
        raise typer.Exit(1)


@register.command()
def landmarks(
    case: CaseFolder,
    touched: PointsFile,
    target: Annotated[
        Path | None, typer.Option(help="The same in the image; the case's fiducials if not given.")
    ] = None,
    fle: Annotated[float | None, typer.Option(help="Localization error of a pair, RMS in mm, if known.")] = None,
    at: Annotated[str | None, typer.Option(help="Point x,y,z of the image at which the error counts.")] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Find out which point is which.")] = False,
    tolerance: Annotated[float, typer.Option(help="Largest residual of a pair with --unordered, in mm.")] = 5.0,
) -> None:
    """Register touched fiducials to the image by name (or by order)."""
    import numpy as np

    from registration.landmarks import register_landmarks
    from registration.rigid import apply_to_points
    from registration.robust_landmarks import leave_one_out, match_landmarks
    from registration.verdict import judge
    from surgical_twin.case import FIDUCIALS, Case
    from surgical_twin.commands.console import read_numbers
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    source, names = _points(touched)
    goal, goal_names = _points(target if target is not None else opened.require(FIDUCIALS))
    place = None if at is None else np.array(read_numbers("--at", at, "X,Y,Z", "a point in mm"))
    warnings: tuple[str, ...] = ()
    if unordered:
        matched = match_landmarks(source, goal, tolerance=tolerance, fle=fle, names=names)
        result, warnings = matched.registration, matched.warnings
        source, goal, names = source[matched.source], goal[matched.target], tuple(names[i] for i in matched.source)
    else:
        if set(names) == set(goal_names) and len(set(names)) == len(names):
            goal = goal[[goal_names.index(name) for name in names]]
        result = register_landmarks(source, goal, fle=fle, names=names)
        warnings = result.warnings
    where = result.centroid if place is None else place
    covariance = result.point_covariance(where)
    error = float(np.sqrt(7.815 / 3.0 * np.trace(covariance)))
    verdict = judge("error (95 %)", error, limits_of(opened, "landmarks"), "mm", warnings)
    figures: dict[str, Any] = {
        "image_from_tracker": result.target_from_source,
        "covariance": result.pose_covariance,
        "error_95_mm": error,
        "at": where,
        "fre_mm": result.fre,
        "fle_mm": result.fle,
        "residuals_mm": dict(zip(names, result.residuals.tolist(), strict=True)),
        "warnings": list(warnings),
    }
    if len(source) > 3:
        figures["left_out_mm"] = {
            left.name: left.distance for left in leave_one_out(source, goal, fle=fle, names=names)
        }
    mapped = apply_to_points(result.target_from_source, source)
    _say(opened, "landmarks", verdict, figures, draw_points(mapped, goal, names))


@register.command()
def surface(
    case: CaseFolder,
    touched: PointsFile,
    mesh: Annotated[Path | None, typer.Option(help="Surface (VTP, STL, PLY); the case's lumen if not given.")] = None,
    start: Annotated[Path | None, typer.Option(help="Result file of another registration to start from.")] = None,
    noise: Annotated[float, typer.Option(help="How far points lie off the surface, in mm.")] = 0.5,
) -> None:
    """Register touched or scanned points to a surface."""
    import numpy as np
    import pyvista

    from registration.rigid import apply_to_points
    from registration.surface.icp import register_surface
    from registration.surface.target import SurfaceTarget
    from surgical_twin.case import SURFACE, Case
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    points, _ = _points(touched)
    path = mesh if mesh is not None else opened.require(SURFACE)
    try:
        read = pyvista.read(path).extract_surface().triangulate()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a surface ({error}).") from error
    faces = np.asarray(read.faces).reshape(-1, 4)[:, 1:]
    target = SurfaceTarget.from_triangles(np.asarray(read.points, dtype=np.float64), faces)
    guess = None if start is None else _start(start)
    result = register_surface(points, target, start=guess, noise_mm=noise, limits=limits_of(opened, "surface"))
    figures = {
        "image_from_tracker": result.target_from_source,
        "covariance": result.error.pose_covariance,
        "rms_mm": result.rms,
        "inliers": result.inliers,
        "not_held": [str(direction) for direction in result.free],
        "starts": result.starts,
    }
    mapped = apply_to_points(result.target_from_source, points)
    _say(opened, "surface", result.verdict, figures, draw_points(mapped, target.coarse_points))


def _start(path: Path) -> Any:
    import json

    import numpy as np

    try:
        return np.array(json.loads(path.read_text(encoding="utf-8"))["image_from_tracker"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no result of a registration ({error!r}); name a file registration/*.json."
        ) from error


@register.command()
def image(
    case: CaseFolder,
    moving: Annotated[Path, typer.Argument(help="The image to bring into the case's frame (NRRD, NIfTI, MHA).")],
    fixed: Annotated[Path | None, typer.Option(help="The fixed image; the case's image if not given.")] = None,
    kind: Annotated[str, typer.Option(help="translation, rigid, affine, b-spline or demons.")] = "rigid",
) -> None:
    """Register another image, of the same or another modality, to the case's image."""
    import SimpleITK as sitk

    from registration.image.deformable import register_deformable
    from registration.image.intensity import register_images, resample
    from registration.image.quality import checkerboard
    from registration.verdict import worst
    from surgical_twin.case import IMAGE, Case

    opened = Case.open(case)
    base = _read_image(fixed if fixed is not None else opened.require(IMAGE))
    other = _read_image(moving)
    linear = "rigid" if kind in ("b-spline", "demons") else kind
    first = register_images(base, other, kind=linear)  # type: ignore[arg-type]
    transform, verdict = first.transform, first.verdict
    figures: dict[str, Any] = {
        "moving_from_fixed": first.moving_from_fixed,
        "mutual_information": first.mutual_information,
        "overlap": first.overlap,
        "starts": list(first.starts),
    }
    if kind != linear:
        bent = register_deformable(base, other, start=transform, method=kind)  # type: ignore[arg-type]
        transform, verdict = bent.transform, worst([first.verdict, bent.verdict])
        figures |= {"jacobian": [bent.jacobian.smallest, bent.jacobian.largest], "largest_mm": bent.largest_mm}
    board = checkerboard(base, resample(other, base, transform))

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.0, 0.0, 1.0, 0.9))
        axes.imshow(board, cmap="gray", origin="lower")
        axes.set_axis_off()

    folder = opened.folder / "registration"
    folder.mkdir(parents=True, exist_ok=True)
    if kind == linear:
        sitk.WriteTransform(transform, str(folder / ".image.part.tfm"))
        (folder / ".image.part.tfm").replace(folder / "image.tfm")
    _say(opened, "image", verdict, figures, draw)


def _read_image(path: Path) -> Any:
    import SimpleITK as sitk

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image; give NRRD, NIfTI or MHA.") from error


@register.command()
def lumen(
    case: CaseFolder,
    fixes: Annotated[Path, typer.Argument(help="Table of time_s,x,y,z of the catheter's tip in image space, mm.")],
    noise: Annotated[float, typer.Option(help="Standard deviation of a fix per direction, in mm.")] = 0.7,
) -> None:
    """Correct the registration's drift from a catheter that cannot leave the lumen, and name its branch."""
    import csv

    import numpy as np

    from registration.lumen.branch_tree import BranchTree
    from registration.lumen.tracking import LumenTracker
    from registration.rigid import apply_to_points
    from registration.verdict import judge, worst
    from surgical_twin.case import CENTERLINE_TABLE, Case
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    branches: dict[str, list[list[float]]] = {}
    with opened.require(CENTERLINE_TABLE).open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            line = [float(row[key]) for key in ("x", "y", "z", "inscribed_radius_mm")]
            branches.setdefault(row["branch"], []).append(line)
    arrays = {name: np.array(rows) for name, rows in branches.items() if len(rows) > 1}
    tree = BranchTree.from_branches(
        [a[:, :3] for a in arrays.values()], [a[:, 3] for a in arrays.values()], names=list(arrays)
    )
    try:
        table = np.loadtxt(fixes, delimiter=",", ndmin=2, comments=("#", "t"))
    except (OSError, ValueError) as error:
        raise InputError(f"{fixes} cannot be read as lines of time_s,x,y,z ({error}).") from error
    if table.shape[1] != 4 or not len(table):
        raise InputError(f"{fixes} has {table.shape[1]} columns; give time_s,x,y,z in mm.")
    tracker = LumenTracker(tree, noise_mm=noise)
    states = [state for row in table if (state := tracker.update(float(row[0]), row[1:])) is not None]
    if not states:
        raise InputError(
            f"none of {len(table)} fixes in {fixes} can be used; times must increase and values be finite."
        )
    last = states[-1]
    tip_error = float(np.sqrt(7.815 / 3.0 * np.trace(last.error.point_covariance(last.tip))))
    verdict = worst(
        [last.verdict, judge("error of the correction (95 %)", tip_error, limits_of(opened, "lumen"), "mm")]
    )
    figures = {
        "correction": last.correction,
        "covariance": last.error.pose_covariance,
        "error_95_mm": tip_error,
        "branch": last.branch,
        "probability": last.probability,
        "along_mm": last.along_mm,
        "skipped": tracker.skipped,
    }
    corrected = apply_to_points(last.correction, table[np.isfinite(table).all(axis=1), 1:])
    _say(opened, "lumen", verdict, figures, draw_points(corrected, tree.points))


@register.command()
def elastic(
    case: CaseFolder,
    body: Annotated[Path, typer.Argument(help="Tetrahedral mesh of the tissue (VTU, VTK).")],
    before: Annotated[Path, typer.Argument(help="Surface points before, name,x,y,z in mm.")],
    after: Annotated[Path, typer.Argument(help="The same points now, in the same order.")],
    support: Annotated[Path | None, typer.Option(help="Points at which the tissue is held.")] = None,
    move: Annotated[Path | None, typer.Option(help="Points to move along; the case's centerline if not given.")] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of a point per direction, in mm.")] = 0.5,
) -> None:
    """Move tissue, lumen and centerline along with a few surface points (brain shift, breathing)."""
    import numpy as np
    import pyvista

    from registration.elastic import ElasticBody
    from surgical_twin.case import CENTERLINE, Case, write_table
    from surgical_twin.registration_results import draw_points

    opened = Case.open(case)
    try:
        grid = pyvista.read(body)
        cells = np.asarray(grid.cells_dict[pyvista.CellType.TETRA])
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise InputError(f"{body} cannot be read as a mesh of tetrahedra ({error!r}).") from error
    (source, _), (goal, _) = _points(before), _points(after)
    if len(source) != len(goal):
        raise InputError(f"{len(source)} points before and {len(goal)} after; give the same points twice.")
    tissue = ElasticBody(np.asarray(grid.points, dtype=np.float64), cells)
    tissue.prepare(source, support=None if support is None else _points(support)[0])
    warp = tissue.register(goal - source, noise_mm=noise)
    along = _points(move)[0] if move is not None else np.asarray(pyvista.read(opened.require(CENTERLINE)).points, float)
    moved = warp(along)
    figures = {
        "largest_mm": warp.largest_mm,
        "smallest_volume": warp.smallest_volume,
        "residuals_mm": warp.residuals_mm,
    }
    folder = opened.folder / "registration"
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "elastic_points.csv", ("x", "y", "z"), [[f"{v:.4f}" for v in point] for point in moved])
    _say(opened, "elastic", warp.verdict, figures, draw_points(moved, along))


@register.command()
def projection(
    case: CaseFolder,
    radiographs: Annotated[list[Path], typer.Argument(help="DICOM radiographs, as seen from the focus.")],
    ct: Annotated[Path | None, typer.Option(help="CT in Hounsfield units; the case's image if not given.")] = None,
) -> None:
    """Find the pose of the case's CT from X-ray views with C-arm geometry in their DICOM tags."""
    import numpy as np
    import SimpleITK as sitk

    from registration.projection.carm import Attenuation, carm_camera_from_dicom
    from registration.projection.match import register_projections
    from surgical_twin.case import IMAGE, Case

    opened = Case.open(case)
    volume = Attenuation.from_ct(_read_image(ct if ct is not None else opened.require(IMAGE)), spacing=2.0)
    images, cameras = [], []
    for path in radiographs:
        read = _read_image(path)
        tags = {key: read.GetMetaData(key) for key in read.GetMetaDataKeys()}
        pixels = sitk.GetArrayFromImage(read).astype(np.float64)
        pixels = pixels.mean(axis=0) if pixels.ndim == 3 else pixels
        # Brightness falls with attenuation; the line integral is minus its logarithm.
        images.append(-np.log(np.maximum(pixels, 1.0) / max(float(pixels.max()), 1.0)))
        tags |= {"0028|0010": str(pixels.shape[0]), "0028|0011": str(pixels.shape[1])}
        x, y, z = (float(v) for v in volume.middle)
        cameras.append(carm_camera_from_dicom(tags, isocenter=(x, y, z)))
    result = register_projections(images, cameras, volume)
    figures = {"world_from_image": result.world_from_volume, "similarity": result.similarity}

    def draw(figure: Any) -> None:
        from registration.projection.carm import radiograph

        for k, (measured, camera) in enumerate(zip(images, cameras, strict=True)):
            drawn = radiograph(volume, camera, result.world_from_volume, nearest=True)
            for j, picture in enumerate((measured, drawn)):
                axes = figure.add_subplot(len(images), 2, 2 * k + j + 1)
                axes.imshow(picture, cmap="gray")
                axes.set_axis_off()

    _say(opened, "projection", result.verdict, figures, draw)


@calibrate.command()
def pivot(
    case: CaseFolder,
    recording: Annotated[Path, typer.Argument(help="PLUS sequence (.mha) or table of time,x,y,z,qx,qy,qz,qw in mm.")],
    tool: Annotated[str, typer.Option(help="Tool's name in a sequence.")] = "Stylus",
    reference: Annotated[str | None, typer.Option(help="Reference's name in a sequence, if one was tracked.")] = None,
) -> None:
    """Find a tool's tip from pivoting it in a divot."""
    from registration.calibration.pivot import calibrate_pivot
    from surgical_twin.case import Case
    from surgical_twin.registration_results import limits_of

    opened = Case.open(case)
    stream = _stream(recording, tool, reference).used()
    result = calibrate_pivot(stream.poses, tip_limits=limits_of(opened, "pivot"))
    figures = {
        "tip_mm": result.tip,
        "covariance": result.covariance,
        "error_95_mm": result.error_95,
        "rms_mm": result.rms,
        "motion_deg": result.motion_deg,
        "poses_left_out": int((~result.kept).sum()),
    }

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(1, 1, 1)
        axes.plot(stream.time_s - stream.time_s[0], result.residuals)
        axes.set_xlabel("time [s]")
        axes.set_ylabel("tip off the pivot [mm]")

    _say(opened, "pivot", result.verdict, figures, draw)


@calibrate.command("hand-eye")
def hand_eye(
    case: CaseFolder,
    first: Annotated[Path, typer.Argument(help="Poses of the first frame: time,x,y,z,qx,qy,qz,qw.")],
    second: Annotated[Path, typer.Argument(help="Poses of the second frame on the same rigid body, by its own clock.")],
    unit: Annotated[float, typer.Option(help="Length of the files' unit in mm; 1000 for meters.")] = 1.0,
) -> None:
    """Find how one tracked frame sits on another, and how far their clocks are apart."""
    from registration.calibration.hand_eye import calibrate_hand_eye_streams
    from registration.pose_files import read_pose_table
    from surgical_twin.case import Case

    opened = Case.open(case)
    result = calibrate_hand_eye_streams(read_pose_table(first, unit_mm=unit), read_pose_table(second, unit_mm=unit))
    figures = {
        "first_from_second": result.a_from_b,
        "covariance": result.covariance,
        "error_95_mm": result.error_mm,
        "error_95_deg": result.error_deg,
        "rms_mm": result.rms_mm,
        "rms_deg": result.rms_deg,
        "offset_s": result.offset_s,
        "offset_std_s": result.offset_std_s,
        "solvers": result.solvers,
    }
    _say(opened, "hand-eye", result.verdict, figures)


def _stream(recording: Path, tool: str, reference: str | None) -> Any:
    from registration.pose_files import read_pose_table, read_sequence

    if recording.suffix.lower() in (".mha", ".mhd", ".nrrd", ".nhdr"):
        return read_sequence(recording).stream(tool, reference)
    return read_pose_table(recording)
