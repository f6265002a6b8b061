"""Keys and the list of who is allowed: a folder with a key pair for each client and one list for the twin.

    keys/twin.key, twin.key_secret        the twin's own pair
    keys/NAME.key, NAME.key_secret        a client's pair; the secret half belongs on the client's machine only
    keys/allow.toml                       who may do what

Key files are ZeroMQ's own certificates (ZPL), which every binding of ZeroMQ reads.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w
import zmq.auth

from streams.errors import InputError
from streams.roles import ROLES

TWIN = "twin"
ALLOW_LIST = "allow.toml"
KEY_LENGTH = 40


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the list."""

    name: str
    public_key: str
    """40 characters of Z85"""
    roles: tuple[str, ...]


class _AllowFile(msgspec.Struct, forbid_unknown_fields=True):
    client: tuple[Client, ...] = ()


@dataclass(frozen=True)
class AllowList:
    """Who may do what, by public key."""

    clients: dict[bytes, Client]

    def find(self, public_key: bytes) -> Client | None:
        """The client with a key (Z85), or None."""
        return self.clients.get(public_key)

    def named(self, name: str) -> Client | None:
        """The client of a name, or None."""
        return next((client for client in self.clients.values() if client.name == name), None)


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both halves as Z85."""

    public: bytes
    secret: bytes


def check_name(name: str) -> None:
    """Refuse a name that cannot be a file's.

    Raises:
        InputError: it is empty or has other characters than letters, digits, - and _.
    """
    if not name or len(name) > 60 or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise InputError(f'"{name}" cannot name a key: use letters, digits, - and _.')


def make_pair(folder: Path, name: str) -> Path:
    """Make a key pair in a folder; returns the secret half's file, which only its owner may read.

    Raises:
        InputError: there is one of this name, or the folder cannot be written to.
    """
    check_name(name)
    secret = folder / f"{name}.key_secret"
    if secret.exists() or (folder / f"{name}.key").exists():
        raise InputError(f"{folder} has a key of {name}; revoke it first, or choose another name.")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = os.umask(0o077)
        try:
            zmq.auth.create_certificates(folder, name)
        finally:
            os.umask(before)
        (folder / f"{name}.key").chmod(0o644)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); choose another folder.") from error
    return secret


def load_pair(folder: Path, name: str) -> KeyPair:
    """A key pair from a folder.

    Raises:
        InputError: the secret half is missing, damaged, or readable by others.
    """
    path = folder / f"{name}.key_secret"
    try:
        public, secret = zmq.auth.load_certificate(path)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a key ({error}); make one with surgical-twin keys {folder} --new {name}."
        ) from error
    if secret is None or len(secret) != KEY_LENGTH or len(public) != KEY_LENGTH:
        raise InputError(f"{path} holds no secret key; make one with surgical-twin keys {folder} --new {name}.")
    if mode & 0o077:
        raise InputError(f"{path} can be read by others on this machine; take that away (chmod 600 {path}).")
    return KeyPair(public, secret)


def load_public(folder: Path, name: str) -> bytes:
    """The public half of a key.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / f"{name}.key"
    try:
        public, _ = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a public key ({error}); copy it from the twin's machine."
        ) from error
    return public


def read_allow_list(folder: Path) -> AllowList:
    """The list of a folder; empty where there is none.

    Raises:
        InputError: it cannot be read, names an unknown role, or has a key or a name twice.
    """
    path = folder / ALLOW_LIST
    if not path.exists():
        return AllowList({})
    try:
        listed = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _AllowFile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path} cannot be read as an allow list: {error}; mend it.") from error
    clients: dict[bytes, Client] = {}
    for client in listed.client:
        unknown = [role for role in client.roles if role not in ROLES]
        if unknown:
            raise InputError(f'{path} gives {client.name} the role "{unknown[0]}"; roles are {", ".join(ROLES)}.')
        key = client.public_key.encode("ascii", "replace")
        if len(key) != KEY_LENGTH:
            raise InputError(f"{path} has a key of {len(key)} characters for {client.name}; a key has {KEY_LENGTH}.")
        if key in clients or any(client.name == other.name for other in clients.values()):
            raise InputError(f"{path} has {client.name} or its key twice; take one out.")
        clients[key] = client
    return AllowList(clients)


def _write_allow_list(folder: Path, clients: list[Client]) -> None:
    path = folder / ALLOW_LIST
    temporary = path.with_name(f".{path.name}.part")
    content = {"client": [msgspec.to_builtins(client) for client in clients]}
    temporary.write_text(tomli_w.dumps(content), encoding="utf-8")
    temporary.replace(path)


def allow(folder: Path, name: str, roles: tuple[str, ...], *, public_key: bytes | None = None) -> Client:
    """Make a client's key pair (unless it brings a public key) and put it on the list.

    Raises:
        InputError: a role is unknown, the name is taken, or a file cannot be read or written.
    """
    if name == TWIN:
        raise InputError(f'"{TWIN}" is the twin itself; choose another name for a client.')
    for role in roles:
        if role not in ROLES:
            raise InputError(f'"{role}" is no role; roles are {", ".join(ROLES)}.')
    if not roles:
        raise InputError(f"{name} needs a role: give --role once or more; roles are {', '.join(ROLES)}.")
    check_name(name)
    listed = read_allow_list(folder)
    if listed.named(name) is not None:
        raise InputError(f"{name} is on the list of {folder}; revoke it first, or choose another name.")
    if not (folder / f"{TWIN}.key_secret").exists() and not (folder / f"{TWIN}.key").exists():
        make_pair(folder, TWIN)
    if public_key is None:
        make_pair(folder, name)
        public_key = load_public(folder, name)
    client = Client(name, public_key.decode("ascii"), roles)
    _write_allow_list(folder, [*listed.clients.values(), client])
    return client


def revoke(folder: Path, name: str) -> None:
    """Take a client off the list, and delete its key files in the folder.

    Raises:
        InputError: it is not on the list.
    """
    listed = read_allow_list(folder)
    if listed.named(name) is None:
        raise InputError(f"{name} is not on the list of {folder}; it allows {_names(listed)}.")
    _write_allow_list(folder, [client for client in listed.clients.values() if client.name != name])
    for ending in (".key", ".key_secret"):
        (folder / f"{name}{ending}").unlink(missing_ok=True)


def _names(listed: AllowList) -> str:
    return ", ".join(client.name for client in listed.clients.values()) or "nobody"
