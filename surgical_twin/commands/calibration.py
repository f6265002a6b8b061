"""Commands that calibrate tools, cameras, probes, fields and clocks, each with its error and its verdict."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from surgical_twin.commands.assimilation import history
from surgical_twin.commands.console import CaseFolder, read_wholes
from surgical_twin.commands.registration import PointsFile, conclude


class CalibrationGroup(typer.core.TyperGroup):
    """Takes ``calibrate CASE --history FILE`` for ``calibrate history CASE --history FILE``."""

    otherwise = "history"

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A first word that is no command, yet a folder, is the case of a history."""
        asked = any(one.split("=")[0] == "--history" for one in args)
        if args and args[0] not in self.commands and (asked or Path(args[0]).is_dir()):
            args = [self.otherwise, *args]
        return super().resolve_command(ctx, args)


calibrate = typer.Typer(
    cls=CalibrationGroup,
    no_args_is_help=True,
    help="Calibrate the patient's circulation from a history (calibrate CASE --history FILE), or tools, cameras and "
    "clocks by the commands below.",
)
calibrate.command()(history)

STILL_MM, WIDE_MM = 1.0, 20.0
"""Of two frames on one body that turns, one that stays within the first while the other moves by the second is odd."""

Recording = Annotated[
    Path, typer.Argument(help="PLUS or Slicer sequence (.mha, .nrrd) or table of time,x,y,z,qx,qy,qz,qw in mm.")
]
ToolName = Annotated[str, typer.Option("--tool", help="Tool's name in a sequence.")]
ReferenceName = Annotated[str | None, typer.Option("--reference", help="Reference's name in a sequence, if tracked.")]


@calibrate.command()
def pivot(case: CaseFolder, recording: Recording, tool: ToolName = "Stylus", reference: ReferenceName = None) -> None:
    """Find a tool's tip from pivoting it in a divot."""
    from registration.calibration.motion_files import read_poses
    from registration.calibration.pivot import calibrate_pivot
    from registration.verdict import worst
    from surgical_twin.case import Case
    from surgical_twin.registration_results import draw_curves, limits_of

    opened = Case.open(case)
    recorded = read_poses(recording, tool, reference)
    stream = recorded.used()
    result = calibrate_pivot(stream.poses, tip_limits=limits_of(opened, "pivot"))
    figures = {
        "tip_mm": result.tip,
        "tool_from_tip": result.tool_from_tip,
        "covariance": result.covariance,
        "error_95_mm": result.error_95,
        "rms_mm": result.rms,
        "motion_deg": result.motion_deg,
        "half_difference_mm": result.half_difference,
        "poses_left_out": int((~result.kept).sum()),
        "poses_lost": int((~recorded.valid).sum()),
    }
    curves = {"tip": (stream.time_s - stream.time_s[0], result.residuals)}
    draw = draw_curves(curves, "time [s]", "tip off the pivot [mm]")
    conclude(opened, "pivot", worst([result.verdict, recorded.loss]), figures, draw, [recording])


@calibrate.command()
def spin(
    case: CaseFolder,
    recording: Recording,
    tool: ToolName = "Stylus",
    reference: ReferenceName = None,
    pivot: Annotated[
        Path | None, typer.Option(help="Result file of the pivot: the axis then points to that tip.")
    ] = None,
) -> None:
    """Find a tool's long axis from spinning it about that axis."""
    import numpy as np

    from registration.calibration.motion_files import read_poses
    from registration.calibration.pivot import calibrate_spin
    from registration.verdict import worst
    from surgical_twin.case import Case
    from surgical_twin.registration_inputs import read_tip
    from surgical_twin.registration_results import draw_curves

    opened = Case.open(case)
    tip = None if pivot is None else read_tip(pivot)
    recorded = read_poses(recording, tool, reference)
    stream = recorded.used()
    result = calibrate_spin(stream.poses, tip=tip)
    turned = np.degrees(np.arccos(np.clip(stream.poses[:, :3, :3] @ result.axis @ result.direction, -1.0, 1.0)))
    figures = {
        "axis": result.axis,
        "error_95_deg": result.error_95_deg,
        "rms_deg": result.rms_deg,
        "spin_deg": result.spin_deg,
        "poses_lost": int((~recorded.valid).sum()),
    }
    if tip is not None:
        figures["tool_from_tip"] = result.tool_from_tip(tip)
    draw = draw_curves({"axis": (stream.time_s - stream.time_s[0], turned)}, "time [s]", "axis off its mean [degrees]")
    conclude(opened, "spin", worst([result.verdict, recorded.loss]), figures, draw, [recording, pivot])


