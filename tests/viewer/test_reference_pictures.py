"""The display as a whole against pictures that a person has looked at and found good.

After a wanted change run with UPDATE_REFERENCE_PICTURES=1, look at each file in ``reference/``, and commit them.
Tolerances leave room for another version of Mesa or of the typeface's rasterizer, and none for a thing that is moved,
missing or of another color.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from streams.messages import Consistency, Estimate, Forecast, SensorState, UncertaintyParts
from viewer.quantities import SHEAR
from viewer.scene import Scene
from viewer.slices import Volume

FOLDER = Path(__file__).parent / "reference"
SIZE = (960, 540)
WELL = SensorState(Estimate(0.4, -3.1, 3.9), Estimate(0.0, -4.0, 4.0), 0.9, "")
ILL = SensorState(Estimate(-1.3, -5.2, 2.6), Estimate(0.0, -4.0, 4.0), 3.1, "line_damped")
CASES = {
    "conventional": ("conventional", "pressure", ()),
    "four_up": ("four_up", "pressure", ()),
    "endoluminal": ("endoluminal", "ffr", ()),
    "shear": ("3d", "shear", ()),
    "untrusted": (
        "conventional",
        "pressure",
        ("registration_drifted", "line_damped:radial", "sensors_swapped", "silent:pressure/catheter", "replay"),
    ),
}


@pytest.fixture(scope="module")
def scene_with_all(lumen, centerline, ports):
    """An image of the vessel, stations along it, and six seconds of a beating pressure."""
    z, y, x = np.meshgrid(*(np.arange(n) * 1.5 - 75.0 for n in (100, 100, 100)), indexing="ij")
    body = 40.0 + 15.0 * np.cos(0.15 * x) * np.cos(0.15 * z) * (np.hypot(x / 60, y / 45) < 1.0)
    grid = np.where(np.hypot(x, y) < 8.0, 250.0, body) * (np.hypot(x / 60, y / 45) < 1.0)
    pose = np.diag([1.5, 1.5, 1.5, 1.0])
    pose[:3, 3] = -75.0
    way = np.array(
        [(0.0, 0.0, s) for s in np.linspace(60, 0, 20)] + [(22 * s, 4 * s, -50 * s) for s in np.linspace(0.05, 1, 20)]
    )
    scene = Scene(
        lumen,
        centerline=centerline,
        ports=ports,
        volume=Volume(grid.astype(np.float32), pose),
        way=way,
        size=SIZE,
        fields={SHEAR.key: lambda _: np.abs(np.asarray(lumen.points[:, 2], dtype=np.float32)) / 5.0},
        clock=lambda: 0.0,
    )
    yield scene
    scene.close()


def states(state, flags):
    """Six seconds at 50 Hz of a pressure that beats and drops along the vessel."""
    for number in range(300):
        t = number / 50.0
        phase = 18.0 * np.sin(2 * np.pi * t / 0.8)
        along = [
            Estimate(96.0 - 0.35 * k + phase, 92.0 - 0.35 * k + phase, 100.0 - 0.35 * k + phase) for k in range(40)
        ]
        yield state(
            sequence=number,
            source_time_ns=round((10 + t) * 1e9),
            age_ns={
                "tracker/catheter": 12_000_000,
                "pressure/catheter": 4_000_000,
                "trigger/r_wave": round((t % 0.8) * 1e9),
            },
            port_pressure_mmhg={"inlet": along[0]},
            axis_pressure_mmhg=tuple(along),
            tip_pressure_mmhg=along[28],
            measured_pressure_mmhg=along[28].value + 1.5 * np.sin(40.0 * t),
            field_coefficients=(90.0 + phase, 8.0, -4.0),
            consistency=Consistency(0.92, 0.37, 1.94, 0.1, 0.9),
            sensors={"catheter": WELL, "radial": ILL if len(flags) and number > 290 else WELL},
            tip_pressure_parts=UncertaintyParts(1.8, 0.6, 0.7),
            forecasts=tuple(
                Forecast(
                    beats, {"inlet": Estimate(96.0 + drop, 92.0 + drop, 100.0 + drop)}, {}, UncertaintyParts(2, 0, 1)
                )
                for beats, drop in ((1, 0.4), (5, 1.8), (30, 3.1))
            ),
            flags=flags if number > 290 else (),
        )


@pytest.mark.parametrize("name", CASES)
def test_the_display_looks_as_it_was_found_good(scene_with_all, state, name):
    layout, quantity, flags = CASES[name]
    scene = scene_with_all
    scene.arrange(layout)
    scene.color_by(quantity)
    for one in states(state, flags):
        scene.remember(one)
    scene.update(one)
    picture = scene.render(SIZE)
    path = FOLDER / f"{name}.png"
    if os.environ.get("UPDATE_REFERENCE_PICTURES"):
        FOLDER.mkdir(exist_ok=True)
        Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        pytest.skip(f"{path.name} was written anew; look at it")
    wanted = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape == wanted.shape
    # Edges of letters and triangles differ between versions: compared is what an eye without glasses sees.
    blurred = [cv2.GaussianBlur(p, (0, 0), 2.0).astype(int) for p in (picture, wanted)]
    off = np.abs(blurred[0] - blurred[1]).max(axis=2)
    assert off.mean() < 2.0
    assert (off > 30).mean() < 0.003
