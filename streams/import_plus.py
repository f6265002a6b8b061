"""Reads PLUS sequence files (.igs.mha, .igs.nrrd, also plain .mha/.nrrd with the same fields): tracker and images.

A header of text lists, for each frame, transforms `XToYTransform` (4 x 4 by rows, mm, Y from X), their status, and
times in seconds since the program's start. Tracker-only files have `DimSize = 0 0 N` (or one dummy pixel) and no image.
The measured time is `Timestamp`, the time of arrival `UnfilteredTimestamp` where there is one.

Format: PLUS documentation, "Sequence file"; MetaImage and NRRD specifications.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.errors import InputError
from streams.importing import EPOCH_NS, Arrival, Findings
from streams.messages import BYTES_PER_PIXEL, MAX_IMAGE_SIDE, ImageFrame, Note, ToolPose
from streams.rotations import nearest_rotation, quaternion_of

MOST_HEADER_BYTES = 500_000_000
MOST_FRAMES = 1_000_000

_FRAME_FIELD = re.compile(r"^Seq_Frame(\d+)_(\w+)$")
_TRANSFORM = re.compile(r"^([A-Za-z0-9]+?)To([A-Z][A-Za-z0-9]*)Transform$")
_PIXELS = {
    ("MET_UCHAR", 1): "mono8",
    ("MET_USHORT", 1): "mono16",
    ("MET_UCHAR", 3): "rgb8",
    ("uchar", 1): "mono8",
    ("unsigned char", 1): "mono8",
    ("uint8", 1): "mono8",
    ("uint8_t", 1): "mono8",
    ("ushort", 1): "mono16",
    ("unsigned short", 1): "mono16",
    ("uint16", 1): "mono16",
    ("uint16_t", 1): "mono16",
}
_MHA_END = re.compile(rb"^ElementDataFile\s*=\s*(\S+)[ \t]*\r?\n", re.MULTILINE)


@dataclass
class PlusSequence:
    """A sequence file's header, and where its pixels are."""

    path: Path
    fields: dict[str, str]
    frames: list[dict[str, str]]
    size: tuple[int, int, int]
    """columns, rows, frames"""
    pixel_format: str | None
    """None where there is no image"""
    spacing_mm: tuple[float, float] | None
    compressed: bool
    data_offset: int
    big_endian: bool = False
    tips_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def read_plus(path: Path) -> PlusSequence:
    """Read a sequence file's header.

    Raises:
        InputError: it cannot be read, is no sequence file, or has no frame with a time.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    sequence = _read_nrrd(path, content) if content.startswith(b"NRRD") else _read_mha(path, content)
    if not any("Timestamp" in frame for frame in sequence.frames):
        raise InputError(f"{path} has no frame with a Timestamp; give a sequence file as PLUS or 3D Slicer write it.")
    return sequence


def _split(lines: list[str], separator: str, path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    fields: dict[str, str] = {}
    frames: dict[int, dict[str, str]] = {}
    for line in lines:
        name, found, value = line.partition(separator)
        if not found:
            continue
        name, value = name.strip(), value.strip()
        match = _FRAME_FIELD.match(name)
        if match is None:
            fields[name] = value
            continue
        number = int(match[1])
        if number >= MOST_FRAMES:
            raise InputError(f"{path} has a frame of number {number}; at most {MOST_FRAMES} are read.")
        frames.setdefault(number, {})[match[2]] = value
    ordered = [frames.get(number, {}) for number in range(max(frames, default=-1) + 1)]
    return fields, ordered


def _numbers(text: str, path: Path, name: str) -> list[float]:
    try:
        return [float(part) for part in text.split()]
    except ValueError as error:
        raise InputError(f'{path} has {name} = "{text[:60]}", which are no numbers; mend the header.') from error


def _read_mha(path: Path, content: bytes) -> PlusSequence:
    end = _MHA_END.search(content)
    if end is None or b"NDims" not in content[: end.start()]:
        raise InputError(f"{path} is no MetaImage or NRRD file with a header; give a .igs.mha or .igs.nrrd file.")
    if end[1] != b"LOCAL":
        raise InputError(
            f"{path} keeps its pixels in another file; save it with the pixels in it (ElementDataFile LOCAL)."
        )
    fields, frames = _split(content[: end.start()].decode("latin-1").splitlines(), "=", path)
    size = [int(value) for value in _numbers(fields.get("DimSize", ""), path, "DimSize")]
    if len(size) == 2:
        size.append(1)
    if len(size) != 3 or min(size) < 0:
        raise InputError(f"{path} has DimSize = {fields.get('DimSize')}, and a sequence has columns, rows and frames.")
    spacing = _numbers(fields.get("ElementSpacing", ""), path, "ElementSpacing")
    channels = int(fields.get("ElementNumberOfChannels", "1") or 1)
    return PlusSequence(
        path=path,
        fields=fields,
        frames=frames,
        size=(size[0], size[1], size[2]),
        pixel_format=_format(size, _PIXELS.get((fields.get("ElementType", ""), channels))),
        spacing_mm=(spacing[0], spacing[1]) if len(spacing) >= 2 and min(spacing[:2]) > 0 else None,
        compressed=fields.get("CompressedData", "False").lower() == "true",
        data_offset=end.end(),
        big_endian=fields.get("BinaryDataByteOrderMSB", "False").lower() == "true",
    )


def _read_nrrd(path: Path, content: bytes) -> PlusSequence:
    for blank in (b"\n\n", b"\r\n\r\n"):
        end = content.find(blank)
        if end >= 0:
            break
    else:
        raise InputError(f"{path} is a NRRD file without the empty line after its header; it is cut off.")
    lines = [line for line in content[:end].decode("latin-1").splitlines()[1:] if not line.startswith("#")]
    # "field: value" is NRRD's own, "key:=value" is what the program added.
    own, _ = _split([line for line in lines if ":=" not in line], ":", path)
    added, frames = _split([line for line in lines if ":=" in line], ":=", path)
    own = {name.lower(): value for name, value in own.items()}
    if "data file" in own or "datafile" in own:
        raise InputError(f"{path} keeps its pixels in another file; save it as one file (.nrrd).")
    size = [int(value) for value in _numbers(own.get("sizes", ""), path, "sizes")]
    if len(size) == 4 and size[0] == 1:
        size = size[1:]
    if len(size) != 3 or min(size) < 0:
        raise InputError(f"{path} has sizes: {own.get('sizes')}, and a sequence has columns, rows and frames.")
    encoding = own.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path} is encoded as {encoding}; save it as raw or gzip.")
    return PlusSequence(
        path=path,
        fields={**own, **added},
        frames=frames,
        size=(size[0], size[1], size[2]),
        pixel_format=_format(size, _PIXELS.get((own.get("type", "").lower(), 1))),
        spacing_mm=None,
        compressed=encoding != "raw",
        data_offset=end + len(blank),
        big_endian=own.get("endian", "little").lower() == "big",
    )


def _format(size: list[int], pixel_format: str | None) -> str | None:
    """No image where there are no pixels, or a single one that only keeps its place."""
    columns, rows, _ = size
    if columns * rows <= 1 or max(columns, rows) > MAX_IMAGE_SIDE:
        return None
    return pixel_format


def _pixels(sequence: PlusSequence) -> bytes:
    columns, rows, frames = sequence.size
    expected = columns * rows * frames * BYTES_PER_PIXEL[sequence.pixel_format or "mono8"]
    with sequence.path.open("rb") as stream:
        stream.seek(sequence.data_offset)
        data = stream.read()
    if sequence.compressed:
        try:
            # 15 + 32: a zlib or a gzip header. Never more than belongs there.
            data = zlib.decompressobj(15 + 32).decompress(data, expected + 1)
        except zlib.error as error:
            raise InputError(
                f"{sequence.path} has pixels that cannot be decompressed ({error}); it is damaged."
            ) from error
    if len(data) < expected:
        raise InputError(
            f"{sequence.path} has {len(data)} bytes of pixels where {expected} belong; it is cut off: save it again."
        )
    if sequence.big_endian and sequence.pixel_format == "mono16":
        data = np.frombuffer(data[:expected], ">u2").astype("<u2").tobytes()
    return data


def _pose(
    text: str, tip: tuple[float, float, float] | None
) -> tuple[tuple[float, float, float], tuple[float, float, float, float]] | str:
    """Position of the tip and orientation, or why the matrix is no pose."""
    try:
        values = np.array([float(part) for part in text.split()])
    except ValueError:
        return "a transform that is no numbers"
    if values.size != 16:
        return "a transform without 16 numbers"
    matrix: NDArray[np.float64] = values.reshape(4, 4)
    if not np.isfinite(matrix).all():
        return "a transform with numbers that are not finite"
    if not matrix[:3, :3].any():
        return "a transform of zeros"
    rotation = nearest_rotation(matrix[:3, :3])
    if rotation is None:
        return "a transform that is no rotation"
    position = matrix[:3, 3] + (rotation @ np.array(tip) if tip is not None else 0.0)
    return (float(position[0]), float(position[1]), float(position[2])), quaternion_of(rotation)


def plus_arrivals(
    sequence: PlusSequence,
    findings: Findings,
    *,
    tips_mm: Mapping[str, tuple[float, float, float]] | None = None,
    epoch_ns: int = EPOCH_NS,
) -> Iterator[Arrival]:
    """The messages of a sequence file.

    A transform whose status is not OK, or that is no pose, is sent as not valid, and never with a number.

    Args:
        sequence: the file.
        findings: takes what was wrong.
        tips_mm: (3,) where a tool's tip is in the tool's own frame, by its name; its origin where not given.
        epoch_ns: what time 0 of the file is.
    """
    tips = tips_mm or {}
    known = {match[1] for frame in sequence.frames for name in frame if (match := _TRANSFORM.match(name))}
    for name in tips:
        if name not in known:
            raise InputError(f"{sequence.path} has no tool {name}; it has {', '.join(sorted(known)) or 'none'}.")
    numbers: dict[str, int] = {}
    pixels: bytes | None = None
    last_ns = -1
    for index, frame in enumerate(sequence.frames):
        try:
            time_s = float(frame["Timestamp"])
            arrived_s = float(frame.get("UnfilteredTimestamp", frame["Timestamp"]))
            source_ns, receive_ns = epoch_ns + round(time_s * 1e9), epoch_ns + round(max(arrived_s, time_s) * 1e9)
        except (KeyError, ValueError, OverflowError):
            findings.counts["frames without a time were left out"] += 1
            continue
        if source_ns < 0:
            findings.counts["frames without a time were left out"] += 1
            continue
        if source_ns <= last_ns:
            findings.counts["frames are not later than the one before them"] += 1
        last_ns = max(last_ns, source_ns)
        for name, text in frame.items():
            match = _TRANSFORM.match(name)
            if match is None:
                continue
            tool, reference = match[1], match[2]
            stream = f"{reference.lower()}/{tool}"
            pose = _pose(text, tips.get(tool))
            status = frame.get(f"{name}Status", "OK").strip().upper()
            valid = status == "OK" and not isinstance(pose, str)
            if isinstance(pose, str):
                findings.counts[f"poses of {tool} are {pose}, and sent as not valid"] += 1
            elif status != "OK":
                findings.counts[f"poses of {tool} have the status {status}, and are sent as not valid"] += 1
            numbers[stream] = numbers.get(stream, -1) + 1
            position, quaternion = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)) if isinstance(pose, str) else pose
            yield Arrival(
                receive_ns,
                ToolPose(
                    stream=stream,
                    sequence=numbers[stream],
                    source_time_ns=source_ns,
                    tool=tool,
                    position=position if valid else (0.0, 0.0, 0.0),
                    quaternion=quaternion if valid else (1.0, 0.0, 0.0, 0.0),
                    valid=valid,
                ),
            )
        if sequence.pixel_format is None or index >= sequence.size[2]:
            continue
        if frame.get("ImageStatus", "OK").strip().upper() != "OK":
            findings.counts["images have the status INVALID, and were left out"] += 1
            continue
        if pixels is None:
            pixels = _pixels(sequence)
            orientation = sequence.fields.get("UltrasoundImageOrientation", "")
            if orientation:
                yield Arrival(
                    receive_ns,
                    Note(
                        stream="ultrasound/orientation",
                        sequence=0,
                        source_time_ns=source_ns,
                        source=sequence.path.name,
                        text=f"UltrasoundImageOrientation {orientation}",
                    ),
                )
        columns, rows, _ = sequence.size
        length = columns * rows * BYTES_PER_PIXEL[sequence.pixel_format]
        numbers["image"] = numbers.get("image", -1) + 1
        yield Arrival(
            receive_ns,
            ImageFrame(
                stream="ultrasound/image",
                sequence=numbers["image"],
                source_time_ns=source_ns,
                device=sequence.path.name,
                width=columns,
                height=rows,
                pixel_format=sequence.pixel_format,
                data=memoryview(pixels[index * length : (index + 1) * length]),
                spacing_mm=sequence.spacing_mm,
            ),
        )
    if sequence.frames and not numbers:
        findings.notes.append(f"{sequence.path} has neither transforms named XToYTransform nor images.")
