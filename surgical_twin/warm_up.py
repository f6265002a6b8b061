"""Everything a session computes, once for nothing before it begins.

The compiled parts of a session are compiled when they are first asked for: seconds on a machine where that never
happened, and some hundredths of one where they only have to be loaded. In a session that would be time in which its
poses grow old. The session is a fold without side effects, so a short made-up procedure on the case leaves nothing
behind but code that is ready.
"""

from collections.abc import Iterator

from streams.messages import CardiacOutput, DopplerVelocity, Message, PressureSamples, SectionFlow
from surgical_twin.latency_budget import events_of
from surgical_twin.session import Session
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.standard_load import LoadSettings, standard_load
from surgical_twin.units import CUBIC_METRES_PER_ML, METRES_PER_MM

BEATS = 2.5
"""Two R-waves end a beat, which has computations of its own."""
BEGIN_NS = 10**18


def warm_up(model: SessionModel) -> SessionState:
    """Fold a made-up procedure of some beats with every kind of measurement; gives the state it ended in."""
    lumen = model.lumen
    stations = model.reduced.decoder.points[:10] / METRES_PER_MM if lumen is None else lumen.tree.points
    period_ns = round(model.waveform.period * 1e9)
    load = list(standard_load(model, stations, LoadSettings(), BEGIN_NS, BEATS * model.waveform.period))
    place = stations[len(stations) // 2].tolist()
    load += _others(model, tuple(place), BEGIN_NS + period_ns // 2)
    load.sort(key=lambda message: message.source_time_ns)
    session, state = Session(model), SessionState()
    for event in events_of(load, 0, model.case_hash):
        state, _ = session.step(state, event)
        session.prepare(state)
    return state


def _others(model: SessionModel, place: tuple[float, float, float], begin_ns: int) -> Iterator[Message]:
    """What the standard load has none of."""
    flow = model.waveform.mean / CUBIC_METRES_PER_ML
    for number in range(4):
        at = begin_ns + number * 50_000_000
        yield PressureSamples(
            stream="warm_up/line",
            sequence=number,
            source_time_ns=at,
            sensor="line",
            tool=None,
            port=model.port_names[0],
            sample_period_ns=4_000_000,
            values_mmhg=(90.0,) * 5,
        )
    yield SectionFlow(
        stream="warm_up/section",
        sequence=0,
        source_time_ns=begin_ns,
        sensor="section",
        position=place,
        flow_ml_s=flow,
        deviation_ml_s=0.2 * flow,
    )
    yield DopplerVelocity(
        stream="warm_up/doppler",
        sequence=0,
        source_time_ns=begin_ns,
        sensor="doppler",
        position=place,
        direction=(0.0, 0.0, 1.0),
        velocity_mm_s=100.0,
        deviation_mm_s=50.0,
    )
    yield CardiacOutput(
        stream="warm_up/output",
        sequence=0,
        source_time_ns=begin_ns,
        sensor="output",
        output_l_min=flow * 0.06,
        deviation_l_min=flow * 0.02,
        port=model.port_names[0],
    )
