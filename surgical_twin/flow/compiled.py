"""C sources of this package as libraries, compiled where they run, for its very processor, and kept in a cache.

DOLFINx needs a C compiler for its forms as well, so that this asks for nothing new.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from surgical_twin.errors import InputError

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=gnu99", "-shared", "-fPIC")


@cache
def library(source: Path, *definitions: str) -> ctypes.CDLL:
    """The library of a C source with some macros defined ("DIM=3").

    Raises:
        InputError: there is no C compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    flags = [*FLAGS, *(f"-D{definition}" for definition in definitions)]
    described = "\0".join([source.read_text(), *compiler, *flags, _processor()])
    path = _folder() / f"{source.stem}_{hashlib.sha256(described.encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        # Under a name of its own and renamed: several processes may compile at a time.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}", dir=path.parent)
        os.close(handle)
        try:
            _compile([*compiler, *flags, str(source), "-o", temporary, "-lm"])
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return ctypes.CDLL(str(path))


def _compile(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        raise InputError(
            f"The flow solver needs a C compiler, and {words[0]} cannot be run ({error.strerror}); install gcc or name "
            "one in the environment variable CC."
        ) from error
    if done.returncode:
        complaint = (done.stderr.strip() or "it says nothing").splitlines()[0]
        raise InputError(f"The C compiler {words[0]} fails on {words[-4]} ({complaint}); name another one in CC.")


def _folder() -> Path:
    """Where libraries are kept: the user's cache, or a folder for this process's life where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surgical-twin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary()
    return folder if os.access(folder, os.W_OK) else _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="surgical-twin-"))


def _processor() -> str:
    """What tells processors apart whose code differs: a home folder may be shared by many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
