"""One line about the twin's state, for the terminal."""

from streams.messages import Estimate, TwinState


def interval(estimate: Estimate, digits: int = 1) -> str:
    """A value with its 95 % interval."""
    return f"{estimate.value:.{digits}f} [{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"


def status_line(state: TwinState) -> str:
    """Tip pressure with its interval, registration error, place in the vessel, and what forbids trust."""
    parts = []
    if state.tip_pressure_mmhg is not None:
        parts.append(f"tip {interval(state.tip_pressure_mmhg)} mmHg")
    if state.tre is not None:
        parts.append(f"TRE {state.tre:.2f} mm")
    if state.vessel_place is not None:
        place = state.vessel_place
        outside = f", {place.outside_mm:.1f} mm outside the lumen" if place.outside_mm > 0.0 else ""
        parts.append(f"branch {place.branch} ({100 * place.probability:.0f} %), {place.along_mm.value:.0f} mm{outside}")
    parts.append(f"{state.counters.get('received', 0)} events, {state.counters.get('lost', 0)} lost")
    parts.append("NOT TRUSTED: " + ", ".join(state.flags) if state.flags else "trusted")
    return " · ".join(parts)
