"""Commands that tie tracker, patient and images together, each with its error and its verdict."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from streams.roles import VIEWER
from surgical_twin.commands.console import CaseFolder, out, read_numbers
from surgical_twin.commands.network import Insecure, ViewerKeys, as_client

if TYPE_CHECKING:
    from registration.verdict import Verdict
    from surgical_twin.case import Case

register = typer.Typer(no_args_is_help=True, help="Register tracker, patient and images to each other.")

PointsFile = Annotated[
    Path, typer.Argument(help="Points: a table of name,x,y,z or x,y,z in mm, or Slicer's .fcsv or .mrk.json.")
]

RIGID_RESULTS = ("image_from_tracker", "correction", "world_from_image")
"""Results that bring what was measured into the frame before "from": each is also written as a transform file."""

COMMANDS_AT = "tcp://127.0.0.1:5592"

MOST_UNORDERED = 50
"""Points of a set whose order --unordered finds; with more, all triangles take too long."""

LEAST_WIDTH_MM = 5.0
"""Fiducials closer together than this are hardly in mm."""

EXACT_MM = 1e-4
"""A residual below what files are written with: it says nothing of an error."""


def conclude(
    case: "Case",
    name: str,
    verdict: "Verdict",
    figures: Mapping[str, Any],
    draw: Callable[[Any], None] | None,
    read: Sequence[Path | None],
    files: Mapping[str, Callable[[Path], object]] | None = None,
) -> None:
    """Keep the result, say the verdict, and end with 1 where it failed; a rigid pose also as a transform file."""
    from registration.image.files import write_pose
    from surgical_twin.registration_results import keep_result

    given = [path for path in read if path is not None]
    files = dict(files or {})
    for key in RIGID_RESULTS:
        if key in figures:
            files[f"{name}.tfm"] = partial(write_pose, figures[key])
    written = keep_result(case, name, verdict, figures, draw, read=given, files=files)
    color = {"pass": "green", "check": "yellow", "fail": "red"}[verdict.level]
    out.print(Text(str(verdict), style=f"bold {color}"), soft_wrap=True)
    out.print(Text(", ".join(map(str, written))), soft_wrap=True)
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
    tip: Annotated[
        str | None,
        typer.Option(help="Of a recorded stylus: its tip x,y,z in mm, or the result of calibrate pivot."),
    ] = None,
    tool: Annotated[str, typer.Option(help="The stylus' name in a recorded sequence.")] = "Stylus",
    reference: Annotated[str | None, typer.Option(help="The reference's name in it, if tracked.")] = None,
) -> None:
    """Register touched fiducials to the image by name (or by order); a recorded stylus touched where its tip stood."""
    import numpy as np

    from registration.landmarks import register_landmarks
    from registration.point_files import read_point_file
    from registration.rigid import apply_to_points
    from registration.robust_landmarks import leave_one_out, match_landmarks
    from registration.verdict import judge, worst
    from surgical_twin.case import FIDUCIALS, Case
    from surgical_twin.errors import InputError
    from surgical_twin.registration_results import draw_points, limits_of
    from surgical_twin.touched_points import read_touched, refuse_other_count

    opened = Case.open(case)
    place = None if at is None else np.array(read_numbers("--at", at, "X,Y,Z", "a point in mm"))
    goal_path = target if target is not None else opened.require(FIDUCIALS)
    source_set, dwells, loss = read_touched(touched, tip, tool, reference)
    goal_set = read_point_file(goal_path)
    if dwells is not None and not unordered:
        refuse_other_count(source_set, dwells, goal_set)
    if unordered:
        if max(len(source_set.points), len(goal_set.points)) > MOST_UNORDERED:
            raise InputError(
                f"{touched} has {len(source_set.points)} points and {goal_path} {len(goal_set.points)}; --unordered "
                f"compares up to {MOST_UNORDERED}: name the points, or use register surface."
            )
        matched = match_landmarks(
            source_set.points, goal_set.points, tolerance=tolerance, fle=fle, names=source_set.names
        )
        result, warnings = matched.registration, matched.warnings
        source, goal, names = source_set.points[matched.source], goal_set.points[matched.target], result.names
    else:
        source, goal, names = source_set.paired(goal_set)
        result = register_landmarks(source, goal, fle=fle, names=names)
        warnings = result.warnings
    if fle is None and result.fre < EXACT_MM:
        warnings = (
            *warnings,
            "the fiducials fit exactly, as measured ones never do: was one file made from the other?",
        )
    if (width := float(np.linalg.norm(np.ptp(goal, axis=0)))) < LEAST_WIDTH_MM:
        warnings = (
            f"all fiducials lie within {width:.2g} mm of each other; are the files in meters? give mm.",
            *warnings,
        )
    where = result.centroid if place is None else place
    error = result.error.error_95(where)
    figures: dict[str, Any] = {
        "image_from_tracker": result.target_from_source,
        "covariance": result.pose_covariance,
        "error_95_mm": error,
        "at": where,
        "fre_mm": result.fre,
        "fle_mm": result.fle,
        "residuals_mm": dict(zip(names, result.residuals, strict=True)),
        "warnings": warnings,
    }
    if len(source) > 3:
        figures["left_out_mm"] = {
            left.name: left.distance for left in leave_one_out(source, goal, fle=fle, names=names)
        }
    if dwells is not None:
        figures["dwells"] = {
            "places_mm": dwells.places,
            "begin_s": dwells.begin_s,
            "scatter_mm": dwells.scatter_mm,
            "turned_deg": dwells.turned_deg,
            "left_out": dwells.left_out,
        }
    read = [touched, goal_path, Path(tip) if tip is not None and Path(tip).is_file() else None]
    mapped = apply_to_points(result.target_from_source, source)
    verdict = worst([judge("error (95 %)", error, limits_of(opened, "landmarks"), "mm", warnings), loss])
    conclude(opened, "landmarks", verdict, figures, draw_points(mapped, goal, names), read)


@register.command()
def surface(
    case: CaseFolder,
    touched: PointsFile,
    mesh: Annotated[Path | None, typer.Option(help="Surface (VTP, STL, PLY); the case's lumen if not given.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Result of another registration, or a .tfm, to start from.")
    ] = None,
    noise: Annotated[float, typer.Option(help="How far points lie off the surface, in mm.")] = 0.5,
) -> None:
    """Register touched or scanned points to a surface."""
    from registration.point_files import read_point_file
    from registration.rigid import apply_to_points
    from registration.surface.icp import register_surface
    from surgical_twin.case import SURFACE, Case
    from surgical_twin.registration_inputs import read_start, read_surface
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    points = read_point_file(touched).points
    path = mesh if mesh is not None else opened.require(SURFACE)
    target = read_surface(path)
    guess = None if start is None else read_start(start)
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
    conclude(
        opened, "surface", result.verdict, figures, draw_points(mapped, target.coarse_points), [touched, path, start]
    )


@register.command()
def image(
    case: CaseFolder,
    moving: Annotated[Path, typer.Argument(help="The image to bring into the case's frame (NRRD, NIfTI, MHA).")],
    fixed: Annotated[Path | None, typer.Option(help="The fixed image; the case's image if not given.")] = None,
    kind: Annotated[str, typer.Option(help="translation, rigid, affine, b-spline, demons or ultrasound.")] = "rigid",
    fixed_points: Annotated[Path | None, typer.Option(help="Landmarks in the fixed image, to start from.")] = None,
    moving_points: Annotated[Path | None, typer.Option(help="The same landmarks in the moving image.")] = None,
    begin: Annotated[
        Path | None, typer.Option("--start", help="Transform to start from (.tfm, .h5): fixed to moving points.")
    ] = None,
) -> None:
    """Register another image, of the same or another modality, to the case's image."""
    import SimpleITK as sitk

    from registration.image.files import read_gray_image, read_linear_transform, write_transform
    from registration.image.intensity import resample
    from registration.image.pair import register_pair
    from registration.image.quality import checkerboard, landmark_errors
    from registration.image.ultrasound import UltrasoundRegistration
    from registration.landmarks import register_landmarks
    from registration.point_files import read_point_file
    from surgical_twin.case import IMAGE, Case
    from surgical_twin.errors import InputError
    from surgical_twin.registration_results import draw_pictures

    opened = Case.open(case)
    base_path = fixed if fixed is not None else opened.require(IMAGE)
    base, other = read_gray_image(base_path), read_gray_image(moving)
    if (fixed_points is None) != (moving_points is None):
        raise InputError("landmarks are given for one image only; give both --fixed-points and --moving-points.")
    start = None if begin is None else read_linear_transform(begin)
    pairs = None
    if fixed_points is not None and moving_points is not None:
        pairs = read_point_file(fixed_points).paired(read_point_file(moving_points))
        if start is None:
            start = register_landmarks(pairs[0], pairs[1], names=pairs[2]).target_from_source
    result = register_pair(base, other, kind, start=start)
    laid = resample(other, base, result.transform)
    figures: dict[str, Any] = {
        "kind": kind,
        "moving_from_fixed": result.linear.moving_from_fixed,
    }
    if isinstance(result.linear, UltrasoundRegistration):
        figures |= {"explained": result.linear.explained, "start_explained": result.linear.start_explained}
    else:
        figures |= {
            "mutual_information": result.linear.mutual_information,
            "overlap": result.linear.overlap,
            "starts": result.linear.starts,
        }
    if result.bent is not None:
        jacobian = result.bent.jacobian
        figures |= {"jacobian": [jacobian.smallest, jacobian.largest], "largest_mm": result.bent.largest_mm}
    if pairs is not None:
        errors = landmark_errors(result.transform, pairs[0], pairs[1])
        figures["landmark_errors_mm"] = dict(zip(pairs[2], errors, strict=True))
    # A field is a file of its own format; the linear ones and splines are text.
    transform = "image.h5" if kind == "demons" else "image.tfm"
    files = {
        transform: lambda path: write_transform(result.transform, path),
        "image_on_fixed.nrrd": lambda path: sitk.WriteImage(laid, str(path), useCompression=True),
    }
    draw = draw_pictures([[("fixed and moving image in turn", checkerboard(base, laid))]])
    conclude(
        opened, "image", result.verdict, figures, draw, [base_path, moving, fixed_points, moving_points, begin], files
    )


