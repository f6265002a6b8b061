"""What readers of other programs' data share: a stream's name from theirs, and samples as messages."""

import re

from streams.messages import MAX_NAME, PressureSamples, WaveformSamples

LONGEST = MAX_NAME - 20
"""Characters of another program's name that are kept; the stream's own prefix comes before them."""


def slug(name: str) -> str:
    """A name of letters, digits and ``_.-`` made of any other."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")[:LONGEST] or "unnamed"


def samples_message(
    *,
    stream: str,
    sequence: int,
    source_time_ns: int,
    sensor: str,
    period_ns: int,
    values: tuple[float, ...],
    pressure: bool,
    tool: str | None = None,
    quantity: str | None = None,
    unit: str = "",
) -> PressureSamples | WaveformSamples:
    """Consecutive samples of a signal.

    Args:
        stream: its name.
        sequence: number of the message in it.
        source_time_ns: time of the first sample.
        sensor: what measured it.
        period_ns: from one sample to the next.
        values: mmHg where it is a pressure.
        pressure: whether it is one.
        tool: the tool at whose tip a pressure is measured.
        quantity: what a waveform is of; its sensor's name where it is not known.
        unit: of a waveform's values.
    """
    if pressure:
        return PressureSamples(
            stream=stream,
            sequence=sequence,
            source_time_ns=source_time_ns,
            sensor=sensor,
            tool=tool,
            sample_period_ns=period_ns,
            values_mmhg=values,
        )
    return WaveformSamples(
        stream=stream,
        sequence=sequence,
        source_time_ns=source_time_ns,
        sensor=sensor,
        quantity=sensor if quantity is None else quantity,
        unit=unit,
        sample_period_ns=period_ns,
        values=values,
    )
