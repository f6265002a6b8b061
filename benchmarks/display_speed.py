"""How fast is the display, and does it stay as small as it began?

* Frames a second of the scene against a bare VTK loop on the same actors and size, run beside it by turns, each frame
  with a new state.
* Update of 50,000 vertex scalars: from a state's coefficients to the scalars that VTK draws.
* The browser page: time to the first picture and frames a second, in headless Chromium where Playwright and Chromium
  are installed: with all 50,000 triangles (as it draws them where it has to keep pace, edges not smoothed), and as it
  chooses its detail by itself. Beside it, in the same browser, a bare WebGL loop that draws as many triangles of the
  same vessel with the least of shaders, which says what the browser's renderer could give.
* Memory over an hour of states at 10 pictures a second, played as fast as it goes: by how much the last half grew.
* Memory of the page that shows the scene's pictures, a browser looking on: growth over 36,000 pictures, from the last
  half of those that were sent.

The machine decides much: the renderer in use is printed. Run: .venv/bin/python benchmarks/display_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv

from streams.messages import Estimate, TwinState
from viewer.actors import LumenActors
from viewer.scene import Scene
from viewer.slices import Volume

ROOT = Path(__file__).parents[1]


def lumen_of(triangles: int) -> pv.PolyData:
    """A winding vessel of so many triangles with eight pressure modes."""
    around = 64
    along = triangles // (2 * around) + 1
    t = np.linspace(0.0, 1.0, along)
    way = np.column_stack([25 * np.sin(5 * t), 18 * np.cos(4 * t), 160 * t - 80])
    tube = pv.MultipleLines(way).tube(radius=6.0, n_sides=around, capping=False).triangulate()
    tube.clear_data()
    rng = np.random.default_rng(0)
    z = tube.points[:, 2] / 80.0
    tube["pressure_mode_0"] = np.ones(tube.n_points, dtype=np.float32)
    for mode in range(1, 8):
        tube[f"pressure_mode_{mode}"] = np.cos(mode * z + rng.uniform(0, 6)).astype(np.float32)
    return tube


def state_at(number: int, modes: int = 8) -> TwinState:
    """A state at 100 Hz whose tip goes along the vessel."""
    t = number / 100.0
    share = 0.5 + 0.45 * np.sin(0.4 * t)
    phase = 20.0 * np.sin(2 * np.pi * t / 0.8)
    near = Estimate(95.0 + phase, 91.0 + phase, 99.0 + phase)
    return TwinState(
        stream="twin",
        sequence=number,
        source_time_ns=number * 10_000_000,
        model_time_ns=number * 10_000_000,
        age_ns={"tracker/catheter": 8_000_000, "trigger/r_wave": round((t % 0.8) * 1e9)},
        flags=() if number % 997 else ("pressure_stale",),
        registered=True,
        fre=0.4,
        tre=0.8,
        tool="catheter",
        tip=(25 * float(np.sin(5 * share)), 18 * float(np.cos(4 * share)), 160 * float(share) - 80),
        tip_covariance=(0.3, 0, 0, 0, 0.3, 0, 0, 0, 0.6),
        tip_valid=True,
        tip_pressure_mmhg=near,
        measured_pressure_mmhg=95.0 + phase,
        port_pressure_mmhg={"inlet": near},
        port_flow_ml_s={"inlet": Estimate(80.0, 70.0, 90.0), "outlet": Estimate(80.0, 70.0, 90.0)},
        parameters={},
        axis_pressure_mmhg=tuple(near for _ in range(40)),
        field_coefficients=(95.0 + phase, *(3.0 * np.sin(t + np.arange(1, modes))).tolist()),
        field_deviation_mmhg=2.0,
        counters={},
        innovation=0.4,
    )


def scene_of(
    triangles: int,
    size: tuple[int, int] = (1280, 720),
    *,
    layout: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Scene:
    """With an image, stations and curves: all panes at work."""
    lumen = lumen_of(triangles)
    image = np.random.default_rng(1).normal(100, 20, (100, 100, 100)).astype(np.float32)
    pose = np.diag([2.0, 2.0, 2.0, 1.0])
    pose[:3, 3] = -100.0
    t = np.linspace(0.0, 1.0, 40)
    way = np.column_stack([25 * np.sin(5 * t), 18 * np.cos(4 * t), 160 * t - 80])
    return Scene(lumen, volume=Volume(image, pose), way=way, size=size, layout=layout, clock=clock)


class OwnTime:
    """A clock that stands while the other loop has its turn: else ours would take that time for idle, and spend it."""

    def __init__(self) -> None:
        self._spent, self._begun = 0.0, time.perf_counter()
        self._runs = True

    def __call__(self) -> float:
        """Seconds that it ran."""
        return self._spent + (time.perf_counter() - self._begun if self._runs else 0.0)

    def stop(self) -> None:
        """Stand still."""
        self._spent, self._runs = self(), False

    def go_on(self) -> None:
        """Run again."""
        self._begun, self._runs = time.perf_counter(), True


def frame_rates(triangles: int, seconds: float) -> tuple[float, float, str]:
    """Frames a second of our scene and of a bare loop over the same wall, tool and window, by turns."""
    own = OwnTime()
    scene = scene_of(triangles, clock=own)
    scene.update(state_at(1))
    scene.refresh(at_once=True)
    own.stop()
    bare = scene_of(triangles)
    bare.update(state_at(1))
    bare.refresh(at_once=True)
    window = bare.plotter.render_window
    scalars = bare.wall_values
    wall = bare._lumen
    modes = wall.modes
    counts, spent, number = [0, 0], [0.0, 0.0], 1
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for which in (0, 1):
            for _ in range(15):
                number += 1
                # As a display meets them: 25 frames a second of a twin at 100 states a second.
                state = state_at(4 * number)
                begin = time.perf_counter()
                if which == 0:
                    own.go_on()
                    scene.update(state)
                    scene.refresh()
                    scene.plotter.render_window.WaitForCompletion()
                    own.stop()
                else:
                    np.matmul(modes, np.array(state.field_coefficients, dtype=np.float32), out=scalars)
                    wall._scalars.Modified()
                    window.Render()
                    window.WaitForCompletion()
                spent[which] += time.perf_counter() - begin
                counts[which] += 1
    renderer = next(
        (
            line.partition(":")[2].strip()
            for line in window.ReportCapabilities().splitlines()
            if "renderer string" in line
        ),
        "unknown",
    )
    scene.close()
    bare.close()
    return counts[0] / spent[0], counts[1] / spent[1], renderer


def scalar_update_ms(repeats: int) -> float:
    """Median time [ms] from coefficients to 50,000 scalars that VTK has as changed."""
    lumen = lumen_of(100_000)
    actors = LumenActors(lumen, (60.0, 140.0))
    assert actors.values.size >= 50_000
    times = []
    for number in range(repeats):
        coefficients = state_at(number).field_coefficients
        begin = time.perf_counter()
        actors.show(coefficients)
        times.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(times))


def memory_growth_mb(hours: float, states_per_s: float = 10.0) -> float:
    """MiB that the process grew in the second half of so many hours of states, all shown, some drawn."""
    scene = scene_of(20_000, (480, 320))
    count = int(hours * 3600 * states_per_s)
    sizes = []
    for number in range(count):
        scene.update(state_at(int(number * 100.0 / states_per_s)))
        if number % 6 == 0:
            scene.refresh(at_once=True)
        if number % (count // 20) == 0:
            sizes.append(resident_mb())
    sizes.append(resident_mb())
    scene.close()
    return sizes[-1] - sizes[len(sizes) // 2]


def resident_mb() -> float:
    """MiB of this process in memory now."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024.0