@register.command()
def lumen(
    case: CaseFolder,
    fixes: Annotated[Path, typer.Argument(help="Table of time_s,x,y,z of the catheter's tip in image space, mm.")],
    noise: Annotated[float, typer.Option(help="Standard deviation of a fix per direction, in mm.")] = 0.7,
) -> None:
    """Correct the registration's drift from a catheter that cannot leave the lumen, and name its branch."""
    import numpy as np

    from registration.lumen.tracking import LumenTracker
    from registration.pose_files import read_position_table
    from registration.rigid import apply_to_points
    from registration.verdict import Verdict, judge, worst
    from surgical_twin.case import CENTERLINE, Case
    from surgical_twin.errors import InputError
    from surgical_twin.registration_inputs import read_branch_tree
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    tree = read_branch_tree(opened)
    times, positions = read_position_table(fixes)
    tracker = LumenTracker(tree, noise_mm=noise)
    track = tracker.begin()
    for time_s, position in zip(times, positions, strict=True):
        track = tracker.follow(track, time_s, position)
    last = tracker.state(track)
    if last is None:
        raise InputError(
            f"none of {len(times)} fixes in {fixes} can be used; times must increase and values be finite."
        )
    error = last.error.error_95(last.tip)
    verdicts = [last.verdict, judge("error of the correction (95 %)", error, limits_of(opened, "lumen"), "mm")]
    if 2 * track.skipped > len(times):
        unusable = f"{track.skipped} of {len(times)} fixes cannot be used: times must increase and values be finite"
        verdicts.insert(0, Verdict("fail", unusable))
    verdict = worst(verdicts)
    figures = {
        "correction": last.correction,
        "covariance": last.error.pose_covariance,
        "error_95_mm": error,
        "branch": last.branch,
        "probability": last.probability,
        "along_mm": last.along_mm,
        "along_std_mm": last.along_std_mm,
        "outside_mm": last.outside_mm,
        "skipped": track.skipped,
    }
    corrected = apply_to_points(last.correction, positions[np.isfinite(positions).all(axis=1)])
    draw = draw_points(corrected, tree.points)
    conclude(opened, "lumen", verdict, figures, draw, [fixes, opened.path(CENTERLINE)])


