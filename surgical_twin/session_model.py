"""What a session reads from the case and never changes: the trained model, the planned points, the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from meshes.files import read_lumen_mesh
from registration.lumen.tracking import LumenTracker
from registration.point_files import read_point_file
from surgical_twin.assimilation.flow_filter import FilterSettings, FlowFilter
from surgical_twin.assimilation.flow_prior import CALIBRATION, FlowPrior
from surgical_twin.assimilation.mesh_losses import mesh_drop_deviation
from surgical_twin.assimilation.missing import Missingness
from surgical_twin.case import AXIS, BRANCHES, FIDUCIALS, MESH, REDUCED, Case, read_table
from surgical_twin.flow.field_decoder import FieldDecoder, PointOperator
from surgical_twin.flow.nearby_pressure import Stations, pressure_changes
from surgical_twin.flow.port_model import PortParameters, PortState
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.missing_settings import read_missingness
from surgical_twin.registration_inputs import read_branch_tree
from surgical_twin.tip_kernel import TipField, mean_and_variance, pressure_at_tip
from surgical_twin.units import CUBIC_METRES_PER_ML, METRES_PER_MM, PASCAL_PER_MMHG

Array = NDArray[np.float64]


INERTANCE_SHARE = 0.3
"""How far an outlet's flow, and with it its resistance, may be off where pressures alone tell of it, as a share of how
far the drop may be off for the sake of its mesh. A lumen meshed too coarsely has another inertance: against 3D runs of
finer meshes in the real lumen it was 6 to 18 % too high where the drop was open by 25 to 64 %. Blood that is
accelerated shows it in the pulse, whatever the losses are, and the filter takes it for another flow."""

REACH_MM = 1.0
"""So far from a station of the centerline pressure is taken to change as it does there."""


@dataclass(frozen=True)
class SessionSettings:
    """What the session assumes of its sensors and of how errors persist."""

    pressure_noise_mmhg: float = 2.0
    """Standard deviation of one pressure sample."""
    flow_interval_s: float = 0.05
    """Time between two flow samples."""
    place_correlation_s: float = 30.0
    """How long the tip's position error stays the same: a registration error does for good, the vessel's gradient
    at the tip does not."""
    model_correlation_s: float = 0.15
    """How long a model error stays the same within a beat."""
    model_beats: float = 10.0
    """A model error repeats with every beat, so that a further beat at the same state tells less and less of the
    patient: after n beats it counts as one of n and these. See `model_correlation`."""
    model_memory_s: float = 150.0
    """The filter forgets (its ``forgetting_time``, of a deviation; half of it, of a variance), and counts no more."""
    drop_uncertainty: float = 0.05
    """Relative uncertainty of the pressure drop inside the lumen that one factor on the whole tree (the filter's
    ``drop_factor``) does not take up: the wall is not wrong by the same everywhere."""
    shape_uncertainty: float = 0.02
    """How far the patient's inflow may be from all shapes that the filter can learn, as a share of the mean flow."""
    follow_lumen: bool = False
    """Whether the registration's drift, as the catheter's way through the lumen shows it, is taken out of the tip's
    position."""
    missing: Mapping[str, Missingness] = field(default_factory=dict)
    """By pressure sensor: what it loses because of its value; the others lose at random."""
    assimilate: bool = True
    """Whether observations correct the ensemble; without it the session shows what the plan alone predicts."""

    def model_correlation(self, beats: int, period_s: float) -> float:
        """How long [s] an observation's model error counts as the same, so many beats after the circulation changed.

        An error that stays the same for t seconds of each of n beats leaves n times fewer independent observations than
        one that is new with every beat: its correlation time counts as n t.
        """
        most = self.model_memory_s / period_s
        return self.model_correlation_s * (self.model_beats + min(beats, most))


@dataclass(frozen=True)
class Place:
    """Pressure at some points of the lumen as any state of the ensemble has it; mm and mmHg."""

    decoder: FieldDecoder
    operator: PointOperator
    error_mmhg: Array
    """(n,) standard deviation of the reduced model's error there."""

    @classmethod
    def of(cls, reduced: ReducedModel, points: Array) -> "Place":
        """Points (n, 3) mm, LPS; a point outside the lumen stands for the nearest one in it."""
        located = reduced.decoder.locator.locate(np.atleast_2d(points) * METRES_PER_MM)
        error = (located.weights * reduced.pressure_error_std[located.vertices]).sum(axis=1)
        return cls(reduced.decoder, reduced.decoder.operator_at(located), error / PASCAL_PER_MMHG)

    @property
    def outside_mm(self) -> Array:
        """(n,) distance of each point from the lumen; zero inside."""
        return self.operator.distance / METRES_PER_MM

    def pressure(self, ports: PortState) -> Array:
        """(members, n) mmHg."""
        return self.operator.pressure(self.decoder.coefficients(ports)) / PASCAL_PER_MMHG

    def mean_gradient(self, ports: PortState) -> Array:
        """(n, 3) mmHg/mm, of the ensemble's mean."""
        coefficients = self.decoder.coefficients(ports).mean(axis=0, keepdims=True)
        return self.operator.gradient(coefficients)[0] * METRES_PER_MM / PASCAL_PER_MMHG


