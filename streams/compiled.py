"""The two loops that every frame passes, compiled (`short_way.c`): from socket to bytes, and from frame to event,
with the plainest messages (`plain_messages.c`).

They are compiled where they run, against the headers of the Python that runs, and kept in a cache. Where that cannot
be (no C compiler, no headers, another ZeroMQ than pyzmq's own) the same loops in Python do it: `Subscriber` and
`Intake` hold them. What comes out is the same.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

import zmq

from streams.session_clock import EPOCH_NS

log = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("short_way.c", "plain_messages.c"))
HEADER = Path(__file__).with_name("plain_messages.h")
FLAGS = ("-O2", "-std=gnu11", "-shared", "-fPIC")
LONGEST_S = 60.0
"""A compiler that takes longer hangs."""

_ZMQ_FUNCTIONS = ("msg_init", "msg_recv", "msg_close", "msg_data", "msg_size", "msg_gets", "errno")
_ZMQ_VERSIONS = ((4, 1), (5, 0))
"""from the first to before the second messages are laid out as the source says"""

Receive = Callable[[int, int, bool], tuple[list[int], list[bytes], list[str] | None, int]]
"""Of a socket's address, how many parts at most (it takes fewer) and whether their senders are asked for: when each of
the parts that are there was taken [ns by the session's clock], the parts, their senders, and the error of ZeroMQ that
ended them or 0."""


@cache
def short_way() -> Any:
    """The compiled module, or None where it cannot be had."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    try:
        path = _library(_folder())
        spec = importlib.util.spec_from_file_location(
            "short_way", path, loader=ExtensionFileLoader("short_way", str(path))
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        log.info("frames are received without compiled code, which is slower: %s", error)
        return None
    return module


@cache
def compiled_receive() -> Receive | None:
    """Takes what is there from a socket, where that can be had."""
    module = short_way()
    if (
        module is None
        or sys.platform != "linux"
        or not _ZMQ_VERSIONS[0] <= zmq.zmq_version_info()[:2] < _ZMQ_VERSIONS[1]
    ):
        return None
    try:
        from zmq.backend.cython import _zmq

        # The very library that pyzmq works with: a socket of one is none of another.
        library = ctypes.CDLL(_zmq.__file__)
        functions = [getattr(library, f"zmq_{name}") for name in _ZMQ_FUNCTIONS]
    except (ImportError, OSError, AttributeError) as error:
        log.info("frames are received without compiled code, which is slower: %s", error)
        return None
    module.use(EPOCH_NS, *(ctypes.cast(function, ctypes.c_void_p).value for function in functions))
    receive: Receive = module.receive
    return receive


def _library(folder: Path) -> Path:
    """The compiled source, from the cache or made anew.

    Raises:
        OSError: there is no compiler, or no place for what it makes.
        subprocess.SubprocessError: it fails.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    words = [*compiler, *FLAGS, f"-I{sysconfig.get_path('include')}", *map(str, SOURCES)]
    described = "\0".join(
        [*(path.read_text() for path in (*SOURCES, HEADER)), *words, sys.version, sysconfig.get_platform()]
    )
    name = f"{SOURCES[0].stem}_{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    path = folder / f"{name}.so"
    if not path.is_file():
        # Under a name of its own and renamed: several processes may compile at a time.
        handle, temporary = tempfile.mkstemp(prefix=f".{name}", dir=folder)
        os.close(handle)
        try:
            subprocess.run([*words, "-o", temporary, "-lm"], capture_output=True, check=True, timeout=LONGEST_S)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path


def _folder() -> Path:
    """Where it is kept: the user's cache, or a folder for this process's life where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surgical-twin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="surgical-twin-"))