PAGE = """
import sys, time
sys.path.insert(0, {root!r}); sys.path.insert(0, {here!r})
from display_speed import lumen_of, state_at
from viewer.ar_model import ArModel
from viewer.ar_page import serve_ar
begin = time.monotonic()
serve_ar(ArModel(lumen_of(50_000), triangles=51_000), lambda: state_at(int(100 * (time.monotonic() - begin))),
         port={port}, on_ready=lambda address: print("ready", flush=True))
"""


BARE = """
async (seconds) => {
  const head = await (await fetch("model.bin")).arrayBuffer();
  const length = new DataView(head).getUint32(0, true);
  const one = JSON.parse(new TextDecoder().decode(new Uint8Array(head, 4, length))).structures[0];
  let at = 4 + length; at += (4 - (at % 4)) % 4;
  const points = new Float32Array(head, at, 3 * one.vertices);
  const triangles = new Uint32Array(head, at + 24 * one.vertices, 3 * one.triangles[0]);
  const canvas = Object.assign(document.createElement("canvas"), { width: innerWidth, height: innerHeight });
  canvas.style = "position: fixed; inset: 0; z-index: 9";
  document.body.append(canvas);
  const gl = canvas.getContext("webgl2", { antialias: false });
  const made = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, "#version 300 es\\nin vec3 p; void main() { gl_Position = vec4(9.0 * p.xy, 4.0 * p.z, 1.0); }"],
    [gl.FRAGMENT_SHADER, "#version 300 es\\nprecision mediump float; out vec4 c; void main() { c = vec4(1.0); }"],
  ]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(made, shader);
  }
  gl.linkProgram(made); gl.useProgram(made); gl.enable(gl.DEPTH_TEST);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, points, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0); gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  let frames = 0;
  const until = performance.now() + 1000 * seconds;
  await new Promise((done) => {
    const draw = () => {
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.drawElements(gl.TRIANGLES, triangles.length, gl.UNSIGNED_INT, 0);
      frames += 1;
      if (performance.now() < until) requestAnimationFrame(draw); else done();
    };
    requestAnimationFrame(draw);
  });
  return frames / seconds;
}
"""
"""Frames a second of the model's vessel alone, in one color, on a canvas of the page's size."""


