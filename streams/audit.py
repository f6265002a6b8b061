"""The audit log: who did what when, in a file that is only ever added to.

One JSON object per line, each with the hash of the line before it:

    hash_n = SHA-256(hash_(n-1) | the line's other fields as JSON with sorted keys)

A line that was changed or taken out breaks the chain at its place. Taking lines away from the end cannot be seen from
the file alone; the last hash that was noted elsewhere shows it.
"""

import fcntl
import getpass
import hashlib
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.errors import InputError

log = logging.getLogger(__name__)

FIRST = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log."""

    time_ns: int
    who: str
    what: str
    details: dict[str, Any]
    previous: str
    hash: str


def operator() -> str:
    """Who runs this program, as far as the machine knows: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps({name: value for name, value in fields.items() if name != "hash"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def note(path: Path, what: str, *, who: str | None = None, **details: Any) -> str:
    """Add a line to a log, which is made if it is not there; returns the line's hash.

    Several programs may write to one log: each locks it while it adds its line, and the line is on the disk when
    this returns.

    Raises:
        InputError: the log cannot be written.
    """
    try:
        with path.open("a+", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            last, ended = _last_line(path)
            if not ended:
                stream.write("\n")
            fields: dict[str, Any] = {
                "time_ns": time.time_ns(),
                "who": who or operator(),
                "what": what,
                "details": details,
                "previous": FIRST if last is None else _line_hash(last),
            }
            fields["hash"] = _hash(fields)
            stream.write(json.dumps(fields) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"the audit log {path} cannot be written ({error.strerror}).") from error
    return str(fields["hash"])


class AuditWriter:
    """Adds lines from a thread of its own, so that a slow disk never delays who has something to say.

    A log that cannot be written is told to the program's own log, and ends nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[str, str | None, dict[str, Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def note(self, what: str, *, who: str | None = None, **details: Any) -> None:
        """Add a line; returns at once."""
        self._queue.put((what, who, details))

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            what, who, details = item
            try:
                note(self._path, what, who=who, **details)
            except InputError as error:
                log.error("%s", error)


def _line_hash(line: str) -> str:
    """The hash that a line states; of one that was cut off while it was written, the hash of what there is."""
    try:
        return str(json.loads(line)["hash"])
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(line.encode()).hexdigest()


def _last_line(path: Path) -> tuple[str | None, bool]:
    """The last line of a log, if there is one, and whether it was ended."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end == 0:
            return None, True
        reach = 4096
        while True:
            begin = max(0, end - reach)
            stream.seek(begin)
            text = stream.read()
            lines = text.splitlines()
            if len(lines) > 1 or begin == 0:
                return lines[-1].decode(errors="replace"), text.endswith(b"\n")
            reach *= 4


def read_audit(path: Path) -> tuple[list[AuditEntry], str | None]:
    """All lines of a log, and the first fault of its chain in words, or None.

    Raises:
        InputError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an audit log ({error}); check the path.") from error
    entries: list[AuditEntry] = []
    fault: str | None = None
    previous = FIRST
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            entry = AuditEntry(**fields)
        except (ValueError, TypeError):
            fault = fault or f"line {number} is no entry of an audit log"
            previous = _line_hash(line)
            continue
        if fault is None and entry.previous != previous:
            fault = f"line {number} does not follow the one before it: a line has been taken out, added or moved"
        elif fault is None and entry.hash != _hash(fields):
            fault = f"line {number} is not as it was written"
        previous = entry.hash
        entries.append(entry)
    return entries, fault
