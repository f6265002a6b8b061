import socket
import threading
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from streams.command_channel import CommandServer, NotAvailable, WhatIf
from streams.keys import allow
from streams.roles import WATCH
from streams.security import client_security, new_client, server_security
from surgical_twin import display
from viewer import colors, what_if_panel
from viewer.before_after import draw_before_after, groups
from viewer.errors import InputError
from viewer.film import FRAMES_PER_S, write_film
from viewer.scene import Scene
from viewer.side_by_side import AFTER, BEFORE
from viewer.what_if_panel import WhatIfPanel, answer_rows

SIZE = (481, 270)


@pytest.fixture(scope="module")
def scene(lumen):
    scene = Scene(lumen, size=SIZE)
    yield scene
    scene.close()


def frames_of(path):
    film = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, frame = film.read()
        if not good:
            return np.array(frames), film.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


def test_a_film_lasts_as_long_as_the_procedure_and_shows_each_moment(scene, state, tmp_path):
    path = tmp_path / "film.mp4"
    times = [t for t in np.arange(0.0, 2.0, 0.01) if not 1.0 < t < 1.4]  # the twin said nothing for a while
    states = [
        state(
            sequence=n,
            source_time_ns=round((100.0 + t) * 1e9),
            flags=("pressure_stale",) if t > 1.6 else (),
            tip=None,
            tip_covariance=None,
        )
        for n, t in enumerate(times)
    ]
    count = write_film(path, scene, states)
    frames, rate = frames_of(path)
    assert rate == FRAMES_PER_S
    assert count == len(frames) == 50
    assert frames.shape[1:] == (270, 480, 3)
    red = [(np.abs(f[:14, :300].astype(int) - (198, 47, 59)).max(axis=2) < 40).mean() for f in frames]
    assert max(red[:38]) < 0.05
    assert min(red[42:]) > 0.3
    write_film(path, scene, states, speed=4.0)
    assert len(frames_of(path)[0]) == 13


def test_films_that_cannot_be_written_are_refused(scene, state, tmp_path):
    for path, words in ((tmp_path / "a.avi", r"end in \.mp4"), (tmp_path / "no" / "a.mp4", "does not exist")):
        with pytest.raises(InputError, match=words):
            write_film(path, scene, [state()])
    with pytest.raises(InputError, match="times the speed"):
        write_film(tmp_path / "a.mp4", scene, [state()], speed=0.0)
    with pytest.raises(InputError, match="no states"):
        write_film(tmp_path / "a.mp4", scene, [])
    assert list(tmp_path.iterdir()) == []


ANSWER = {
    "quantities": {
        "mean pressure outlet_1 [mmHg]": {
            "before": {"value": 80.0, "lower": 76.0, "upper": 84.0},
            "after": {"value": 90.5, "lower": 86.0, "upper": 95.0},
            "change": {"value": 10.5, "lower": 9.0, "upper": 12.0},
        }
    },
    "notes": ["outside of the trained range"],
}


def test_answers_are_rows_with_their_intervals():
    assert answer_rows(ANSWER) == [
        ["mean pressure outlet 1 [mmHg]", "80.0 [76.0 to 84.0]", "90.5 [86.0 to 95.0]", "10.5 [9.0 to 12.0]"],
        ["note", "outside of the trained range", "", ""],
    ]
    assert answer_rows({"quantities": {"x": {"before": {"value": "y"}}}}) == [["x", "–", "–", "–"]]
    assert answer_rows(None)[0][0] == "not understood"