@calibrate.command()
def template(
    case: CaseFolder,
    poses: Annotated[Path, typer.Argument(help="Table of template_from_tool poses: time,x,y,z,qx,qy,qz,qw in mm.")],
    holes: Annotated[Path, typer.Argument(help="For each pose the hole in which the tip was: x,y,z of the template.")],
) -> None:
    """Find a stylus' tip from holding it in known holes of a tracked template."""
    import numpy as np

    from registration.calibration.pivot import calibrate_on_template
    from registration.point_files import read_point_file
    from registration.pose_files import read_pose_table
    from registration.verdict import worst
    from surgical_twin.case import Case
    from surgical_twin.registration_results import draw_curves, limits_of

    opened = Case.open(case)
    stream, places = read_pose_table(poses), read_point_file(holes).points
    stream.used()  # says why none is
    kept = stream.valid if len(stream.valid) == len(places) else np.ones(len(stream.valid), dtype=bool)
    result = calibrate_on_template(stream.poses[kept], places[kept[: len(places)]], limits=limits_of(opened, "pivot"))
    figures = {
        "tip_mm": result.tip,
        "covariance": result.covariance,
        "error_95_mm": result.error_95,
        "rms_mm": result.rms,
        "residuals_mm": result.residuals,
    }
    curves = {"tip": (np.flatnonzero(kept) + 1.0, result.residuals)}
    draw = draw_curves(curves, "pose", "tip off the mean [mm]", dots=True)
    conclude(opened, "template", worst([result.verdict, stream.loss]), figures, draw, [poses, holes])


@calibrate.command("hand-eye")
def hand_eye(
    case: CaseFolder,
    first: Annotated[Path, typer.Argument(help="Poses of the first frame: time,x,y,z,qx,qy,qz,qw.")],
    second: Annotated[Path, typer.Argument(help="Poses of the second frame on the same rigid body, by its own clock.")],
    unit: Annotated[float, typer.Option(help="Length of the files' unit in mm; 1000 for meters.")] = 1.0,
) -> None:
    """Find how one tracked frame sits on another, and how far their clocks are apart."""
    import numpy as np

    from registration.calibration.hand_eye import calibrate_hand_eye_streams
    from registration.calibration.pose_stream_offset import turning_speed
    from registration.pose_files import read_pose_table
    from registration.verdict import Verdict, worst
    from surgical_twin.case import Case
    from surgical_twin.registration_results import draw_curves, limits_of

    opened = Case.open(case)
    recorded = [read_pose_table(path, unit_mm=unit) for path in (first, second)]
    a, b = (stream.used() for stream in recorded)
    result = calibrate_hand_eye_streams(a, b, limits_mm=limits_of(opened, "hand-eye"))
    figures = {
        "first_from_second": result.a_from_b,
        "covariance": result.covariance,
        "error_95_mm": result.error_mm,
        "error_95_deg": result.error_deg,
        "rms_mm": result.rms_mm,
        "rms_deg": result.rms_deg,
        "axis_spread": result.axis_spread,
        "offset_s": result.offset_s,
        "offset_std_s": result.offset_std_s,
        "solvers": result.solvers,
        "poses_lost": [int((~stream.valid).sum()) for stream in recorded],
    }
    (ta, speed_a), (tb, speed_b) = turning_speed(a), turning_speed(b)
    begin = float(ta[0])
    curves = {
        "first": (ta - begin, speed_a),
        "second, by the first one's clock": (tb - (result.offset_s or 0.0) - begin, speed_b),
    }
    draw = draw_curves(curves, "time [s]", "speed of turning [rad/s]")
    verdicts = [result.verdict, *(stream.loss for stream in recorded)]
    wide = [float(np.ptp(stream.poses[:, :3, 3], axis=0).max()) for stream in (a, b)]
    if min(wide) < STILL_MM and max(wide) > WIDE_MM:
        path = (first, second)[int(np.argmin(wide))]
        said = f"the positions in {path} lie within {min(wide):.2g} mm, the others move by {max(wide):.3g} mm"
        said += ": is one in meters?"
        verdicts.append(Verdict("check", said))
    verdict = worst(verdicts)
    conclude(opened, "hand-eye", verdict, figures, draw, [first, second])