@dataclass(frozen=True)
class SessionModel:
    """One case, ready for a procedure."""

    case_hash: str
    reduced: ReducedModel
    filter: FlowFilter
    waveform: PeriodicWaveform
    fiducials: Mapping[str, Array]
    """Planned points to touch, by name: (3,) mm, LPS."""
    axis: "Place"
    """The stations along the vessel's axis."""
    port_names: tuple[str, ...]
    """Inlet first."""
    flow_error_ml_s: Array
    """(ports,) standard deviation of the model's error in flow: the reduced model's, and the inflow's unknown shape."""
    pressure_error_mmhg: Array
    """(ports,) the same for pressure."""
    settings: SessionSettings
    lumen: LumenTracker | None = None
    """What follows the catheter through the vessel tree; None where there is no tree."""
    outlets_behind: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By branch: which outlets (N,) its blood goes to."""
    split_uncertainty: float = 0.0
    """Relative standard deviation of an outlet's flow and resistance for the sake of the vessel's inertance."""
    _once: dict[str, tuple[object, Any]] = field(default_factory=dict, repr=False, compare=False)
    """By name: of what something was computed last, and the result; only what would be computed again."""

    @classmethod
    def load(cls, case: Case, settings: SessionSettings | None = None) -> "SessionModel":
        """Read a planned case.

        Raises:
            InputError: a file of the case is missing or does not fit the others.
        """
        chosen = settings or SessionSettings(follow_lumen=case.follow_lumen, missing=read_missingness(case))
        mesh = read_lumen_mesh(case.require(MESH))
        reduced = ReducedModel.load(case.require(REDUCED), mesh.points * METRES_PER_MM, mesh.tetrahedra)
        reduced.decoder.prepare()
        flow = case.manifest["flow"]
        outlets = reduced.ports.outlets
        windkessels = {name: Windkessel(**flow["windkessels"][name]) for name in outlets}
        waveform = PeriodicWaveform.named(flow["waveform"], mean=flow["mean_flow_m3_s"], period=flow["period_s"])
        planned = PortParameters.of(windkessels, outlets)
        reduced.ports.steady_state(planned, waveform.mean)  # the compiled steps are loaded now, not in the first event
        stations = read_point_file(case.require(AXIS)).points
        return cls(
            case_hash=case.session_hash(),
            reduced=reduced,
            filter=FlowFilter(reduced.ports, waveform, planned, filter_settings(case), calibrated_prior(case, outlets)),
            waveform=waveform,
            fiducials=read_point_file(case.require(FIDUCIALS)).by_name(),
            axis=Place.of(reduced, stations),
            port_names=(reduced.inlet, *outlets),
            flow_error_ml_s=flow_error(reduced, waveform.mean, windkessels, chosen) / CUBIC_METRES_PER_ML,
            pressure_error_mmhg=reduced.port_pressure_error / PASCAL_PER_MMHG,
            settings=chosen,
            lumen=LumenTracker(read_branch_tree(case)),
            outlets_behind=outlets_behind(case, outlets),
            split_uncertainty=INERTANCE_SHARE * mesh_drop_deviation(case),
        )

    @cached_property
    def shape_error_mmhg(self) -> float:
        """Pressure that an inflow of another shape would cause: its share of the mean flow, at the first harmonic that
        the filter does not learn, times the impedance of all Windkessels together."""
        planned = self.filter.planned
        omega = (self.filter.settings.harmonics + 1) * 2.0 * np.pi / self.waveform.period
        distal = planned.distal_resistance / (1.0 + 1j * omega * planned.distal_resistance * planned.compliance)
        impedance = 1.0 / np.sum(1.0 / (planned.proximal_resistance + distal))
        return float(self.settings.shape_uncertainty * self.waveform.mean * abs(impedance)) / PASCAL_PER_MMHG

    def coefficients(self, ports: PortState) -> Array:
        """(members, K) Pa: the decoder's of an ensemble, which is asked several times about one."""
        return cast(Array, self.once("coefficients", ports, self.reduced.decoder.coefficients))

    def once[T](self, name: str, of: T, make: Callable[[T], Any]) -> Any:
        """What is computed of a value that never changes; not again while it is the same one.

        Args:
            name: of what is computed.
            of: the value; a tuple of values counts as the same where each of them is.
            make: computes it from that and the case alone.
        """
        known = self._once.get(name)
        if known is None or not _same(known[0], of):
            known = self._once[name] = of, make(of)
        return known[1]

    def mean_coefficients(self, ports: PortState) -> Array:
        """(K,) Pa: the mean of an ensemble's `coefficients`."""
        return cast(Array, self.once("mean coefficients", ports, lambda one: self.coefficients(one).mean(axis=0)))

    def pressure_at(self, place: "Place", ports: PortState) -> Array:
        """(members, n) mmHg at the points of a place."""
        return place.operator.pressure(self.coefficients(ports)) / PASCAL_PER_MMHG

    def mean_gradient(self, place: "Place", ports: PortState) -> Array:
        """(3,) mmHg/mm, of the ensemble's mean at a place of one point."""
        mean = self.mean_coefficients(ports)
        gradient: Array = place.operator.mode_gradients[0] @ mean * (METRES_PER_MM / PASCAL_PER_MMHG)
        return gradient

    def model_error_mmhg(self, place: "Place", ports: PortState) -> Array:
        """(n,) standard deviation of the model's error in pressure at the points of a place.

        Of three parts: the reduced model against held-out 3D runs; the 3D model against the patient, as a share of the
        pressure drop from the inlet; and the inflow's unknown shape.
        """
        # Of the members' mean, and so of their mean coefficients; the first one is the inlet's pressure.
        mean = self.mean_coefficients(ports)
        drop = (place.operator.modes @ mean - mean[0]) / PASCAL_PER_MMHG
        return self.with_discrepancy(place.error_mmhg, drop)

    def port_error_mmhg(self, ports: PortState) -> Array:
        """(ports,) the same for the mean pressure of each port."""
        pressure = self.port_pressure(ports) / PASCAL_PER_MMHG
        return self.with_discrepancy(self.pressure_error_mmhg, (pressure - pressure[:, :1]).mean(axis=0))

    def said_flow_error_ml_s(self, flow: Array) -> Array:
        """(ports,) standard deviation of what is said of each port's flow beside the ensemble's.

        Args:
            flow: (members, ports) mL/s.
        """
        split = self.split_uncertainty * np.abs(flow.mean(axis=0))
        split[0] = 0.0  # what the outlets share is not in question
        total: Array = np.hypot(self.flow_error_ml_s, split)
        return total

    def with_discrepancy(self, reduced: Array | float, drop: Array | float) -> Array:
        """(n,) mmHg: the reduced model's error (n,), with the 3D model's on a drop (n,) and the inflow's shape's."""
        total: Array = np.sqrt(
            np.square(reduced) + (self.settings.drop_uncertainty * drop) ** 2 + self.shape_error_mmhg**2
        )
        return total

    def place(self, points: Array) -> "Place":
        """What the model says at points (n, 3) mm, LPS."""
        return Place.of(self.reduced, points)

    @cached_property
    def along_vessel(self) -> "PointOperator | None":
        """Pressure at the stations of the vessel's centerline; None where there is none."""
        if self.lumen is None:
            return None
        return self.reduced.decoder.point_operator(self.lumen.tree.points * METRES_PER_MM)

    @cached_property
    def _stations(self) -> Stations:
        """The centerline with the pressure modes on it."""
        assert self.lumen is not None
        assert self.along_vessel is not None
        tree = self.lumen.tree
        slopes = np.einsum("njk,nj->nk", self.along_vessel.mode_gradients, tree.tangents) * METRES_PER_MM
        arrays = (tree.points, tree.tangents, self.along_vessel.modes, slopes)
        return Stations(*(np.ascontiguousarray(one, dtype=float) for one in arrays))

    def pressure_near(self, place: "Place", ports: PortState, position: Array, moved: Array) -> Array:
        """(members,) mmHg: pressure at a point that each member has somewhere else.

        Args:
            place: of the point.
            ports: the ensemble.
            position: (3,) mm, the point.
            moved: (members, 3) mm from there.
        """
        coefficients = self.coefficients(ports)
        here = (coefficients @ place.operator.modes[0]) / PASCAL_PER_MMHG
        if self.lumen is None or self.along_vessel is None:
            linear: Array = here + moved @ self.mean_gradient(place, ports)
            return linear
        stations = self._stations
        change = pressure_changes(stations, position, np.ascontiguousarray(moved), coefficients, REACH_MM)
        along: Array = here + change / PASCAL_PER_MMHG
        return along

    def pressure_at_tip(self, ports: PortState, tip: Array, away: Array) -> tuple[float, float, float, float, float]:
        """What an ensemble says of the pressure at a tip.

        Args:
            ports: the ensemble.
            tip: (3,) mm, LPS; outside the lumen it stands for the nearest place in it.
            away: (members, 3) mm, where each member has it, from there.

        Returns:
            The mean [mmHg]; the members' variance [mmHg^2], each where it has the tip, and all at the same place;
            the mean's gradient [mmHg/mm]; and the standard deviation of the model's error [mmHg].
        """
        if self._tip_field is None:
            place = self.place(tip)
            mean, total = mean_and_variance(self.pressure_near(place, ports, tip, away))
            here = mean_and_variance(self.pressure_at(place, ports)[:, 0])[1]
            slope = float(np.linalg.norm(self.mean_gradient(place, ports)))
            return mean, total, here, slope, float(self.model_error_mmhg(place, ports)[0])
        cell, weights, _ = self.reduced.decoder.locator.locate_one(tip * METRES_PER_MM)
        coefficients, middle = self.coefficients(ports), self.mean_coefficients(ports)
        said = pressure_at_tip(self._tip_field, cell, weights, tip, away, coefficients, middle, REACH_MM)
        error = self.with_discrepancy(said.error / PASCAL_PER_MMHG, said.drop / PASCAL_PER_MMHG)
        square = PASCAL_PER_MMHG**2
        slope = said.slope * METRES_PER_MM / PASCAL_PER_MMHG
        return said.mean / PASCAL_PER_MMHG, said.variance / square, said.variance_here / square, slope, float(error)

    @cached_property
    def _tip_field(self) -> TipField | None:
        """What compiled code asks of the case; None where there is no centerline."""
        if self.lumen is None:
            return None
        decoder = self.reduced.decoder
        modes, gradients = decoder.nodal_modes
        errors = np.ascontiguousarray(self.reduced.pressure_error_std, dtype=float)
        return TipField(decoder.locator.tetrahedra, modes, gradients, errors, self._stations)

    def port_flow(self, ports: PortState) -> Array:
        """(members, ports) m^3/s: into the inlet, out of the outlets."""
        return cast(Array, self.once("port flow", ports, lambda one: np.column_stack([one.inflow, one.flow])))

    def port_pressure(self, ports: PortState) -> Array:
        """(members, ports) Pa."""

        def stacked(one: PortState) -> Array:
            return np.column_stack([one.inlet_pressure, one.outlet_pressure])

        return cast(Array, self.once("port pressure", ports, stacked))