def browser_of() -> tuple[Any, str]:
    """Playwright's entry and the path of a Chromium; None with the reason."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None, "Playwright is not installed"
    chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    return (None, "Chromium is not installed") if chromium is None else (sync_playwright, chromium)


SETTLED_S = 6.0
"""The page has found its level of detail."""


def browser_page(seconds: float) -> tuple[dict[str, Any], str]:
    """Seconds to the first picture, frames a second of the page and of a bare loop, and the renderer; nothing with
    the reason in its place."""
    sync_playwright, chromium = browser_of()
    if sync_playwright is None:
        return {}, chromium
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = PAGE.format(root=str(ROOT), here=str(Path(__file__).parent), port=port)
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            begin = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_function("surgicalTwin.ready && surgicalTwin.messages > 0", timeout=60000)
            ready = time.perf_counter() - begin

            def rate() -> float:
                first, begin = page.evaluate("surgicalTwin.frames"), time.perf_counter()
                page.wait_for_timeout(1000 * seconds)
                return float((page.evaluate("surgicalTwin.frames") - first) / (time.perf_counter() - begin))

            page.wait_for_timeout(1000 * SETTLED_S)
            chosen, triangles = rate(), page.evaluate("surgicalTwin.triangles")
            page.evaluate("surgicalTwin.detail.judge = () => {}; surgicalTwin.detail.number = 1")
            page.wait_for_timeout(1000)
            whole = rate()
            assert page.evaluate("surgicalTwin.triangles") >= 49_900
            renderer = page.evaluate(
                "(() => { const gl = document.createElement('canvas').getContext('webgl2');"
                "const info = gl.getExtension('WEBGL_debug_renderer_info');"
                "return String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER)); })()"
            )
            page.goto(f"http://127.0.0.1:{port}/page.js")  # the page itself must not draw beside it
            bare = page.evaluate(BARE, seconds)
            browser.close()
        return {
            "ready": ready, "whole": whole, "chosen": chosen, "triangles": triangles, "bare": bare
        }, renderer  # fmt: skip
    finally:
        server.kill()
        server.wait(timeout=20)


PICTURES = """
import sys
sys.path.insert(0, {root!r}); sys.path.insert(0, {here!r})
from display_speed import resident_mb, scene_of, state_at
from viewer.web import serve
number = 0
def following():
    global number
    number += 1
    if number % {every} == 0:
        print("MB", resident_mb(), flush=True)
    return state_at(10 * number)
