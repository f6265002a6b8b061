"""What the commands on the twin's sockets share: where these are, with which keys, and how a person ends it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from streams.roles import BRIDGE, SIMULATOR, VIEWER
from streams.security import ClientSecurity, ServerSecurity, client_security, new_client, server_security
from surgical_twin.errors import InputError

DEVICES = "tcp://127.0.0.1:5590"
STATES = "tcp://127.0.0.1:5591"


def _client_help(name: str) -> str:
    return f"Folder with the key of a client named {name} and the twin's public key."


DevicesAt = Annotated[str, typer.Option("--devices", help="Where devices connect to.")]
StatesAt = Annotated[str, typer.Option("--states", help="Where the twin publishes its states.")]
TwinKeys = Annotated[Path | None, typer.Option("--keys", help="Folder of keys: only clients on its list are let in.")]
SimulatorKeys = Annotated[Path | None, typer.Option("--keys", help=_client_help(SIMULATOR))]
BridgeKeys = Annotated[Path | None, typer.Option("--keys", help=_client_help(BRIDGE))]
ViewerKeys = Annotated[Path | None, typer.Option("--keys", help=_client_help(VIEWER))]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow plain text beyond this machine; the twin's states say so.")
]


@contextmanager
def guarding(keys: Path | None, *, insecure: bool) -> Iterator[ServerSecurity | None]:
    """The twin's security while it runs; None for plain text.

    Raises:
        InputError: keys and plain text are both asked for, or the keys cannot be read.
    """
    _check(keys, insecure)
    security = None if keys is None else server_security(keys)
    try:
        yield security
    finally:
        if security is not None:
            security.close()


def display_key(keys: Path | None, *, insecure: bool) -> ClientSecurity | None:
    """A new key for the twin's own display, to be admitted by `ServerSecurity.admit`; None for plain text.

    Raises:
        InputError: keys and plain text are both asked for, or the twin's public key cannot be read.
    """
    _check(keys, insecure)
    return None if keys is None else new_client(keys)


def as_client(keys: Path | None, name: str, *, insecure: bool = False) -> ClientSecurity | None:
    """A client's security; None for plain text.

    Raises:
        InputError: keys and plain text are both asked for, or the keys cannot be read.
    """
    _check(keys, insecure)
    return None if keys is None else client_security(keys, name)


def _check(keys: Path | None, insecure: bool) -> None:
    if keys is not None and insecure:
        raise InputError("--keys and --insecure say opposite things; give one of them.")


def ends_with(stop: Callable[[], None]) -> None:
    """End by Ctrl-C or a request to terminate, in good order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