def _same(known: object, of: object) -> bool:
    if isinstance(known, tuple) and isinstance(of, tuple):
        return len(known) == len(of) and all(one is other for one, other in zip(known, of, strict=True))
    return known is of


def outlets_behind(case: Case, outlets: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """By branch: which outlets (N,) its blood goes to."""
    rows = {row["branch"]: row for row in read_table(case.require(BRANCHES))}
    behind = {name: np.zeros(len(outlets), dtype=bool) for name in rows}
    for row in rows.values():
        if row["port"] not in outlets:
            continue
        name = row["branch"]
        while name in rows:
            behind[name][outlets.index(row["port"])] = True
            name = rows[name]["parent"]
    return behind


def calibrated_prior(case: Case, outlets: Sequence[str]) -> tuple[Array, Array] | None:
    """Mean and root of what the case's calibration has left; None where it has none.

    Raises:
        InputError: the calibration cannot be read, or is of another plan.
    """
    if not case.path(CALIBRATION).is_file():
        return None
    prior = FlowPrior.of_case(case, outlets).with_harmonics(FilterSettings().harmonics)
    return prior.mean, prior.root


def filter_settings(case: Case) -> FilterSettings:
    """The filter's settings for a case: its losses are known less, the more coarsely its stenoses are meshed."""
    usual = FilterSettings()
    return replace(usual, drop_deviation=float(np.hypot(usual.drop_deviation, mesh_drop_deviation(case))))


def flow_error(
    reduced: ReducedModel, mean_flow: float, windkessels: Mapping[str, Windkessel], settings: SessionSettings
) -> Array:
    """(ports,) m^3/s: error of the reduced model against held-out runs, and that of the inflow's shape, which the
    outlets share as they share the mean flow."""
    conductance = np.array([1.0 / windkessels[name].distal_resistance for name in reduced.ports.outlets])
    share = np.concatenate([[1.0], conductance / conductance.sum()])
    total: Array = np.hypot(
        np.concatenate([[0.0], reduced.port_flow_error]), settings.shape_uncertainty * mean_flow * share
    )
    return total
