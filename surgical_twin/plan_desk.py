"""What the planning page shows of a case and does to it; the page is the viewer's."""

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from meshes.errors import InputError as MeshesInputError
from meshes.files import read_lumen_mesh
from registration.errors import InputError as RegistrationInputError
from streams.audit import note
from streams.errors import InputError as StreamsInputError
from surgical_twin.case import MESH, PICTURE, Case
from surgical_twin.errors import InputError
from surgical_twin.plan_approval import AUDIT_LOG, approval_status, approve, withdraw
from surgical_twin.plan_checks import plan_checks
from surgical_twin.plan_landmarks import PlanLandmarks
from surgical_twin.port_names import rename_port
from surgical_twin.prediction.live_what_if import WhatIfDesk
from viewer.plan_desk import CheckRow, LandmarkRow, PlanRefused, PortRow
from viewer.what_if_panel import Answer, answer_picture, answer_rows

REFUSALS = (InputError, MeshesInputError, RegistrationInputError, StreamsInputError, OSError)
"""What is told to the person instead of ending the page."""


class CasePlanDesk:
    """Implements `viewer.plan_desk.PlanDesk` on a case folder.

    Raises:
        InputError: the case is not planned to its end.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._landmarks = PlanLandmarks(case)
        self._questions = WhatIfDesk(case.folder)
        self._flows = self._planned_flows()

    def close(self) -> None:
        """End what was asked and is not answered yet."""
        self._questions.close()

    def ports(self) -> list[PortRow]:
        """Name, role, center, radius and planned flow of each."""
        rows = []
        for port, words in zip(read_lumen_mesh(self._case.require(MESH)).ports, self._flows, strict=True):
            rows.append(PortRow(port.name, port.role, tuple(port.center.tolist()), float(port.radius), words))
        return rows

    def _planned_flows(self) -> list[str]:
        """Mean flow through each port as planned, mL/min with its 95 % interval: what is before a change of nothing."""
        answer = self._questions.ask((("svr", "+0%"),), "auto", None).result()
        found = []
        for port in read_lumen_mesh(self._case.require(MESH)).ports:
            before = answer["quantities"][f"mean flow {port.name} [mL/min]"]["before"]
            found.append(f"{before['value']:.0f} [{before['lower']:.0f}, {before['upper']:.0f}]")
        return found

    def rename_port(self, old: str, new: str) -> None:
        """See `surgical_twin.port_names.rename_port`."""
        self._do("port renamed", rename_port, self._case, old, new.strip(), old=old, new=new)
        # The process that answers questions has the old names.
        self._questions.close()
        self._questions = WhatIfDesk(self._case.folder)

    def landmarks(self) -> list[LandmarkRow]:
        """Fiducials first."""
        both = (("fiducial", self._landmarks.fiducials), ("landmark", self._landmarks.marks))
        return [LandmarkRow(name, kind, tuple(at.tolist())) for kind, points in both for name, at in points.items()]

    def place_landmark(self, name: str, point: ArrayLike, *, fiducial: bool = False) -> None:
        """Put one at a point, mm LPS; one of that name is moved there."""
        place = self._landmarks.add_fiducial if fiducial else self._landmarks.place
        where = np.round(np.asarray(point, dtype=float), 3).tolist()
        self._do("landmark placed", place, name, where, name=name, point=where)

    def rename_landmark(self, old: str, new: str) -> None:
        """Call it otherwise."""
        self._do("landmark renamed", self._landmarks.rename, old, new, old=old, new=new)

    def remove_landmark(self, name: str) -> None:
        """Take it away."""
        self._do("landmark removed", self._landmarks.remove, name, name=name)

    def outlets(self) -> list[str]:
        """What may be clamped."""
        return [port.name for port in read_lumen_mesh(self._case.require(MESH)).ports if port.role == "outlet"]

    def present(self) -> tuple[float, float]:
        """Planned cardiac output through the inlet [L/min] and heart rate [1/min]."""
        flow = self._case.manifest["flow"]
        return 6e4 * float(flow["mean_flow_m3_s"]), 60.0 / float(flow["period_s"])

    def ask(self, wishes: Sequence[tuple[str, str]]) -> Answer:
        """Before and after, from the reduced model, each with its interval; or a row that says why not."""
        try:
            answer = self._questions.ask(tuple(wishes), "auto", None).result()
        except CancelledError:
            return Answer([["not answered", "a port was renamed meanwhile; ask again", "", ""]])
        except REFUSALS as error:
            return Answer([["not answered", str(error), "", ""]])
        return Answer(answer_rows(answer), answer_picture(answer))

    def checks(self) -> list[CheckRow]:
        """What a person should know before approving."""
        try:
            return [CheckRow(one.name, one.verdict, one.words) for one in plan_checks(self._case)]
        except REFUSALS as error:
            return [CheckRow("Case", "failed", str(error))]

    def segmentation_picture(self) -> bytes | None:
        """PNG of the image with the lumen's outline; None where the case has none."""
        path = self._case.path(PICTURE)
        return path.read_bytes() if path.is_file() else None

    def approval(self) -> tuple[str, str]:
        """State (approved, changed or none) and words."""
        try:
            status = approval_status(self._case)
        except REFUSALS as error:
            return "changed", str(error)
        return status.state, status.words

    def approve(self, who: str, reason: str, *, seen: bool) -> str:
        """Approve the plan as it is; returns words.

        Args:
            who: the person.
            reason: why in spite of checks that failed.
            seen: whether the person says to have looked at the segmentation.
        """
        if not seen:
            raise PlanRefused("Look at the outline of the segmentation first, and say that you have.")
        failed = [one.name for one in self.checks() if one.verdict == "failed"]
        try:
            return approve(Case.open(self._case.folder), who, failed=failed, reason=reason).words
        except REFUSALS as error:
            raise PlanRefused(str(error)) from error

    def withdraw(self, who: str) -> str:
        """Take the approval back; returns words."""
        try:
            return withdraw(self._case, who).words
        except REFUSALS as error:
            raise PlanRefused(str(error)) from error

    def _do(self, what: str, act: Any, *arguments: Any, **details: Any) -> None:
        """Do something to the case, and say so in its audit log."""
        try:
            act(*arguments)
            note(self._case.path(AUDIT_LOG), what, **details)
        except REFUSALS as error:
            raise PlanRefused(str(error)) from error