@register.command()
def elastic(
    case: CaseFolder,
    body: Annotated[Path, typer.Argument(help="Tetrahedral mesh of the tissue (VTU, VTK).")],
    before: Annotated[Path, typer.Argument(help="Surface points before, name,x,y,z in mm.")],
    after: Annotated[Path, typer.Argument(help="The same points now, by name or in the same order.")],
    support: Annotated[Path | None, typer.Option(help="Points at which the tissue is held.")] = None,
    move: Annotated[Path | None, typer.Option(help="Points to move along; the case's centerline if not given.")] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of a point per direction, in mm.")] = 0.5,
) -> None:
    """Move tissue, lumen and centerline along with a few surface points (brain shift, breathing)."""
    import numpy as np

    from meshes.files import read_centerline
    from registration.elastic import ElasticBody
    from registration.point_files import read_point_file
    from registration.pose_error import radius_95
    from registration.verdict import Verdict, judge, worst
    from surgical_twin.case import CENTERLINE, Case, write_table
    from surgical_twin.errors import InputError
    from surgical_twin.registration_inputs import read_tissue
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    nodes, tetrahedra = read_tissue(body)
    source, goal, names = read_point_file(before).paired(read_point_file(after))
    held = None if support is None else read_point_file(support).points
    move_path = move if move is not None else opened.require(CENTERLINE)
    along = read_point_file(move).points if move is not None else read_centerline(move_path).points
    tissue = ElasticBody(nodes, tetrahedra)
    tissue.prepare(source, support=held)
    warp = tissue.register(goal - source, noise_mm=noise)
    away = tissue.outside(along)
    if away.all():
        raise InputError(
            f"{move_path}: all {len(along)} points to move lie far from {body}; give both in one frame, in mm."
        )
    moved = warp(along)
    some = along[np.unique(np.linspace(0, len(along) - 1, 20).astype(int))]
    error = max(radius_95(covariance) for covariance in warp.covariance(some))
    verdicts = [warp.verdict, judge("largest error (95 %)", error, limits_of(opened, "elastic"), "mm")]
    if away.any():
        verdicts.append(Verdict("check", f"{away.sum()} of {len(along)} points to move lie far outside the body"))
    verdict = worst(verdicts)
    figures = {
        "error_95_mm": error,
        "largest_mm": warp.largest_mm,
        "smallest_volume": warp.smallest_volume,
        "residuals_mm": dict(zip(names, warp.residuals_mm, strict=True)),
    }
    rows = [[f"{v:.4f}" for v in point] for point in np.hstack([along, moved])]
    head = ("x_before", "y_before", "z_before", "x", "y", "z")
    files = {"elastic_points.csv": lambda path: write_table(path, head, rows)}
    read = [body, before, after, support, move_path]
    conclude(opened, "elastic", verdict, figures, draw_points(moved, along), read, files)


