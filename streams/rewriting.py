"""New recordings from old ones: a part of one, and one without the patient.

Both are written under a temporary name first; the original is never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streams.errors import InputError
from streams.events import Event, Malformed, event_from_frame
from streams.messages import (
    Heartbeat,
    ImageFrame,
    Message,
    Note,
    ProcedureEnd,
    SessionStart,
    TwinState,
    decode,
)
from streams.recorder import RecordingWriter
from streams.recording import RecordingScan, StateFrame
from streams.wire import pack

ANONYMOUS_EPOCH_NS = 946_684_800_000_000_000
"""2000-01-01, where an anonymized recording begins."""

GRID_NS = 60_000_000_000
"""Times are moved by whole minutes: the session's steps are a divisor of it, so its results stay the same."""

BEGINS_LATER = "begins_later"
"""Metadata of a recording whose beginning was cut off: its states cannot be computed again."""


@dataclass(frozen=True)
class Rewritten:
    """What was written."""

    events: int
    states: int
    left_out: int
    head: str


def _rewrite(
    source: Path,
    target: Path,
    metadata: Callable[[dict[str, str]], dict[str, str]],
    change: Callable[[Event | StateFrame], Event | StateFrame | None],
) -> Rewritten:
    """Write what ``change`` gives for each entry; None leaves it out."""
    if target.exists():
        raise InputError(f"{target} exists, and a recording is never written over; name another file.")
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    scan = RecordingScan(source)
    entries = scan.entries()
    events = states = left_out = beginnings = 0
    try:
        first = next(entries, None)
        with RecordingWriter(temporary, metadata=metadata(scan.metadata)) as writer:
            item = first
            while item is not None:
                changed = change(item)
                if changed is None:
                    left_out += 1
                elif isinstance(changed, StateFrame):
                    writer.add_state(changed.frame, changed.time_ns)
                    states += 1
                else:
                    writer.add_event(changed.numbered(events))
                    events += 1
                    beginnings += isinstance(changed.message, SessionStart)
                item = next(entries, None)
            if events <= beginnings:
                raise InputError(f"nothing of {source} is left with these limits; check --from and --to.")
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); name another file.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Rewritten(events, states, left_out, writer.chain.head.hex())


def cut(source: Path, target: Path, *, begin_s: float = 0.0, end_s: float | None = None) -> Rewritten:
    """Write the part of a recording between two times after its beginning [s].

    The session's start is always kept. From a part that begins later the session cannot come to the recorded states,
    which depend on what was before: they are kept to look at, and the recording says so.

    Raises:
        InputError: the source cannot be read, the target exists, or nothing is left.
    """
    if not begin_s >= 0 or (end_s is not None and not end_s > begin_s):  # so that nan is refused too
        raise InputError("--from must not be negative, and --to must be after it.")
    start_ns: int | None = None

    def describe(metadata: dict[str, str]) -> dict[str, str]:
        described = {**metadata, "cut_from": source.name, "cut_begin_s": f"{begin_s:g}"}
        if end_s is not None:
            described["cut_end_s"] = f"{end_s:g}"
        if begin_s > 0 or BEGINS_LATER in metadata:
            described[BEGINS_LATER] = "true"
        return described

    def choose(item: Event | StateFrame) -> Event | StateFrame | None:
        nonlocal start_ns
        time_ns = item.time_ns if isinstance(item, StateFrame) else item.receive_time_ns
        start_ns = time_ns if start_ns is None else start_ns
        since = (time_ns - start_ns) * 1e-9
        if isinstance(item, Event) and isinstance(item.message, SessionStart):
            return item
        return item if since >= begin_s and (end_s is None or since <= end_s) else None

    return _rewrite(source, target, describe, choose)


def anonymize(source: Path, target: Path, *, keep_images: bool = False) -> Rewritten:
    """Write a recording without what tells who the patient was, and when and where it was.

    All times are moved so that it begins on 2000-01-01; notes, images, free texts and frames that were no message are
    emptied, and the case's path is left out. Events stay where they were and times move by whole minutes, so that a
    replay gives the same states. Names of streams, devices, tools and fiducials stay: they are how the recording works.

    Raises:
        InputError: the source cannot be read, or the target exists.
    """
    shift_ns: int | None = None

    def describe(metadata: dict[str, str]) -> dict[str, str]:
        kept = ("software", "case_hash", "seed", BEGINS_LATER)
        return {name: value for name, value in metadata.items() if name in kept} | {"anonymized": "true"}

    def change(item: Event | StateFrame) -> Event | StateFrame | None:
        nonlocal shift_ns
        if isinstance(item, StateFrame):
            if shift_ns is None:
                return None
            state = decode(item.frame.partition(b"\0")[2])
            assert isinstance(state, TwinState)
            moved = msgspec.structs.replace(
                state,
                source_time_ns=state.source_time_ns - shift_ns,
                model_time_ns=state.model_time_ns - shift_ns if state.model_time_ns else 0,
            )
            return StateFrame(item.number, item.time_ns - shift_ns, pack(moved))
        if shift_ns is None:
            shift_ns = (item.receive_time_ns - ANONYMOUS_EPOCH_NS) // GRID_NS * GRID_NS
        message = item.message
        received = item.receive_time_ns - shift_ns
        if isinstance(message, Malformed):
            # What it says is not known; that it came is, and the session counts it.
            return Event(item.index, received, b"", Malformed("taken out", "", message.kind))
        moved_message = msgspec.structs.replace(message, source_time_ns=message.source_time_ns - shift_ns)
        cleaned = _emptied(moved_message, keep_images=keep_images)
        moved_event = event_from_frame(item.index, received, pack(cleaned))
        return moved_event.marked(late=item.late, superseded=item.superseded)

    return _rewrite(source, target, describe, change)


def _emptied(message: Message, *, keep_images: bool) -> Message:
    """A message without its free text or its picture. It stays, since the session counts what came."""
    match message:
        case Note():
            return msgspec.structs.replace(message, source="", text="")
        case ImageFrame() if not keep_images:
            return msgspec.structs.replace(message, width=1, height=1, pixel_format="mono8", data=b"\0")
        case Heartbeat():
            return msgspec.structs.replace(message, status="")
        case ProcedureEnd():
            return msgspec.structs.replace(message, reason="")
        case _:
            return message
