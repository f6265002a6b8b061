"""An existing headset app as the bridge's client: a reader of our own of what the protocol says, on a made case."""

import socket
import struct
import threading
import time

import numpy as np
import pytest
import pyvista as pv

from streams.igtl_bridge import IgtlBridge
from streams.messages import TwinState
from streams.sockets import Publisher, Subscriber
from surgical_twin.case import Case, write_table
from surgical_twin.demo import free_endpoint
from surgical_twin.errors import InputError
from surgical_twin.igtl_surface import overlay_surface


@pytest.fixture
def case(tmp_path):
    """A tube of 1,920 triangles with three pressure modes, and four fiducials."""
    tube = pv.Cylinder(radius=6.0, height=80.0, resolution=60, capping=False).triangulate().subdivide(2, "linear")
    tube.clear_data()
    along = tube.points[:, 0] / 40.0
    for number, values in enumerate((np.ones(tube.n_points), along, tube.points[:, 2] / 6.0)):
        tube.point_data[f"pressure_mode_{number}"] = values.astype(np.float32)
    made = Case.create(tmp_path / "case")
    made.save()
    tube.save(made.path("surface.vtp"))
    rows = [
        ("nose", 0.0, -90.0, 10.0),
        ("ear", 75.0, 0.0, 0.0),
        ("chin", 1.0, -80.0, -40.0),
        ("brow", 2.0, -85.0, 40.0),
    ]
    write_table(made.path("fiducials.csv"), ("name", "x", "y", "z"), rows)
    return made


def read_polydata(content):
    """Points, triangles and scalars, after the protocol's description of POLYDATA: all big-endian."""
    counts = struct.unpack_from(">10I", content)
    points, polygons, size, attributes = counts[0], counts[5], counts[6], counts[9]
    assert counts[1:5] == (0, 0, 0, 0)
    assert attributes == 1
    at = 40
    xyz = np.frombuffer(content, ">f4", 3 * points, at).reshape(-1, 3)
    at += 12 * points
    cells = np.frombuffer(content, ">u4", size // 4, at).reshape(polygons, 4)
    assert (cells[:, 0] == 3).all()
    at += size
    kind, _, length = struct.unpack_from(">BBI", content, at)
    assert (kind, length) == (0, points)
    at += 6
    name = content[at : content.index(b"\0", at)]
    at += len(name) + 1 + (len(name) + 1) % 2
    return xyz, cells[:, 1:], np.frombuffer(content, ">f4", points, at), name.decode()


def listen(port, wanted, said, state, seconds=20.0):
    """Messages by type and device, as a headset gets them: a header of 58 bytes each, then the body."""
    found, buffer = {}, b""
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as headset:
        headset.settimeout(0.1)
        number = 0
        while not wanted <= found.keys() and time.monotonic() < deadline:
            number += 1
            said.send(state(number))
            try:
                buffer += headset.recv(1 << 20)
            except TimeoutError:
                continue
            while len(buffer) >= 58:
                _, kind, device, _, size, _ = struct.unpack_from(">H12s20sQQQ", buffer)
                if len(buffer) < 58 + size:
                    break
                key = (kind.rstrip(b"\0").decode(), device.rstrip(b"\0").decode())
                found[key] = buffer[58 : 58 + size]
                buffer = buffer[58 + size :]
    return found


def test_a_headset_gets_poses_fiducials_and_the_colored_vessel_it_can_draw(case, make_state):
    whole = pv.read(case.path("surface.vtp"))
    surface = overlay_surface(case.folder, triangles=1200)
    assert len(surface.triangles) <= 1200 < whole.n_cells
    devices, states = free_endpoint(), free_endpoint()
    heard, said = Subscriber(devices, bind=True), Publisher(states, bind=True)
    ours = Publisher(devices), Subscriber(states, bind=False, topics=("twin",))
    bridge = IgtlBridge(devices=ours[0], states=ours[1], listen=("127.0.0.1", 0), ras=True, surface=surface)
    thread = threading.Thread(target=bridge.run, daemon=True)
    thread.start()
    wanted = {("TRANSFORM", "TipToImage"), ("POLYDATA", "Overlay"), ("POINT", "Fiducials"), ("STATUS", "Twin")}
    try:
        found = listen(bridge.port, wanted, said, make_state)
    finally:
        bridge.stop()
        thread.join(5)
        for one in (*ours, heard, said):
            one.close()
    assert wanted <= found.keys()
    points, triangles, pressure, name = read_polydata(found["POLYDATA", "Overlay"])
    assert name == "pressure_mmHg"
    assert len(triangles) == len(surface.triangles)
    assert triangles.max() < len(points)
    # The wall's pressure as the modes have it at these places, which are in RAS: x and y turned.
    along = -points[:, 0] / 40.0
    np.testing.assert_allclose(pressure, 95.0 + 12.0 * along - points[:, 2], atol=0.1)
    assert np.abs(np.hypot(points[:, 1], points[:, 2]) - 6.0).max() < 0.1
    # Twelve numbers by columns: the turn, then the place.
    tip = np.frombuffer(found["TRANSFORM", "TipToImage"], ">f4")[9:]
    np.testing.assert_allclose(tip, (-11.0, -1.0, 2.0), atol=1e-5)
    fiducials = found["POINT", "Fiducials"]
    assert len(fiducials) == 4 * 136
    names = [fiducials[136 * k : 136 * k + 64].rstrip(b"\0").decode() for k in range(4)]
    assert names == ["nose", "ear", "chin", "brow"]
    place = struct.unpack_from(">3f", fiducials, 64 + 32 + 4)
    np.testing.assert_allclose(place, (0.0, 90.0, 10.0), atol=1e-5)


@pytest.fixture
def make_state():
    from streams.messages import Estimate

    def make(number):
        return TwinState(
            stream="twin", sequence=number, source_time_ns=number * 10_000_000, model_time_ns=number * 10_000_000,
            age_ns={}, flags=(), registered=True, fre=0.4, tre=0.8, tool="catheter", tip=(11.0, 1.0, 2.0),
            tip_covariance=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), tip_valid=True,
            tip_pressure_mmhg=Estimate(92.0, 88.0, 96.0), measured_pressure_mmhg=93.0, port_pressure_mmhg={},
            port_flow_ml_s={}, parameters={}, axis_pressure_mmhg=(), field_coefficients=(95.0, 12.0, -6.0),
            field_deviation_mmhg=2.0, counters={}, innovation=0.3,
        )  # fmt: skip

    return make


def test_a_case_without_a_flow_model_has_no_overlay(case):
    bare = pv.read(case.path("surface.vtp"))
    bare.clear_data()
    bare.save(case.path("surface.vtp"))
    with pytest.raises(InputError, match="no pressure modes"):
        overlay_surface(case.folder)