@register.command()
def projection(
    case: CaseFolder,
    radiographs: Annotated[list[Path], typer.Argument(help="DICOM radiographs, as seen from the focus.")],
    ct: Annotated[Path | None, typer.Option(help="CT in Hounsfield units; the case's image if not given.")] = None,
    start: Annotated[Path | None, typer.Option(help="Result file of an earlier projection to start from.")] = None,
) -> None:
    """Find the pose of the case's CT from X-ray views with C-arm geometry in their DICOM tags."""
    from registration.image.files import read_image
    from registration.projection.carm import Attenuation, radiograph
    from registration.projection.files import middle_of, read_radiograph
    from registration.projection.match import register_projections
    from surgical_twin.case import IMAGE, Case
    from surgical_twin.registration_inputs import read_start
    from surgical_twin.registration_results import draw_pictures, limits_of

    opened = Case.open(case)
    ct_path = ct if ct is not None else opened.require(IMAGE)
    volume = Attenuation.from_ct(read_image(ct_path), spacing=2.0)
    isocenter = middle_of(ct_path)
    views = [read_radiograph(path, isocenter) for path in radiographs]
    images, cameras = [pixels for pixels, _ in views], [camera for _, camera in views]
    guess = None if start is None else read_start(start, "world_from_image")
    result = register_projections(images, cameras, volume, start=guess, limits=limits_of(opened, "projection"))
    figures = {
        "world_from_image": result.world_from_volume,
        "covariance": result.error.pose_covariance,
        "error_95_mm": result.error_95,
        "similarity": result.similarity,
        "start_similarity": result.start_similarity,
        "searches": result.searches,
        "agreement_mm": result.agreement_mm,
    }
    rows = [
        [("measured", pixels), ("computed", radiograph(volume, camera, result.world_from_volume))]
        for pixels, camera in views
    ]
    conclude(opened, "projection", result.verdict, figures, draw_pictures(rows), [ct_path, *radiographs, start])


