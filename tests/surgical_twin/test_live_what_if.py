"""What-if questions to a running twin over its command channel, on the planned case."""

import json
import threading
import time

import pytest

from streams.command_channel import ClockTime, CommandClient, Intervention, StateNow, WhatIf
from surgical_twin.case import Case
from surgical_twin.demo import free_endpoint
from surgical_twin.errors import InputError
from surgical_twin.live import Endpoints, LiveLoop
from surgical_twin.prediction import live_what_if
from surgical_twin.prediction.live_what_if import WhatIfDesk
from surgical_twin.session_model import SessionModel


@pytest.fixture
def twin(planned):
    """The command endpoint of a twin on the planned case."""
    folder = planned.folder / "case"
    endpoints = Endpoints(free_endpoint(), free_endpoint(), free_endpoint())
    loop = LiveLoop(SessionModel.load(Case.open(folder)), seed=0, endpoints=endpoints, record=None, case=str(folder))
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield endpoints.commands
    loop.stop()
    thread.join()


def test_a_question_is_answered_as_the_command_does_while_the_session_goes_on(twin, planned):
    asking, watching = CommandClient(twin), CommandClient(twin)
    replies = []
    question = WhatIf(interventions=(Intervention("clamp", "outlet_2"), Intervention("svr", "+20%")), hold="flow")
    asked = threading.Thread(target=lambda: replies.append(asking.ask(question, timeout_s=180)))
    while (before := watching.ask(StateNow(), timeout_s=60).result) is None:  # its ensemble is drawn first
        time.sleep(0.02)
    asked.start()
    meanwhile = 0
    while asked.is_alive():
        meanwhile += watching.ask(ClockTime(), timeout_s=10).ok
        asked.join(0.05)
    after = watching.ask(StateNow()).result
    (reply,) = replies
    assert reply.ok, reply.reason
    assert meanwhile > 10
    assert after["sequence"] > before["sequence"] + 10
    wishes = ("--clamp", "outlet_2", "--svr", "+20%", "--hold", "flow")
    done = planned.run("what-if", "case", *wishes, "--json", "asked.json")
    assert done.returncode == 0, done.stderr
    (expected,) = json.loads((planned.folder / "asked.json").read_text(encoding="utf-8")).values()
    assert reply.result["interventions"] == expected["interventions"]
    assert reply.result["quantities"].keys() == expected["quantities"].keys()
    for name, change in expected["quantities"].items():
        for when, estimate in change.items():
            assert reply.result["quantities"][name][when] == pytest.approx(estimate, rel=1e-6, abs=1e-6), name
    refused = asking.ask(WhatIf(interventions=(Intervention("clamp", "outlet_9"),)), timeout_s=60)
    assert not refused.ok
    assert "outlet_9" in refused.reason
    assert "no intervention" in asking.ask(WhatIf(interventions=(Intervention("dance", "x"),)), timeout_s=60).reason
    for client in (asking, watching):
        client.close()


def test_a_desk_takes_some_questions_at_once_survives_its_process_and_closes_with_questions_open(planned, monkeypatch):
    desk = WhatIfDesk(planned.folder / "case")
    wishes = (("clamp", "outlet_2"),)
    waiting = [desk.ask((("dance", "x"),), "flow", None) for _ in range(live_what_if.MOST_WAITING)]
    with pytest.raises(InputError, match="wait already"):
        desk.ask(wishes, "flow", None)
    for future in waiting:
        with pytest.raises(InputError, match="no intervention"):
            future.result(180)
    monkeypatch.setattr(live_what_if, "LONGEST_S", 0.0)
    with pytest.raises(InputError, match="given up"):
        desk.ask(wishes, "flow", None).result(60)
    monkeypatch.undo()
    assert desk.ask(wishes, "flow", None).result(180)["interventions"] == ["clamp outlet_2"]  # by a new process
    left = desk.ask(wishes, "flow", None)
    desk.close()
    assert left.cancelled() or isinstance(left.exception(10), InputError)
