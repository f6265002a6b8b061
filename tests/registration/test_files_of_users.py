"""Points and tables as people bring them: encodings, separators, headings, units, frames."""

import json

import numpy as np
import pytest
import pyvista as pv

from registration.errors import InputError
from registration.point_files import read_point_file
from registration.pose_files import read_pose_table, read_position_table
from surgical_twin.registration_inputs import read_surface

POINTS = np.array([[12.5, -3.25, 100.0], [-7.0, 8.5, 2.0], [1.0, 2.0, 3.0]])
ROWS = [(f"F-{number}", *point) for number, point in enumerate(POINTS.tolist(), 1)]


def text_of(heading, separator=",", *, comma=False, scale=(1, 1, 1), end="\n"):
    lines = [heading] if heading else []
    for name, *point in ROWS:
        numbers = [f"{value * factor:g}" for value, factor in zip(point, scale, strict=True)]
        lines.append(separator.join([name, *(one.replace(".", ",") if comma else one for one in numbers)]))
    return end.join(lines) + end


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (text_of("name,x,y,z").encode("utf-8-sig"), "points.csv"),
        (text_of("name\tx\ty\tz", "\t").encode("utf-16"), "points.txt"),
        (text_of("name;x;y;z", ";", comma=True).encode(), "points.csv"),
        (text_of("name\tx\ty\tz", "\t", comma=True).encode(), "points.txt"),
        (text_of("Name, X [mm], Y [mm], Z [mm]", end="\r\n").encode(), "points.csv"),
        (text_of("label,x_mm,y_mm,z_mm").encode(), "points.csv"),
        (text_of("name,x_m,y_m,z_m", scale=(1e-3,) * 3).encode(), "points.csv"),
        (text_of("name,r,a,s", scale=(-1, -1, 1)).encode(), "points.csv"),
        (text_of("name,l,p,s").encode(), "points.csv"),
        (("\n# a remark\n\n" + text_of("")).encode(), "points.csv"),
        (("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = label,x,y,z\n"
          + text_of("", scale=(-1, -1, 1))).encode(), "points.csv"),
    ],
)  # fmt: skip
def test_the_same_points_are_read_from_every_form(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    read = read_point_file(path)
    np.testing.assert_allclose(read.points, POINTS, atol=1e-9)
    assert list(read.by_name()) == ["F-1", "F-2", "F-3"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name,x,y\nA,1,2\n", "no columns x, y and z"),
        (b"name,x,y,z,r,a,s\nA,1,2,3,4,5,6\n", "two sets"),
        (b"name,x [deg],y,z\nA,1,2,3\n", "deg"),
        (b"A,1,2,3,4\n", "5 values"),
        (b"A,1,2,1e200\n", "1e\\+200 mm away"),
        (b"A,1,2,nan\n", "is not name, x, y, z"),
        (b"# CoordinateSystem = RAS\nname,x,y,z\nA,1,2,3\n", "taken as LPS"),
        (b"\x00\x01\x02binary", "no text"),
        (b"", "no points"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path, content, words):
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_point_file(path)


def markups(*lists):
    return json.dumps({"markups": [
        {"coordinateSystem": "RAS", "coordinateUnits": ["mm", "UCUM", "millimeter"], "controlPoints": [
            {"label": label, "position": position, "positionStatus": status} for label, position, status in points]}
        for points in lists]})  # fmt: skip


def test_markups_leave_out_what_was_not_placed_and_refuse_two_lists(tmp_path):
    path = tmp_path / "points.mrk.json"
    points = [("A", [1.0, 2.0, 3.0], "defined"), ("B", [0.0, 0.0, 0.0], "undefined")]
    path.write_text(markups(points, []))
    np.testing.assert_allclose(read_point_file(path).by_name()["A"], [-1.0, -2.0, 3.0])
    assert list(read_point_file(path).by_name()) == ["A"]
    path.write_text(markups(points, points))
    with pytest.raises(InputError, match="2 lists"):
        read_point_file(path)


def test_a_heading_puts_columns_of_poses_in_order_and_in_units(tmp_path):
    path = tmp_path / "poses.csv"
    path.write_text("time_ms,qw,qx,qy,qz,x_m,y_m,z_m\n0,1,0,0,0,0.01,0.02,0.03\n500,1,0,0,0,0.01,0.02,0.04\n")
    stream = read_pose_table(path)
    np.testing.assert_allclose(stream.poses[:, :3, 3], [[10, 20, 30], [10, 20, 40]])
    np.testing.assert_allclose(stream.poses[:, :3, :3], np.eye(3)[None].repeat(2, axis=0), atol=1e-12)
    path.write_text("t,x,y,z\n0,1,2,3\n1,2,3,4\n")
    np.testing.assert_allclose(read_position_table(path)[1], [[1, 2, 3], [2, 3, 4]])
    path.write_text("x,y,z,t\n1,2,3,0\n2,3,4,1\n")
    np.testing.assert_allclose(read_position_table(path)[0], [0, 1])
    path.write_text("t,y,x,error\n0,1,2,3\n")
    with pytest.raises(InputError, match="heads its columns"):
        read_position_table(path)


@pytest.mark.parametrize(("frame", "sign"), [("RAS", -1.0), ("LPS", 1.0)])
def test_a_surface_that_says_its_frame_is_turned(tmp_path, frame, sign):
    path = tmp_path / "surface.stl"
    sphere = pv.Sphere(radius=10.0, center=(30.0, 20.0, 10.0))
    sphere.save(path, binary=True)
    data = path.read_bytes()
    path.write_bytes(f"SPACE={frame}".encode().ljust(80) + data[80:])
    center = np.asarray(read_surface(path).points).mean(axis=0)
    np.testing.assert_allclose(center, [30.0 * sign, 20.0 * sign, 10.0], atol=0.5)
