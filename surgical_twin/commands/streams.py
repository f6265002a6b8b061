"""Commands around the streams: recordings, keys, bridges to other protocols."""

import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from streams.roles import BRIDGE, SIMULATOR
from surgical_twin.commands.console import err, out, read_numbers
from surgical_twin.commands.network import (
    DEVICES,
    STATES,
    BridgeKeys,
    DevicesAt,
    Insecure,
    SimulatorKeys,
    StatesAt,
    TwinKeys,
    as_client,
    ends_with,
    guarding,
)
from surgical_twin.errors import InputError

RecordingFile = Annotated[Path, typer.Argument(help="MCAP file that live or record wrote.")]
NewRecording = Annotated[Path, typer.Argument(help="The new MCAP file.")]


def show_recording(recording: Path) -> None:
    """Say what a recording holds, stream by stream."""
    from streams.summary import summarize

    summary = summarize(recording)
    table = Table(title=str(recording))
    table.add_column("stream", no_wrap=True)
    for heading in ("type", "count", "Hz", "lost", "twice", "late", "gap s"):
        table.add_column(heading)
    for name, stream in sorted(summary.streams.items()):
        rate = stream.rate_hz
        counts = (stream.messages, "" if rate is None else f"{rate:.1f}", stream.lost, stream.duplicates)
        late = f"{stream.late}" + (f" (+{stream.superseded} superseded)" if stream.superseded else "")
        table.add_row(name, stream.kind, *(str(count) for count in counts), late, f"{stream.longest_gap_s:.2f}")
    out.print(table)
    begin = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.first_ns * 1e-9))
    out.print(
        f"{summary.events} events and {summary.states} twin states over {summary.duration_s:.1f} s, "
        f"begun {begin} by this machine's time zone.",
        soft_wrap=True,
        highlight=False,
    )
    for kind, count in sorted(summary.not_messages.items()):
        out.print(f"{count} frames are no message for the session ({kind.replace('_', ' ')}).", highlight=False)
    for name, value in sorted(summary.metadata.items()):
        out.print(f"{name}: {value}", soft_wrap=True, highlight=False)
    if summary.flags:
        out.print(f"Flags of the intake: {', '.join(sorted(summary.flags))}.", soft_wrap=True, highlight=False)
    if summary.damage or not summary.closed:
        out.print(f"It is cut off: {summary.damage or 'it was never closed'}.", soft_wrap=True, highlight=False)
    out.print(f"Hash chain: {summary.chain}.", soft_wrap=True, highlight=False)


def export_tables(recording: Path, folder: Path) -> None:
    """Write a recording's tables and say which."""
    from streams.tables import write_tables

    for table, rows in sorted(write_tables(recording, folder).items()):
        out.print(f"{folder / table}.csv: {rows} rows", soft_wrap=True, highlight=False)


def cut(
    recording: RecordingFile,
    target: NewRecording,
    begin: Annotated[float, typer.Option("--from", help="Seconds after the beginning.")] = 0.0,
    end: Annotated[float | None, typer.Option("--to", help="Seconds after the beginning.")] = None,
) -> None:
    """Write a part of a recording to a new one."""
    from streams.rewriting import cut as cut_recording

    done = cut_recording(recording, target, begin_s=begin, end_s=end)
    out.print(f"{target}: {done.events} events and {done.states} twin states.", soft_wrap=True, highlight=False)
    if begin > 0:
        out.print("Its states depend on what was cut off before them, so a replay cannot compare them.")


def anonymize(
    recording: RecordingFile,
    target: NewRecording,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep images; look first that none shows a name.")
    ] = False,
    audit_log: Annotated[Path | None, typer.Option("--audit", help="Say so in this audit log.")] = None,
) -> None:
    """Write a recording without notes, images, free texts and dates that tell who the patient was."""
    from streams.audit import note
    from streams.rewriting import anonymize as anonymize_recording

    done = anonymize_recording(recording, target, keep_images=keep_images)
    out.print(
        f"{target}: {done.events} events and {done.states} twin states, without dates, notes, images and texts. "
        "Names of streams, devices and tools were kept: look that none of them is a person's.",
        soft_wrap=True,
        highlight=False,
    )
    if audit_log is not None:
        note(audit_log, "anonymized", source=str(recording), target=str(target), head=done.head)


