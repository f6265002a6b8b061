"""Observations that come late are put where they belong: the ensemble goes back to before them, and all that came after
is looked at once more.

Within a fixed lag the session keeps of each observation what it looked at, what was measured, how it was weighed, and
the ensemble before it. Nothing is drawn at random, so a replay of the same events does the same work with the same
result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.assimilation.missing import Missingness
from surgical_twin.assimilation.sights import Sight

if TYPE_CHECKING:
    from surgical_twin.session_model import SessionModel

LAG_NS = 400_000_000
"""Observations later than this are not used."""

TOLERANCE_NS = 25_000_000
"""So much later than the ensemble an observation is taken as one of the ensemble's time: batches of samples count from
their middle, and are complete some milliseconds after it."""


@dataclass(frozen=True)
class Taken:
    """One observation as it was taken."""

    time_ns: int
    sight: Sight
    observed: float
    evidence: float | None
    """the variance it was given to the filter with; None where it was not"""
    before: FilterState
    """the ensemble before it, at the time of the observation before"""
    missing: Missingness | None = None
    """of one that did not come: what its sensor loses because of its value"""


def remembered(taken: tuple[Taken, ...], one: Taken) -> tuple[Taken, ...]:
    """The last observations within the lag, with one more."""
    begin = one.time_ns - LAG_NS
    kept = [before for before in taken if before.time_ns >= begin]
    return (*kept, one)


def place_of(taken: tuple[Taken, ...], time_ns: int) -> int | None:
    """Before which of some observations one of this time belongs; None where it is too late."""
    index = next((number for number, one in enumerate(taken) if one.time_ns > time_ns), None)
    if index is None or len({len(one.before.errors[0]) for one in taken}) != 1:
        return None
    return index


def ensemble_before(
    model: SessionModel, taken: tuple[Taken, ...], index: int, time_ns: int, beat: Beat
) -> FilterState | None:
    """The ensemble at a time in the past, before an observation; None where nothing that old is kept."""
    step = time_ns // model.filter.step_ns
    before = taken[index].before
    if before.step > step + TOLERANCE_NS // model.filter.step_ns:
        return None
    return model.filter.advance(before, step, beat)


def taken_again(
    model: SessionModel, ensemble: FilterState, later: tuple[Taken, ...], until_step: int, beat: Beat
) -> tuple[FilterState, tuple[Taken, ...]]:
    """The ensemble after all that came later, and these observations with what is before them now."""
    again = []
    for one in later:
        again.append(replace(one, before=ensemble))
        ensemble = model.filter.advance(ensemble, one.time_ns // model.filter.step_ns, beat)
        if one.evidence is None:
            continue
        predicted = one.sight.predicted(model, ensemble)
        if one.missing is None:
            ensemble = model.filter.assimilate(ensemble, predicted, one.observed, one.evidence, beat)
        else:
            ensemble = model.filter.assimilate_missing(ensemble, predicted, one.evidence, one.missing, beat)
    return model.filter.advance(ensemble, until_step, beat), tuple(again)
