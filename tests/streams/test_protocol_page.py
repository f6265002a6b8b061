"""The client on the protocol's page works against the real socket."""

import re
import subprocess
import sys
import time
from pathlib import Path

from streams.command_channel import REQUEST_TYPES
from streams.messages import MESSAGE_TYPES, OWN_TYPES, PressureSamples, TwinState
from streams.roles import MESSAGES
from streams.schemas import schema_files
from streams.sockets import Subscriber
from streams.wire import unpack

PORT = 56432
PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def test_the_client_on_the_page_is_understood(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(script.splitlines()) <= 30
    assert "streams" not in re.findall(r"import (\w+)", script)
    script = script.replace("5590", str(PORT))
    subscriber = Subscriber(f"tcp://127.0.0.1:{PORT}", bind=True)
    try:
        with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path) as process:
            frames, deadline = [], time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                frames += subscriber.receive(100)
        frames += subscriber.receive(500)
    finally:
        subscriber.close()
    messages = [unpack(frame) for _, frame in frames]
    assert len(messages) > 100
    assert all(isinstance(message, PressureSamples) for message in messages)
    assert messages[-1].sequence == 199


def test_the_page_names_every_type_and_every_field():
    text = PAGE.read_text(encoding="utf-8")
    for kind in MESSAGE_TYPES:
        assert kind.__name__ in text
        if kind not in OWN_TYPES or kind is TwinState:
            for name in kind.__struct_fields__:
                assert f"`{name}`" in text, f"{kind.__name__}.{name}"


def test_the_schema_files_are_those_of_the_code():
    folder = PAGE.parent / "schemas"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")} == schema_files(), (
        "run python -m streams.schemas docs/schemas"
    )


def test_the_page_names_every_request_and_role():
    text = PAGE.read_text(encoding="utf-8")
    for kind in REQUEST_TYPES:
        assert f"`{kind.__name__}`" in text
        assert all(f"`{name}`" in text for name in kind.__struct_fields__)
    for role, kinds in MESSAGES.items():
        (row,) = re.findall(rf"^\| `{role}` \|.*$", text, re.MULTILINE)
        assert all(kind.__name__ in row for kind in kinds)
