"""The planning page in a browser: every control, on a desk that keeps what was done to it in memory."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from viewer.layout import PLANNING
from viewer.scene import Scene
from viewer.slices import Volume

ROOT = Path(__file__).parents[2]

DESK = '''
import io, json, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from streams.messages import Estimate
from viewer.layout import PLANNING
from viewer.plan_desk import CheckRow, LandmarkRow, PlanRefused, PortRow
from viewer.plan_page import serve_plan
from viewer.scene import Scene
from viewer.what_if_panel import Answer, answer_picture, answer_rows

class Desk:
    """Does what a person asks for in memory, and writes each deed down."""
    def __init__(self, log):
        self.names = ["inlet", "outlet_1", "outlet_2"]
        self.at = {"inlet": (0.0, 0.0, 60.0), "outlet_1": (22.0, 4.0, -50.0), "outlet_2": (-18.0, -3.0, -50.0)}
        self.marks = {"skin_1": ("fiducial", (10.0, -40.0, 0.0))}
        self.log, self.state = log, ("none", "plan not approved")
    def note(self, *what):
        with open(self.log, "a") as file:
            file.write(json.dumps(what) + "\\n")
    def ports(self):
        places = list(self.at.values())
        return [PortRow(n, "inlet" if i == 0 else "outlet", places[i], 4.5, "500 [400, 600]")
                for i, n in enumerate(self.names)]
    def rename_port(self, old, new):
        if new in self.names:
            raise PlanRefused(f'The name "{new}" is taken; give the port another.')
        self.note("port", old, new)
        self.names[self.names.index(old)] = new
    def landmarks(self):
        return [LandmarkRow(name, kind, at) for name, (kind, at) in self.marks.items()]
    def place_landmark(self, name, point, *, fiducial=False):
        if not name.strip():
            raise PlanRefused("A landmark needs a name.")
        kind = self.marks[name][0] if name in self.marks else "fiducial" if fiducial else "landmark"
        self.note("place", name, kind, [round(float(x), 2) for x in point])
        self.marks[name] = (kind, tuple(float(x) for x in point))
    def rename_landmark(self, old, new):
        self.note("landmark", old, new)
        self.marks = {new if key == old else key: value for key, value in self.marks.items()}
    def remove_landmark(self, name):
        self.note("remove", name)
        del self.marks[name]
    def outlets(self):
        return self.names[1:]
    def present(self):
        return 5.0, 75.0
    def ask(self, wishes):
        self.note("ask", *wishes)
        if len(wishes) == 4:
            while not Path(self.log + ".answer").exists():  # a question that takes its time
                time.sleep(0.05)
        one = lambda value: {"value": value, "lower": value - 2.0, "upper": value + 2.0}
        change = {"before": one(93.0), "after": one(70.0), "change": one(-23.0)}
        plain = {"quantities": {"mean pressure inlet [mmHg]": change}, "notes": []}
        return Answer(answer_rows(plain), answer_picture(plain))
    def checks(self):
        return [CheckRow("Mesh", "good", "34,599 tetrahedra"), CheckRow("Flow model", "failed", "3D runs not done")]
    def segmentation_picture(self):
        stream = io.BytesIO()
        Image.fromarray(np.full((40, 90, 3), 90, np.uint8)).save(stream, format="PNG")
        return stream.getvalue()
    def approval(self):
        return self.state
    def approve(self, who, reason, *, seen):
        if not seen:
            raise PlanRefused("Look at the outline of the segmentation first, and say that you have.")
        if not (who and reason):
            raise PlanRefused("An approval needs a name, and failed checks a reason.")
        self.note("approve", who, reason)
        self.state = ("approved", f"plan approved by {who}")
        return self.state[1]
    def withdraw(self, who):
        self.note("withdraw", who)
        self.state = ("none", "plan not approved")
        return self.state[1]

scene = Scene.from_case(sys.argv[1], layout=PLANNING, size=(800, 600))
serve_plan(scene, Desk(sys.argv[3]), port=int(sys.argv[2]),
           on_ready=lambda address: print("ready", address, flush=True))
'''


@pytest.fixture
def page(case, tmp_path, browser):
    """An open planning page, and where its desk writes down what was done."""
    import SimpleITK as sitk

    api, chromium = browser
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 30, (60, 60, 60)).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.2))
    image.SetOrigin((-60.0, -60.0, -65.0))
    sitk.WriteImage(image, str(case / "image.nrrd"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "done.jsonl"
    log.touch()
    server = subprocess.Popen(
        [sys.executable, "-c", DESK, str(case), str(port), str(log)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        address = next(line for line in server.stdout if line.startswith("ready")).split()[1]
        with api.sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            shown = opened.new_page(viewport={"width": 1400, "height": 860})
            faults = []
            shown.on("pageerror", lambda error: faults.append(str(error)))
            shown.goto(address)
            shown.wait_for_selector(".tab-ports", timeout=8000)
            answer = tmp_path / "done.jsonl.answer"
            yield shown, lambda: [json.loads(line) for line in log.read_text().splitlines()], answer.touch
            assert not faults
            opened.close()
    finally:
        server.kill()
        server.wait(timeout=20)


def said(page, words):
    page.wait_for_function(f"document.querySelector('.said')?.textContent.includes({json.dumps(words)})", timeout=8000)


def test_every_control_of_the_planning_page(page):
    page, done, answer = page
    page.click(".ports td:has-text('outlet_1')")
    page.wait_for_function("document.querySelector('.port-name input').value === 'outlet_1'")
    page.fill(".port-name input", "outlet_2")
    page.click(".port-rename")
    said(page, "is taken")
    page.fill(".port-name input", "left_renal")
    page.click(".port-rename")
    said(page, "outlet_1 is now left_renal")
    page.wait_for_selector(".ports td:has-text('left_renal')")
    assert done() == [["port", "outlet_1", "left_renal"]]

    page.click(".tab-landmarks")
    page.click(".landmark-add")
    said(page, "needs a name")
    page.fill(".landmark-name input", "target")
    page.click(".landmark-add")
    said(page, "target is at (22.0, 4.0, -50.0) mm")  # the slices still meet at the port
    page.click(".landmark-add")
    said(page, "is taken")
    # With shift held the mouse brings the slices elsewhere, over a slice and over the vessel in 3D.
    box = page.query_selector("main img, main canvas").bounding_box()
    for x, y in ((0.32, 0.36), (0.75, 0.2)):
        before = page.inner_text(".v-navigation-drawer")
        page.keyboard.down("Shift")
        page.mouse.move(box["x"] + (x - 0.01) * box["width"], box["y"] + y * box["height"])
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        page.keyboard.up("Shift")
        page.wait_for_function(
            f"document.querySelector('.v-navigation-drawer').innerText !== {json.dumps(before)}", timeout=30000
        )
    page.click(".landmarks td:has-text('target')")
    page.wait_for_function("!document.querySelector('.landmark-move').disabled")
    page.fill(".landmark-name input", "skin_2")
    page.click(".fiducial-add")
    said(page, "skin_2 is at")
    page.click(".landmarks td:has-text('skin_1')")
    page.wait_for_function("document.querySelector('.landmark-name input').value === 'skin_1'")
    page.click(".landmark-move")
    said(page, "skin_1 is at (10.0, -40.0, 0.0) mm")
    page.fill(".landmark-name input", "nose")
    page.click(".landmark-rename")
    said(page, "skin_1 is now nose")
    page.click(".landmark-remove")
    said(page, "nose is removed")
    kinds = [(what, *rest[:2]) for what, *rest in done()[1:]]
    assert kinds == [
        ("place", "target", "landmark"), ("place", "skin_2", "fiducial"), ("place", "skin_1", "fiducial"),
        ("landmark", "skin_1", "nose"), ("remove", "nose"),
    ]  # fmt: skip

    page.click(".tab-what_if")
    for name in ("resistance", "output", "rate", "clamp"):
        track = page.query_selector(f".slider-{name} .v-slider__container").bounding_box()
        page.mouse.click(track["x"] + 0.9 * track["width"], track["y"] + 0.5 * track["height"])
    # A slider that is let go asks; while the question is open everything else goes on.
    page.wait_for_function("document.querySelector('.plan-ask.v-btn--loading') !== null")
    page.click(".tab-ports")
    page.click(".ports td:has-text('inlet')")
    page.wait_for_function("document.querySelector('.port-name input').value === 'inlet'", timeout=30000)
    page.click(".tab-what_if")
    answer()
    page.wait_for_function("document.querySelector('.plan-ask.v-btn--loading') === null", timeout=30000)
    page.wait_for_selector(".before-after")
    page.wait_for_selector(".answer td:has-text('93')")
    deadline = time.monotonic() + 30
    while len(done()[-1]) != 5 and time.monotonic() < deadline:
        time.sleep(0.2)
    kind, *wishes = done()[-1]
    assert kind == "ask"
    assert [name for name, _ in wishes] == ["svr", "inflow", "heart-rate", "clamp"]
    assert wishes[3][1].startswith("left_renal=")
    asked = len(done())
    page.click(".plan-ask")  # what is answered is not asked again
    page.click(".plan-reset")
    page.wait_for_function("document.querySelector('.before-after') === null")
    for name in ("resistance", "output", "rate", "clamp"):
        page.wait_for_function(f"/: 0 %/.test(document.querySelector('.value-{name}').textContent)")

    assert len(done()) == asked
    page.click(".tab-approval")
    page.click(".approve")
    said(page, "Look at the outline")
    page.click(".approve-seen input")
    page.click(".approve")
    said(page, "needs a name")
    page.fill(".approve-who input", "Dr. Example")
    page.fill(".approve-reason input", "a rehearsal")
    page.click(".approve")
    said(page, "approved")
    page.wait_for_function(
        "document.querySelector('.approval').textContent.includes('plan approved by Dr. Example')", timeout=30000
    )
    page.click(".check-again")
    said(page, "checked")
    page.click(".withdraw")
    said(page, "withdrawn")
    assert done()[-2:] == [["approve", "Dr. Example", "a rehearsal"], ["withdraw", "Dr. Example"]]


def test_a_planning_scene_has_no_numbers_and_shows_its_landmarks(lumen, ports, state):
    image = np.full((60, 60, 60), 100.0, dtype=np.float32)
    pose = np.diag([2.0, 2.0, 2.2, 1.0])
    pose[:3, 3] = (-60.0, -60.0, -65.0)
    scene = Scene(lumen, ports=ports, volume=Volume(image, pose), size=(800, 600), layout=PLANNING)
    scene.show_plan(state(flags=("not_registered",), tip=None))
    assert scene.trusted  # a plan has no procedure's doubts
    plain = scene.render()
    scene.mark({"target": (11.0, 2.0, -25.0)})
    scene.cross_at((11.0, 2.0, -25.0))
    marked = scene.render()
    width, height = scene.size
    for pane in ("axial", "coronal", "sagittal", "3d"):
        x, y = {"axial": (0, 0), "3d": (1, 0), "coronal": (0, 1), "sagittal": (1, 1)}[pane]
        part = np.s_[y * height // 2 : (y + 1) * height // 2, x * width // 2 : (x + 1) * width // 2]
        yellow = [(np.abs(p[part].astype(int) - (255, 209, 102)).max(axis=2) < 40).sum() for p in (plain, marked)]
        assert yellow[1] > yellow[0] + 20, pane
    # What is seen at the middle of the mark in 3D is the wall there.
    scene.arrange("3d")
    scene.show_plan(state(tip=None))
    scene.render()
    x, y = np.argwhere(np.ones((2, 2)))[0]
    hits = [scene.pick(x, y) for x in range(150, 450, 25) for y in range(100, 500, 25)]
    found = np.array([hit for hit in hits if hit is not None])
    assert len(found) > 5
    distance = [np.abs(np.asarray(lumen.points) - hit).max(axis=1).min() for hit in found]
    assert max(distance) < 2.0
    assert scene.pick(5, 5) is None
    scene.close()