@register.command()
def angiogram(
    case: CaseFolder,
    angiograms: Annotated[list[Path], typer.Argument(help="DICOM angiograms or runs, as seen from the focus.")],
    mask: Annotated[
        list[Path] | None, typer.Option(help="Picture of the vessels (not zero inside), one per view, in order.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Result file of a projection or angiogram to start from.")] = None,
) -> None:
    """Find the pose of the case's vessels from where contrast agent shows them in X-ray views."""
    from registration.projection.centerline_match import register_centerline
    from registration.projection.files import middle_of, read_run
    from registration.projection.vessel_lines import contrast_of, read_lines, vessel_lines
    from registration.rigid import apply_to_points
    from registration.verdict import judge, worst
    from surgical_twin.case import CENTERLINE, IMAGE, Case
    from surgical_twin.errors import InputError
    from surgical_twin.registration_inputs import read_branch_tree, read_start
    from surgical_twin.registration_results import draw_projected, limits_of

    opened = Case.open(case)
    tree = read_branch_tree(opened)
    if mask and len(mask) != len(angiograms):
        raise InputError(f"{len(mask)} masks for {len(angiograms)} angiograms; give one --mask per view, or none.")
    image_path = opened.path(IMAGE)
    isocenter = middle_of(image_path) if image_path.is_file() else tree.middle
    views = [read_run(path, isocenter) for path in angiograms]
    pictures, cameras = [contrast_of(frames) for frames, _ in views], [camera for _, camera in views]
    lines = [read_lines(path) for path in mask] if mask else [vessel_lines(picture) for picture in pictures]
    guess = None if start is None else read_start(start, "world_from_image")
    result = register_centerline(tree.points, lines, cameras, start=guess)
    moved = apply_to_points(result.world_from_tree, tree.points)
    error = float(max(result.error.error_95(point) for point in moved[:: max(1, len(moved) // 20)]))
    verdict = worst([judge("largest error (95 %)", error, limits_of(opened, "angiogram"), "mm"), result.verdict])
    figures = {
        "world_from_image": result.world_from_tree,
        "covariance": result.error.pose_covariance,
        "error_95_mm": error,
        "rms_px": result.rms_px,
        "matched": result.matched,
        "depth_deviation_mm": result.depth_std_mm,
    }
    draw = draw_projected(pictures, lines, [camera.project(moved) for camera in cameras])
    read = [opened.path(CENTERLINE), *angiograms, *(mask or []), start]
    conclude(opened, "angiogram", verdict, figures, draw, read)


@register.command()
def send(
    case: CaseFolder,
    name: Annotated[str, typer.Argument(help="Registration of the case, such as surface, or a result's .json.")],
    commands: Annotated[
        str, typer.Option(help="Where the running twin takes commands (its option --commands).")
    ] = COMMANDS_AT,
    keys: ViewerKeys = None,
    insecure: Insecure = False,
) -> None:
    """Register the patient of a running session by a result of the case."""
    from streams.command_channel import CommandClient, Register
    from surgical_twin.case import Case
    from surgical_twin.errors import InputError
    from surgical_twin.patient_registration import read_registration

    fields = read_registration(Case.open(case), name)
    client = CommandClient(commands, insecure=insecure, security=as_client(keys, VIEWER, insecure=insecure))
    try:
        reply = client.ask(Register(**fields))
    finally:
        client.close()
    if not reply.ok:
        raise InputError(f"The twin did not take the registration: {reply.reason}.")
    out.print(f"The session goes by the registration {fields['method']}.")
