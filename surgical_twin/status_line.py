"""One line about the twin's state, for the terminal."""

from streams.messages import Estimate, TwinState


def interval(estimate: Estimate, digits: int = 1) -> str:
    """A value with its 95 % interval."""
    return f"{estimate.value:.{digits}f} [{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"


def status_line(state: TwinState) -> str:
    """Tip pressure with its interval, registration error, and what forbids trust."""
    parts = []
    if state.tip_pressure_mmhg is not None:
        parts.append(f"tip {interval(state.tip_pressure_mmhg)} mmHg")
    if state.tre is not None:
        parts.append(f"TRE {state.tre:.2f} mm")
    parts.append(f"{state.counters.get('received', 0)} events, {state.counters.get('lost', 0)} lost")
    parts.append("NOT TRUSTED: " + ", ".join(state.flags) if state.flags else "trusted")
    return " · ".join(parts)