serve(scene_of(2000, (480, 320), layout="3d"), following, port={port}, pictures_per_second=1000.0,
      on_ready=lambda address: print("ready", flush=True))
"""


def page_growth_mb(seconds: float) -> tuple[float | None, int, str]:
    """MiB that the server of pictures would grow over 36,000, an hour at 10 a second; how many it sent; why not."""
    sync_playwright, chromium = browser_of()
    if sync_playwright is None:
        return None, 0, chromium
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    every = 50
    program = PICTURES.format(root=str(ROOT), here=str(Path(__file__).parent), port=port, every=every)
    server = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with sync_playwright() as playwright:
            shown = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = shown.new_page(viewport={"width": 480, "height": 400})
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_timeout(1000 * seconds)
            shown.close()
        server.kill()
        sizes = [float(line.split()[1]) for line in server.stdout.read().splitlines() if line.startswith("MB")]
    finally:
        server.kill()
        server.wait(timeout=20)
    half = np.array(sizes[len(sizes) // 2 :])
    if len(half) < 6:
        return None, every * len(sizes), "too few pictures were sent"
    slope = float(np.polyfit(np.arange(len(half)) * every, half, 1)[0])
    return slope * 36_000, every * len(sizes), ""


def rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def main() -> None:
    """Print the figures; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds, and memory over three minutes of states")
    quick = parser.parse_args().quick
    ours, bare, renderer = frame_rates(50_000, 4.0 if quick else 25.0)
    print(f"scene {ours:.1f} frames/s, bare VTK loop {bare:.1f} frames/s, on {renderer}")
    update = scalar_update_ms(20 if quick else 200)
    print(f"50,000 scalars: {update:.2f} ms")
    page, where = browser_page(2.0 if quick else 6.0)
    print(f"page: {page}, on {where}")
    page_growth, pictures, unsaid = page_growth_mb(30.0 if quick else 300.0)
    print(f"page of pictures: {page_growth} MiB over 36,000, from {pictures}")
    growth = memory_growth_mb(0.05 if quick else 1.0)
    print(f"memory: {growth:+.1f} MiB in the second half")
    why = {} if page else {"why": where}
    figures = {
        "frame_rate_against_bare_vtk": {"value": round(ours / bare, 3), "goal": ">= 0.9", "unit": "ratio"},
        "scalar_update": {"value": round(update, 3), "goal": "<= 5", "unit": "ms"},
        "page_interactive": {"value": rounded(page.get("ready"), 2), "goal": "<= 3", "unit": "s", **why},
        "page_frame_rate": {
            "value": rounded(page.get("whole"), 1), "goal": ">= 30", "unit": "1/s", "renderer": where,
            "bare_webgl_loop": page.get("bare"), **why
        },
        "page_frame_rate_of_chosen_detail": {
            "value": rounded(page.get("chosen"), 1), "goal": ">= 30", "unit": "1/s",
            "triangles": page.get("triangles"), **why
        },
        "page_memory_growth": {
            "value": None if page_growth is None else round(page_growth, 1), "goal": "<= 10", "unit": "MiB",
            "pictures": pictures, **({"why": unsaid} if page_growth is None else {})
        },
        "memory_growth": {"value": round(growth, 1), "goal": "<= 10", "unit": "MiB"},
    }  # fmt: skip
    print(json.dumps({"benchmark": "display_speed", "figures": figures}))


if __name__ == "__main__":
    sys.exit(main())
