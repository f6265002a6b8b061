"""The page of a real server in a process of its own: served, joined by a websocket, and stopped."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import msgspec
import pytest

from viewer.errors import InputError
from viewer.scene import Scene
from viewer.web import serve

SERVER = """
import sys
from viewer.scene import Scene
from viewer.web import serve
serve(Scene.from_case(sys.argv[1], size=(640, 400)), lambda: None, port=int(sys.argv[2]),
      on_ready=lambda address: print("ready", address, flush=True))
"""


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def served(case, port):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(case), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ready"):
            break
    else:
        pytest.fail("the server ended:\n" + "".join(lines))
    yield lines[-1].split()[1], process
    if process.poll() is None:
        process.kill()
    process.wait(timeout=20)


def framed(message):
    """One wslink chunk: message id, offset and total size as little-endian 32-bit numbers, then
    MessagePack."""
    payload = msgspec.msgpack.encode(message)
    return (7).to_bytes(4, "little") + (0).to_bytes(4, "little") + len(payload).to_bytes(4, "little") + payload


async def visit(address):
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        async with session.get(address) as reply:
            status, page = reply.status, await reply.text()
            base = reply.url
        script = re.search(r'src="([^"]+\.js)"', page).group(1)
        async with session.get(base.join(type(base)(script))) as reply:
            script_status = reply.status
        async with session.ws_connect(address.replace("http", "ws") + "ws") as ws:
            await ws.send_bytes(
                framed(
                    {
                        "wslink": "1.0",
                        "id": "system:c0:0",
                        "method": "wslink.hello",
                        "args": [{"secret": "wslink-secret"}],
                        "kwargs": {},
                    }
                )
            )
            answer = await ws.receive_bytes()
            await ws.send_bytes(
                framed({"wslink": "1.0", "id": "rpc:c0:1", "method": "trame.state.get", "args": [], "kwargs": {}})
            )
            state = b""
            while b"waiting for the twin" not in state:
                state += await ws.receive_bytes()
    return status, page, script_status, answer, state


def test_page_is_served_and_joined(served):
    address, process = served
    status, page, script_status, answer, state = asyncio.run(visit(address))
    assert status == 200
    assert "trame" in page
    assert script_status == 200
    assert b"clientID" in answer
    assert b"Reset view" in state or b"status" in state
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) in (0, -signal.SIGINT, 130)


def test_a_port_in_use_is_refused(lumen, port):
    scene = Scene(lumen, size=(640, 400))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(InputError, match=rf"127.0.0.1:{port} .*give another port"):
            serve(scene, lambda: None, port=port)
    with pytest.raises(InputError, match="port 99999"):
        serve(scene, lambda: None, port=99999)
    with pytest.raises(InputError, match=r"cannot serve the page on 203\.0\.113\.7"):
        serve(scene, lambda: None, host="203.0.113.7", port=port)
    with pytest.raises(InputError, match="pictures per second"):
        serve(scene, lambda: None, port=port, pictures_per_second=0.0)
    scene.close()


LIVE = """
import sys, time
from tests_states import next_state
from pathlib import Path
from viewer.scene import Scene
from viewer.web import serve
from viewer.what_if_panel import WhatIfPanel
serve(Scene.from_case(sys.argv[1], size=(900, 500)), next_state, port=int(sys.argv[2]),
      desk=WhatIfPanel("tcp://127.0.0.1:1"), on_ready=lambda address: print("ready", address, flush=True))
"""


@pytest.fixture
def live_program(case, tmp_path, port, state):
    """Starts a program that serves a page, with states to show; returns the page's address."""
    import numpy as np
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 30, (60, 60, 60)).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 2.2))
    image.SetOrigin((-60.0, -60.0, -65.0))
    sitk.WriteImage(image, str(case / "image.nrrd"))
    (tmp_path / "state.bin").write_bytes(msgspec.msgpack.encode(state(flags=("pressure_stale",))))
    (tmp_path / "tests_states.py").write_text(
        "from pathlib import Path\nimport time\nimport msgspec\nfrom streams.messages import TwinState\n"
        f"one = msgspec.msgpack.decode(Path({str(tmp_path / 'state.bin')!r}).read_bytes(), type=TwinState)\n"
        "begin = time.monotonic()\n"
        "def next_state():\n"
        "    t = int((time.monotonic() - begin) * 100)\n"
        "    return msgspec.structs.replace(one, sequence=t, source_time_ns=t * 10_000_000)\n"
    )
    root = Path(__file__).parents[2]
    started = []

    def start(program):
        paths = os.pathsep.join([str(root), str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", program, str(case), str(port)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=root, env=os.environ | {"PYTHONPATH": paths}
        )
        started.append(process)
        return next(line for line in process.stdout if line.startswith("ready")).split()[1]

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=20)