@calibrate.command("time-offset")
def time_offset(
    case: CaseFolder,
    first: Annotated[
        Path, typer.Argument(help="Sequence of images or poses, or table: time with value, place or pose.")
    ],
    second: Annotated[Path, typer.Argument(help="The same motion, by the other device.")],
    first_tool: Annotated[str | None, typer.Option(help="Tool in the first sequence; its images if not given.")] = None,
    second_tool: Annotated[
        str | None, typer.Option(help="Tool in the second sequence; its images if not given.")
    ] = None,
    reference: ReferenceName = None,
    reach: Annotated[float, typer.Option(help="Largest lag looked for, in s.")] = 1.0,
) -> None:
    """Find how much later one device stamps the same motion than another."""
    from registration.calibration.motion_files import compared, find_lag, read_motion
    from surgical_twin.case import Case
    from surgical_twin.registration_results import draw_curves, standardized

    opened = Case.open(case)
    a, b = read_motion(first, first_tool, reference), read_motion(second, second_tool, reference)
    result = find_lag(a, b, reach_s=reach)
    figures = {
        "lag_s": result.lag_s,
        "lag_std_s": result.std_s,
        "correlation": result.correlation,
        "rms": result.rms,
        "samples": result.samples,
        "first": a.meaning,
        "second": b.meaning,
    }
    (ta, va), (tb, vb), meaning = compared(a, b)
    sign = -1.0 if result.correlation < 0.0 else 1.0
    begin = float(ta[0])
    curves = {
        "first": (ta - begin, standardized(va)),
        "second, moved by the lag": (tb - result.lag_s - begin, sign * standardized(vb)),
    }
    draw = draw_curves(curves, "time [s]", meaning)
    conclude(opened, "time-offset", result.verdict, figures, draw, [first, second])


@calibrate.command()
def camera(
    case: CaseFolder,
    views: Annotated[
        list[Path], typer.Argument(help="Pictures of a grid, or one table of view,x,y,z,u,v (mm, pixels).")
    ],
    grid: Annotated[str | None, typer.Option(help="COLUMNS,ROWS of the grid: inner corners, or dots.")] = None,
    spacing: Annotated[float, typer.Option(help="Distance of the grid's points in mm.")] = 10.0,
    pattern: Annotated[str, typer.Option(help="checkerboard, dots or staggered-dots.")] = "checkerboard",
    size: Annotated[str | None, typer.Option(help="WIDTH,HEIGHT of the image in pixels, with a table.")] = None,
    markers: Annotated[
        Path | None, typer.Option(help="Pose of the camera's marker per view: time,x,y,z,qx,qy,qz,qw in mm.")
    ] = None,
) -> None:
    """Find a camera's focal length, middle and distortion, and how its marker sits on it."""
    from registration.calibration.camera_intrinsics import calibrate_camera, reprojection
    from registration.calibration.camera_mounting import calibrate_mounting
    from registration.calibration.grid_images import find_grids, read_views
    from registration.pose_files import read_pose_table
    from registration.verdict import worst
    from surgical_twin.case import Case
    from surgical_twin.errors import InputError
    from surgical_twin.registration_results import draw_misses, limits_of

    opened = Case.open(case)
    if len(views) == 1 and views[0].suffix.lower() in (".csv", ".txt"):
        if size is None:
            raise InputError("a table of views does not say how large the image is; give --size WIDTH,HEIGHT.")
        width, height = read_wholes("--size", size, "WIDTH,HEIGHT")
        grids, pixels, numbers = read_views(views[0])
        used = list(range(len(numbers)))
    else:
        if grid is None:
            raise InputError("pictures do not say what grid they show; give --grid COLUMNS,ROWS and --spacing MM.")
        columns, rows = read_wholes("--grid", grid, "COLUMNS,ROWS")
        grids, pixels, (width, height), used = find_grids(views, columns, rows, spacing, pattern)  # type: ignore[arg-type]
    result = calibrate_camera(grids, pixels, (width, height))
    found = result.camera
    figures: dict[str, Any] = {
        "width": width,
        "height": height,
        "intrinsics": {"fx": found.fx, "fy": found.fy, "cx": found.cx, "cy": found.cy},
        "intrinsics_std": dict(zip(("fx", "fy", "cx", "cy"), result.intrinsics_std, strict=True)),
        "distortion_k1_k2_p1_p2_k3": found.distortion,
        "rms_px": result.rms_px,
        "view_rms_px": result.view_rms_px,
        "coverage": result.coverage,
        "views_left_out": result.excluded,
        "views_used": len(used) - len(result.excluded),
        "pictures_without_grid": len(views) - len(used) if grid is not None else 0,
    }
    verdict = result.verdict
    if markers is not None:
        stream = read_pose_table(markers)
        mounting = calibrate_mounting(stream, used, result, limits_mm=limits_of(opened, "hand-eye"))
        verdict = worst([verdict, mounting.verdict])
        figures |= {
            "marker_from_camera": mounting.a_from_b,
            "covariance": mounting.covariance,
            "error_95_mm": mounting.error_mm,
            "error_95_deg": mounting.error_deg,
            "mounting_rms_mm": mounting.rms_mm,
        }
    seen, misses = reprojection(result, grids, pixels)
    conclude(opened, "camera", verdict, figures, draw_misses(seen, misses, (width, height)), [*views, markers])