def audit(log: Annotated[Path, typer.Argument(help="An audit log, such as CASE/audit.jsonl.")]) -> None:
    """Show an audit log, and say whether it is as it was written."""
    from streams.audit import read_audit

    entries, fault = read_audit(log)
    table = Table("when", "who", "what", "details", title=str(log))
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time_ns * 1e-9))
        details = ", ".join(f"{name} {value}" for name, value in entry.details.items())
        table.add_row(when, entry.who, entry.what, details)
    out.print(table)
    if fault is not None:
        out.print(f"It is not as it was written: {fault}.", soft_wrap=True, highlight=False)
        raise typer.Exit(1)
    last = entries[-1].hash[:16] if entries else "none"
    out.print(f"{len(entries)} entries follow one another; the last one's hash is {last}.", highlight=False)


def record(
    target: NewRecording,
    devices: DevicesAt = DEVICES,
    duration: Annotated[float | None, typer.Option(help="Seconds; until Ctrl-C where not given.")] = None,
    keys: TwinKeys = None,
    insecure: Insecure = False,
) -> None:
    """Record what devices send, without a twin."""
    from streams.standalone import record_devices

    if duration is not None and not duration > 0:  # so that nan is refused too
        raise InputError("--duration is seconds, and positive.")
    stopped = threading.Event()
    ends_with(stopped.set)
    with guarding(keys, insecure=insecure) as security, err.status("recording") as status:
        done = record_devices(
            target,
            devices,
            should_stop=stopped.is_set,
            duration_s=duration,
            insecure=insecure,
            security=security,
            say=lambda events, size: status.update(f"{events} events, {size / 1e6:.1f} MB"),
        )
    out.print(f"{target}: {done.events} events; head of the chain {done.head}.", soft_wrap=True, highlight=False)
    if done.failure is not None:
        raise InputError(f"The recording {target} is not complete: {done.failure}.")