def test_every_control_of_the_page_in_a_browser(live_program, browser):
    api, chromium = browser
    live = live_program(LIVE)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 760})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(live)
        page.wait_for_selector(".control-reset", timeout=60000)
        page.wait_for_function("document.querySelector('.status').textContent.includes('not trusted')", timeout=60000)

        def wait_for(function):
            page.wait_for_function(function, timeout=60000)

        # Conditions that hold are counted on the button; acknowledging leaves none.
        wait_for("/\\(\\d\\)/.test(document.querySelector('.control-acknowledge').textContent)")
        page.click(".control-acknowledge")
        wait_for("document.querySelector('.control-acknowledge').disabled")
        # Keys and a mouse that moves with shift held, which VTK's own remote view keeps to itself.
        page.mouse.move(300, 200)
        for key, shown in (("4", "endoluminal"), ("2", "four up")):
            page.keyboard.press(key)
            wait_for(f"document.querySelector('.control-layout').textContent.includes('{shown}')")
        page.keyboard.press("c")
        wait_for("document.querySelector('.control-quantity').textContent.includes('Pd/Pa')")
        picture = page.query_selector("main img").bounding_box()
        page.keyboard.down("Shift")
        page.mouse.move(picture["x"] + 0.1 * picture["width"], picture["y"] + 0.1 * picture["height"], steps=3)
        page.keyboard.up("Shift")
        wait_for("document.querySelector('.status').textContent.includes('slices not following')")
        page.keyboard.press("Space")
        wait_for("!document.querySelector('.status').textContent.includes('slices not following')")
        for name, choice in (("quantity", "Wall pressure"), ("layout", "endoluminal"), ("layout", "3d")):
            page.click(f".control-{name}")
            page.click(f".v-overlay--active .v-list-item:has-text('{choice}')")
            wait_for(f"document.querySelector('.control-{name}').textContent.includes('{choice}')")
        for name in ("follow", "outline", "anatomy", "reset"):
            page.click(f".control-{name}")
        page.click(".control-what-if")
        page.fill(".control-wish input", "outlet_1c")  # what is typed is no key of the display
        page.click(".control-ask")  # no twin listens there: the dialog says so when the time is up
        wait_for("document.querySelector('.control-ask.v-btn--loading') !== null")
        assert not faults
        opened.close()


BUSY = """
import sys
from pathlib import Path
from tests_states import next_state
from viewer.scene import Scene
from viewer.web import serve
case, drawn = Path(sys.argv[1]), 0
scene = Scene.from_case(case, size=(900, 500))
refresh = scene.refresh
def counted(**more):
    global drawn
    drawn += 1
    (case / "drawn.new").write_text(str(drawn))
    (case / "drawn.new").replace(case / "drawn")
    refresh(**more)
scene.refresh = counted
serve(scene, next_state, port=int(sys.argv[2]), pictures_per_second=100.0,
      on_ready=lambda address: print("ready", address, flush=True))
"""


def paused(counts):
    """Whether none was drawn in three counts after one another."""
    return any(counts[k : k + 3] == [0, 0, 0] for k in range(len(counts) - 2))


async def stall(address, case):
    """Ask for pictures, take none, and count how many are drawn: while nobody looks, then, and when it is let go."""

    def call(number, method, *args):
        said = {"wslink": "1.0", "id": f"rpc:c0:{number}", "method": method, "args": args, "kwargs": {}}
        return framed(said if number else said | {"id": "system:c0:0"})

    async def drawn(seconds):
        before = int((case / "drawn").read_text())
        await asyncio.sleep(seconds)
        return int((case / "drawn").read_text()) - before

    free = await drawn(2.0)
    async with aiohttp.ClientSession() as session, session.ws_connect(address.replace("http", "ws") + "ws") as ws:
        await ws.send_bytes(call(0, "wslink.hello", {"secret": "wslink-secret"}))
        await ws.send_bytes(call(1, "trame.state.get"))
        said = b""
        while not (view := re.search(rb"pictureId.(\d+)", said)):
            said += (await ws.receive(timeout=20)).data
        await ws.send_bytes(call(2, "viewport.image.push.observer.add", view.group(1).decode()))
        taken = 0
        while taken < 300_000:  # pictures do come
            taken += len((await ws.receive(timeout=20)).data or b"")
        ws._response.connection.transport.pause_reading()
        counts = [1]
        while len(counts) < 60 and not (paused(counts) and min(counts[-2:]) > 0):
            counts.append(await drawn(0.5))
    return free, counts


def test_pictures_for_a_browser_that_stalls_do_not_pile_up_and_it_is_let_go(live_program, case):
    free, counts = asyncio.run(stall(live_program(BUSY), case))
    assert free > 3
    assert paused(counts), "pictures were made that nobody took"
    assert min(counts[-2:]) > 0, "the others wait for a browser that is gone"


REPLAY = """
import sys
from tests_states import one
import msgspec
from viewer.player import Player
from viewer.scene import Scene
from viewer.web import serve
states = [msgspec.structs.replace(one, sequence=n, source_time_ns=n * 10_000_000, flags=()) for n in range(60000)]
scene = Scene.from_case(sys.argv[1], size=(640, 400), layout="3d")
player = Player(states, every=scene.remember)
serve(scene, player.next_state, port=int(sys.argv[2]), player=player,
      on_ready=lambda address: print("ready", address, flush=True))
"""


def test_the_time_bar_of_a_replay_in_a_browser(live_program, browser):
    api, chromium = browser
    address = live_program(REPLAY)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 760})
        page.goto(address)
        page.wait_for_selector(".control-play", timeout=60000)

        def wait_for(function):
            page.wait_for_function(function, timeout=60000)

        play = "document.querySelector('.control-play').textContent"
        wait_for(f"{play}.includes('Pause')")
        page.click(".control-play")
        wait_for(f"{play}.includes('Play')")
        box = page.query_selector(".control-time").bounding_box()
        page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        # Ten minutes of states: the middle is at five.
        wait_for("/state (29|30|31)\\d\\d\\d: replay/.test(document.querySelector('.status').textContent)")
        page.click(".control-bookmark")
        page.click(".control-bookmarks")
        wait_for("/[45]:\\d\\d\\.\\d/.test(document.querySelector('.v-overlay--active').textContent)")
        page.keyboard.press("Escape")
        page.click(".control-speed")
        page.click(".v-overlay--active .v-list-item:has-text('10 x')")
        page.click(".control-play")
        wait_for("parseInt(document.querySelector('.status').textContent.split(' ')[1]) > 32000")
        opened.close()
