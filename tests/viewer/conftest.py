"""A synthetic bifurcation with known pressure modes, and states of the twin, for every viewer test."""

import json
import shutil
import struct

import numpy as np
import pytest
import pyvista as pv

pv.OFF_SCREEN = True

INLET, FORK = np.array([0.0, 0.0, 60.0]), np.array([0.0, 0.0, 0.0])
LEFT, RIGHT = np.array([22.0, 4.0, -50.0]), np.array([-18.0, -3.0, -50.0])
LIMBS = ((INLET, FORK, 8.0), (FORK, LEFT, 5.5), (FORK, RIGHT, 5.0))
PORTS = {"inlet": INLET, "outlet_1": LEFT, "outlet_2": RIGHT}


def bifurcation() -> pv.PolyData:
    """Three tubes blended into one wall, with a constant mode, a mode linear in z and one in x."""
    grid = pv.ImageData(dimensions=(64, 48, 90), spacing=(1.1, 1.0, 1.45), origin=(-34.0, -22.0, -64.0))
    p = grid.points
    depth = np.full(len(p), -np.inf)
    for a, b, radius in LIMBS:
        along = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
        depth = np.maximum(depth, radius - np.linalg.norm(p - a - along[:, None] * (b - a), axis=1))
    surface = grid.contour([0.0], scalars=depth.astype(np.float32)).triangulate().clean()
    surface.clear_data()
    z, x = surface.points[:, 2], surface.points[:, 0]
    surface["pressure_mode_0"] = np.ones(surface.n_points, dtype=np.float32)
    surface["pressure_mode_1"] = (z / 60.0).astype(np.float32)
    surface["pressure_mode_2"] = (x / 25.0).astype(np.float32)
    return surface


def tree() -> pv.PolyData:
    """The centerline of the three limbs; the daughters repeat the fork's point."""
    points, lines, radius, branch, arc = [], [], [], [], []
    for index, (a, b, r) in enumerate(LIMBS):
        steps = np.linspace(0.0, 1.0, 40)
        ids = len(points) + np.arange(40)
        points.extend(a + s * (b - a) for s in steps)
        lines.extend([40, *ids])
        radius.extend([r] * 40)
        branch.extend([index] * 40)
        arc.extend(steps * np.linalg.norm(b - a))
    line = pv.PolyData(np.array(points), lines=np.array(lines))
    line["Radius"], line["BranchId"], line["ArcLength"] = np.array(radius), np.array(branch), np.array(arc)
    return line


def make_state(**changes):
    from streams.messages import Estimate, TwinState

    values = dict(
        stream="twin",
        sequence=7,
        source_time_ns=2_000_000_000,
        model_time_ns=2_000_000_000,
        age_ns={"tracker": 16_000_000, "pressure": 8_000_000, "flow": 41_000_000, "ecg": 420_000_000},
        flags=(),
        registered=True,
        fre=0.42,
        tre=0.87,
        tool="catheter",
        tip=(11.5, 2.0, -26.0),
        tip_covariance=(1.2, 0.3, 0.1, 0.3, 0.8, 0.0, 0.1, 0.0, 2.4),
        tip_valid=True,
        tip_pressure_mmhg=Estimate(value=92.4, lower=88.1, upper=96.6),
        measured_pressure_mmhg=93.0,
        port_pressure_mmhg={},
        port_flow_ml_s={
            "inlet": Estimate(value=81.2, lower=70.1, upper=92.3),
            "outlet_1": Estimate(value=46.0, lower=38.5, upper=53.4),
            "outlet_2": Estimate(value=35.2, lower=28.0, upper=42.5),
        },
        parameters={},
        axis_pressure_mmhg=(),
        field_coefficients=(95.0, 12.0, -6.0),
        field_deviation_mmhg=2.1,
        counters={"received": 900, "lost": 0},
        innovation=0.3,
    )
    return TwinState(**(values | changes))


@pytest.fixture(scope="session")
def browser():
    """Playwright's entry and the path of a Chromium; or skip."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs Chromium")
    return api, path


@pytest.fixture(scope="session")
def lumen():
    return bifurcation()


@pytest.fixture(scope="session")
def centerline():
    return tree()


@pytest.fixture(scope="session")
def ports():
    return PORTS


@pytest.fixture
def state():
    return make_state


@pytest.fixture
def case(tmp_path, lumen, centerline):
    folder = tmp_path / "case"
    folder.mkdir()
    lumen.save(folder / "surface.vtp")
    centerline.save(folder / "centerline.vtp")
    return folder


def parse(path):
    """A reader of our own, straight from the glTF 2.0 container's definition: JSON document and binary
    chunk."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    assert length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0"
    binary = data[28 + length : 28 + length + size]
    assert document["buffers"][0]["byteLength"] <= size
    return document, binary


def accessor(document, binary, index):
    entry = document["accessors"][index]
    view = document["bufferViews"][entry["bufferView"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry["type"]]
    kind = {5126: "<f4", 5125: "<u4"}[entry["componentType"]]
    assert view["byteOffset"] % 4 == 0
    return np.frombuffer(binary, kind, entry["count"] * width, view["byteOffset"]).reshape(-1, width)


@pytest.fixture(scope="session")
def parse_glb():
    return parse


@pytest.fixture(scope="session")
def glb_accessor():
    return accessor