def keys(
    folder: Annotated[Path, typer.Argument(help="The folder of keys; made if it is not there.")],
    new: Annotated[str | None, typer.Option(help="Make a key for a client of this name, and let it in.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="What it may do: publish poses, publish pressure, publish images, command, watch."),
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(help="The client has a key of its own: its public half, 40 characters.")
    ] = None,
    revoke: Annotated[str | None, typer.Option(help="Take a client off the list.")] = None,
) -> None:
    """Make keys for the twin's sockets, and say who may do what."""
    from streams.keys import TWIN, allow, load_public, make_pair, read_allow_list
    from streams.keys import revoke as revoke_key

    if new is not None and revoke is not None:
        raise InputError("--new and --revoke are two steps; give one of them.")
    if new is None and (role or public_key is not None):
        raise InputError("--role and --public-key belong to a new client; name it with --new.")
    if revoke is not None:
        revoke_key(folder, revoke)
        out.print(f"{revoke} is let in no more, from the next start of the twin on.")
    elif new is not None:
        given = None if public_key is None else public_key.encode("ascii", "replace")
        if given is not None and len(given) != 40:
            raise InputError(f"--public-key has {len(given)} characters, and a key has 40.")
        client = allow(folder, new, tuple(role or ()), public_key=given)
        out.print(f"{client.name} may {', '.join(client.roles)}.", highlight=False)
        if given is None:
            out.print(
                f"Take {folder / new}.key_secret and {folder / TWIN}.key to its machine by a way nobody can read, and "
                f"delete {new}.key_secret here.",
                soft_wrap=True,
                highlight=False,
            )
    elif not (folder / f"{TWIN}.key").exists():
        make_pair(folder, TWIN)
    table = Table("client", "may", "public key", title=f"{folder}: the twin is {load_public(folder, TWIN).decode()}")
    for client in read_allow_list(folder).clients.values():
        table.add_row(client.name, ", ".join(client.roles), client.public_key)
    out.print(table)


def import_files(
    sources: Annotated[
        list[Path], typer.Argument(help="PLUS sequences (.mha, .nrrd), WFDB headers (.hea), tables (.csv, .npz).")
    ],
    target: Annotated[Path, typer.Option("--out", help="The new recording (MCAP).")],
    column_map: Annotated[Path | None, typer.Option("--map", help="Of tables: which column is what (TOML).")] = None,
    tip: Annotated[
        list[str] | None, typer.Option(help="Of PLUS tools: where the tip is in the tool's frame: NAME=X,Y,Z in mm.")
    ] = None,
) -> None:
    """Make a recording of other programs' files; it replays like any other."""
    from streams.column_map import read_map
    from streams.import_plus import plus_arrivals, read_plus
    from streams.import_table import table_arrivals
    from streams.import_wfdb import wfdb_arrivals
    from streams.importing import Findings, write_recording

    findings = Findings()
    tips = dict(_read_tip(text) for text in tip or ())
    arrivals: list[Any] = []
    for source in sources:
        if source.suffix == ".hea":
            arrivals += wfdb_arrivals(source, findings)
        elif source.suffix in (".mha", ".nrrd"):
            arrivals.append(plus_arrivals(read_plus(source), findings, tips_mm=tips))
        elif source.suffix in (".csv", ".tsv", ".txt", ".npz"):
            if column_map is None:
                raise InputError(f"{source} is a table; say with --map which column is what.")
            arrivals += table_arrivals(source, read_map(column_map), findings)
        else:
            raise InputError(f"{source} is of no kind that is read; give .mha, .nrrd, .hea, .csv or .npz files.")
    done = write_recording(arrivals, findings, target, origin=", ".join(source.name for source in sources))
    table = Table("stream", "messages", title=f"{target}: {done.events} events over {done.duration_s:.1f} s")
    for stream, count in sorted(done.streams.items()):
        table.add_row(stream, str(count))
    out.print(table)
    for sentence in done.findings:
        out.print(sentence, soft_wrap=True, highlight=False)


def _read_tip(text: str) -> tuple[str, tuple[float, float, float]]:
    name, _, numbers = text.partition("=")
    x, y, z = read_numbers("--tip", numbers, "X,Y,Z", "three numbers in mm")
    return name, (x, y, z)


def play(
    recording: RecordingFile,
    devices: DevicesAt = DEVICES,
    speed: Annotated[str, typer.Option(help="real, full, or a factor on real time such as 0.5 or 4.")] = "real",
    begin: Annotated[float, typer.Option("--from", help="Seconds after the beginning.")] = 0.0,
    keys: SimulatorKeys = None,
    insecure: Insecure = False,
) -> None:
    """Send a recording's device messages to a running twin, as if they were measured now."""
    from streams.playing import play_recording
    from surgical_twin.pace import read_speed

    security = as_client(keys, SIMULATOR, insecure=insecure)
    factor = read_speed(speed)
    with err.status("playing") as status:
        done = play_recording(
            recording,
            devices,
            speed=factor,
            begin_s=begin,
            security=security,
            insecure=insecure,
            say=lambda time_s: status.update(f"{time_s:.1f} s"),
        )
    out.print(f"{done.sent} messages sent over {done.duration_s:.1f} s.")


def bridge(
    protocol: Annotated[
        str, typer.Argument(help="igtl: OpenIGTLink (3D Slicer, PLUS); sdc: IEEE 11073 SDC; lsl: Lab Streaming Layer.")
    ],
    listen: Annotated[str | None, typer.Option(help="igtl: wait for peers: PORT or ADDRESS:PORT.")] = None,
    connect: Annotated[
        str | None,
        typer.Option(help="Connect, and again when it is lost: ADDRESS:PORT, or of sdc http(s)://ADDRESS:PORT/PATH."),
    ] = None,
    devices: DevicesAt = DEVICES,
    states: StatesAt = STATES,
    coordinates: Annotated[
        str, typer.Option(help="igtl: what the peers' positions are: ras (3D Slicer) or lps.")
    ] = "ras",
    case: Annotated[
        Path | None, typer.Option(help="igtl: send this case's surface, colored by pressure, as POLYDATA.")
    ] = None,
    stream: Annotated[list[str] | None, typer.Option(help="lsl: the name of a stream; may be repeated.")] = None,
    port: Annotated[
        list[str] | None, typer.Option(help="sdc, lsl: where a pressure is measured: SIGNAL=PORT of the case.")
    ] = None,
    tls: Annotated[Path | None, typer.Option(help="sdc: folder with cacert.pem, usercert.pem and userkey.pem.")] = None,
    keys: BridgeKeys = None,
    insecure: Insecure = False,
) -> None:
    """Pass messages between the twin and programs that speak another protocol."""
    from streams.sockets import Publisher

    of_igtl: dict[str, Any] = {"--listen": listen, "--case": case}
    others: dict[str, Any] = {"--stream": stream, "--port": port, "--tls": tls}
    foreign = {"igtl": others, "sdc": of_igtl | {"--stream": stream}, "lsl": of_igtl | {"--tls": tls}}
    if protocol not in foreign:
        raise InputError(f'"{protocol}" is no protocol that is bridged; igtl, sdc and lsl are.')
    for option, given in foreign[protocol].items():
        if given:
            raise InputError(f"{option} says nothing to a bridge to {protocol}; leave it out.")
    security = as_client(keys, BRIDGE)  # the protocols know none of our keys: --insecure may be about the peers alone
    if protocol == "igtl":
        _bridge_igtl(listen, connect, devices, states, coordinates, case, security, insecure)
        return
    ports = dict(_read_port(text) for text in port or ())
    publisher = Publisher(devices, security=security, insecure=insecure)
    try:
        if protocol == "sdc":
            from streams.sdc_bridge import SdcBridge

            if connect is None:
                raise InputError("a bridge to sdc needs --connect with the device's address, http(s)://HOST:PORT/PATH.")
            bridged: Any = SdcBridge(connect, publisher, tls=tls, insecure=insecure, ports=ports)
            where = f"device {connect}"
        else:
            from streams.lsl_bridge import LslBridge

            if not insecure:
                raise InputError(
                    "Lab Streaming Layer is plain text, and finds its streams anywhere on the network; allow it with "
                    "--insecure."
                )
            bridged = LslBridge(stream or (), publisher, ports=ports)
            where = f"streams {', '.join(stream or ())}"
        _run_bridge(bridged, where)
    finally:
        publisher.close()


def _read_port(text: str) -> tuple[str, str]:
    signal, mark, port = text.rpartition("=")
    if not mark or not signal or not port:
        raise InputError(f'--port "{text}" is not SIGNAL=PORT, as in art=inlet.')
    return signal, port


def _bridge_igtl(
    listen: str | None,
    connect: str | None,
    devices: str,
    states: str,
    coordinates: str,
    case: Path | None,
    security: Any,
    insecure: bool,
) -> None:
    from streams.igtl_bridge import IgtlBridge
    from streams.sockets import Publisher, Subscriber
    from surgical_twin.igtl_surface import overlay_surface

    if (listen is None) == (connect is None):
        raise InputError("a bridge needs --listen or --connect, one of them.")
    if coordinates not in ("ras", "lps"):
        raise InputError(f'--coordinates "{coordinates}" is neither ras nor lps.')
    here = None if listen is None else _address(listen, "--listen", insecure=insecure)
    there = None if connect is None else _address(connect, "--connect", insecure=insecure)
    surface = None if case is None else overlay_surface(case)
    publisher = Publisher(devices, security=security, insecure=insecure)
    subscriber = Subscriber(states, bind=False, topics=("twin",), security=security, insecure=insecure)
    try:
        bridged = IgtlBridge(
            devices=publisher, states=subscriber, listen=here, connect=there, ras=coordinates == "ras", surface=surface
        )
        _run_bridge(bridged, f"listening at {here[0]}:{bridged.port}" if here is not None else f"peer {connect}")
    finally:
        publisher.close()
        subscriber.close()


def _run_bridge(bridged: Any, where: str) -> None:
    """Run a bridge until a person ends it, and say what it did."""
    ends_with(bridged.stop)
    out.print(where, highlight=False)
    with err.status(where) as status:
        counts = bridged.run(
            lambda counts: status.update(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        )
    for name, count in sorted(counts.items()):
        out.print(f"{name}: {count}", highlight=False)


def _address(text: str, option: str, *, insecure: bool) -> tuple[str, int]:
    """Host and port of ADDRESS:PORT, or of PORT on this machine."""
    from streams.sockets import is_local

    host, _, port = text.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isdigit() or not int(port) < 65536:
        raise InputError(f'{option} "{text}" is no address; write PORT or ADDRESS:PORT, as in 127.0.0.1:18944.')
    if not insecure and not is_local(f"tcp://{host}:{port}"):
        raise InputError(
            f"{option} {text} reaches beyond this machine, and OpenIGTLink is plain text that anyone may read and "
            f"forge; use an address of 127.0.0.1 (through a tunnel, say), or allow it with --insecure."
        )
    return host, int(port)