@calibrate.command()
def ultrasound(
    case: CaseFolder,
    wires: Annotated[
        Path, typer.Argument(help="N-wire phantom: front x,y,z and back x,y,z; left, diagonal, right per N.")
    ],
    dots: Annotated[Path, typer.Argument(help="Table of image,wire,u,v: where each image shows each wire, in pixels.")],
    poses: Annotated[Path, typer.Argument(help="Per image phantom_from_probe: time,x,y,z,qx,qy,qz,qw in mm.")],
) -> None:
    """Find where an ultrasound probe's pixels are, from images of an N-wire phantom."""
    import numpy as np

    from registration.calibration.probe_files import read_dots, read_wires
    from registration.calibration.ultrasound import calibrate_probe
    from registration.pose_files import read_pose_table
    from surgical_twin.case import Case
    from surgical_twin.registration_results import draw_curves, limits_of

    opened = Case.open(case)
    ns, stream = read_wires(wires), read_pose_table(poses)
    places, whole = read_dots(dots, 3 * len(ns), len(stream.valid))
    kept = stream.valid[whole]
    result = calibrate_probe(ns, places[kept], stream.poses[whole[kept]], limits=limits_of(opened, "ultrasound"))
    figures = {
        "probe_from_image": result.probe_from_image,
        "spacing_mm": result.spacing_mm,
        "middle_wire_error_mm": result.mean_mm,
        "middle_wire_error_std_mm": result.std_mm,
        "wire_rms_mm": result.wire_rms_mm,
        "skew_deg": result.skew_deg,
        "images_used": int(kept.sum()),
        "images_left_out": len(stream.valid) - int(kept.sum()),
    }
    numbers = whole[kept] + 1.0
    curves = {f"N {k + 1}": (numbers, np.asarray(result.middle_errors_mm[:, k])) for k in range(len(ns))}
    draw = draw_curves(curves, "image", "middle wire's error [mm]", dots=True)
    conclude(opened, "ultrasound", result.verdict, figures, draw, [wires, dots, poses])


@calibrate.command("em-distortion")
def em_distortion(
    case: CaseFolder,
    measured: PointsFile,
    true: Annotated[
        Path, typer.Argument(help="Where the sensor was, by a second device: by name or in the same order.")
    ],
) -> None:
    """Map how an electromagnetic tracker's field is distorted."""
    import numpy as np

    from registration.calibration.em_distortion import map_distortion
    from registration.point_files import read_point_file
    from surgical_twin.case import Case, write_table
    from surgical_twin.registration_results import draw_points, limits_of

    opened = Case.open(case)
    said, was, _ = read_point_file(measured).paired(read_point_file(true))
    result = map_distortion(said, was, aligned=False, limits=limits_of(opened, "em-distortion"))
    figures = {
        "tracker_from_true": result.measured_from_true,
        "before_mm": result.before_mm,
        "after_mm": result.after_mm,
        "worst_mm": result.worst_mm,
        "smoothing": result.smoothing,
    }
    rows = [[f"{v:.4f}" for v in row] for row in np.hstack([result.samples, result.corrections])]
    head = ("x", "y", "z", "dx", "dy", "dz")
    files = {"em-distortion.csv": lambda path: write_table(path, head, rows)}
    draw = draw_points(result.samples + result.corrections, result.samples)
    conclude(opened, "em-distortion", result.verdict, figures, draw, [measured, true], files)