def test_the_picture_of_an_answer_has_the_two_bars_where_the_numbers_are():
    def three(before, after, change):
        return {
            name: dict(zip(("value", "lower", "upper"), values, strict=True))
            for name, values in (("before", before), ("after", after), ("change", change))
        }

    answer = {
        "mean pressure a [mmHg]": three((60, 50, 70), (100, 90, 110), (40, 38, 42)),
        "mean pressure b [mmHg]": three((80, 70, 90), (80, 70, 90), (0, -1, 1)),
        "systolic pressure a [mmHg]": three((1, 0, 2), (1, 0, 2), (0, -1, 1)),
        "no unit": three((1, 0, 2), (1, 0, 2), (0, -1, 1)),
        "not finite [mmHg]": three((float("nan"), 0, 2), (1, 0, 2), (0, -1, 1)),
        "odd [mmHg]": 3,
    }
    assert [row.what for row in groups(answer)["mmHg"]] == ["mean pressure a", "mean pressure b"]
    picture = draw_before_after(answer)[50:, 225:480]
    bars = []
    for color in (BEFORE, AFTER):
        mask = (np.abs(picture.astype(int) - colors.rgb(color)).max(axis=2) < 10).astype(np.uint8)
        found = cv2.connectedComponentsWithStats(mask)[2][1:]
        bars.append(sorted((b for b in found.tolist() if b[2] > 30), key=lambda b: b[1]))  # left, top, wide, tall, area
    (before_a, before_b), (after_a, after_b) = bars
    # One scale: a's bars are as wide as b's, and 40 mmHg apart where a bar is 20 wide.
    widths = [b[2] for b in (before_a, before_b, after_a, after_b)]
    assert max(widths) - min(widths) <= 2
    assert after_a[0] - before_a[0] == pytest.approx(2.0 * widths[0], abs=4)
    assert after_b[0] == pytest.approx(before_b[0], abs=1)
    assert before_a[1] < after_a[1] < before_b[1] < after_b[1]
    assert draw_before_after({"odd": 3}) is None


def free_endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def answering(server, answer):
    """A twin's command channel that is served until the end of the block."""
    stop = threading.Event()

    def run():
        while not stop.is_set():
            server.serve(answer)
            time.sleep(0.005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()


def test_the_panel_asks_over_the_command_channel_and_never_raises():
    endpoint = free_endpoint()
    asked = []

    def answer(request, _caller):
        assert isinstance(request, WhatIf)
        asked.append([(one.kind, one.value) for one in request.interventions])
        if request.interventions[0].kind == "clamp":
            raise NotAvailable("there is no vessel of that name")
        return ANSWER

    with answering(CommandServer(endpoint), answer):
        panel = WhatIfPanel(endpoint)
        answer = panel.ask("stent", "stenosis_1=10%")
        assert answer.rows == answer_rows(ANSWER)
        assert answer.picture is not None
        assert panel.ask("clamp", "nowhere").rows == [["not answered", "there is no vessel of that name", "", ""]]
        assert panel.ask("stent", "x" * 1000).rows[0][0] == "not answered"  # longer than the channel allows
    assert asked[:2] == [[("stent", "stenosis_1=10%")], [("clamp", "nowhere")]]


def test_the_display_of_a_twin_with_keys_may_ask_and_others_are_told_why_not(tmp_path, monkeypatch):
    """The display's own key only watches: a question changes nothing, so it is answered."""
    keys = tmp_path / "keys"
    allow(keys, "tracker", ("publish poses",))
    security = server_security(keys)
    own = new_client(keys)
    security.admit("display", (WATCH,), own)
    endpoint = free_endpoint()
    monkeypatch.setattr(what_if_panel, "LONGEST_S", 5.0)
    with answering(CommandServer(endpoint, security=security), lambda request, caller: ANSWER):
        assert WhatIfPanel(endpoint, security=own).ask("svr", "+20%").rows == answer_rows(ANSWER)
        refused = WhatIfPanel(endpoint, security=client_security(keys, "tracker")).ask("svr", "+20%")
    security.close()
    assert refused.rows[0][0] == "not answered"
    assert "refused" in refused.rows[0][1]


@pytest.mark.parametrize(("web", "commands", "handed"), [
    (True, "tcp://*:5592", "tcp://127.0.0.1:5592"),
    (True, None, None),
    (False, "tcp://127.0.0.1:5592", None),  # the window has no panel
])  # fmt: skip
def test_live_hands_its_command_channel_to_the_page(web, commands, handed, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(display.subprocess, "Popen", lambda command, env: started.append(command))
    display.start_display(tmp_path, "tcp://127.0.0.1:5591", window=not web, web=web, commands=commands)
    (command,) = started
    assert (command[command.index("--commands") + 1] if "--commands" in command else None) == handed
