"""The planning page: the plan's slices and vessel, its ports, landmarks, questions to it, checks, and its approval.

The same scene as that of a procedure, drawn on this machine; what is read and typed stands beside it. A person's wish
that cannot be met is answered in words under what was typed, and nothing has changed then.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from viewer import colors
from viewer.controls import Controls
from viewer.errors import InputError
from viewer.layout import PLANNING
from viewer.plan_desk import PlanDesk, PlanRefused
from viewer.scene import Scene
from viewer.web import beside, picture_of, png_address, require_free, require_interactor, run_server

TABS = (("ports", "Ports"), ("landmarks", "Landmarks"), ("what_if", "What if"), ("approval", "Approval"))
PANEL_PX = 500

SLIDERS = (
    # key, title, unit, lowest, highest, step
    ("resistance", "Outlet resistance", "%", -60, 150, 5),
    ("output", "Cardiac output", "%", -50, 60, 5),
    ("rate", "Heart rate", "%", -40, 80, 5),
    ("clamp", "Clamped area", "%", 0, 100, 5),
)

VERDICTS = {"good": ("✓", colors.TRUSTED), "caution": ("!", "#f5c542"), "failed": ("✗", colors.ALARM)}


class PlanPage:
    """The page's server, its state and what its controls do.

    Args:
        scene: off-screen, arranged for planning, showing the plan.
        desk: what may be done to the case.
    """

    def __init__(self, scene: Scene, desk: PlanDesk) -> None:
        from trame.app import get_server

        self._scene, self._desk = scene, desk
        require_interactor(scene)
        self.server = get_server("surgical-twin-plan", client_type="vue3")
        self._state = self.server.state
        self._begin()
        # What changes is asked for, not what a hand lets go: that may be told before the value has come.
        self._state.change(*(f"slider_{key}" for key, *_ in SLIDERS), "outlet")(self._moved)
        self._controls = Controls(scene, self._draw)
        self._view = self._build()

    def _begin(self) -> None:
        state = self._state
        state.trame__title = "Surgical twin: planning"
        state.tab, state.said, state.good = "ports", "", True
        state.selected_port, state.port_name = "", ""
        state.landmark_name, state.selected_landmark = "", ""
        state.asking, state.answer, state.answer_picture, state.asked = False, [], "", ""
        state.who, state.reason, state.seen = "", "", False
        output, rate = self._desk.present()
        state.present_output, state.present_rate = round(output, 3), round(rate, 1)
        for key, *_ in SLIDERS:
            state[f"slider_{key}"] = 0
        state.outlet = ""
        self._refresh_ports()
        self._refresh_landmarks()
        self._refresh_checks()

    # What is shown

    def _refresh_ports(self) -> None:
        rows = self._desk.ports()
        self._ports = {row.name: row for row in rows}
        self._state.ports = [
            {"name": row.name, "role": row.role, "radius": f"{row.radius_mm:.2f}", "flow": row.flow} for row in rows
        ]
        self._state.outlets = self._desk.outlets()
        if self._state.outlet not in self._state.outlets:
            self._state.outlet = self._state.outlets[0] if self._state.outlets else ""
        self._scene.name_ports({row.name: row.center for row in rows})

    def _refresh_landmarks(self) -> None:
        rows = self._desk.landmarks()
        self._landmarks = {row.name: row for row in rows}
        self._state.landmarks = [
            {"name": row.name, "kind": row.kind, "at": ", ".join(f"{value:.1f}" for value in row.at)} for row in rows
        ]
        self._scene.mark({row.name: row.at for row in rows})

    def _refresh_checks(self) -> None:
        self._state.checks = [
            {"name": row.name, "verdict": row.verdict, "words": row.words, "mark": VERDICTS[row.verdict][0],
             "color": VERDICTS[row.verdict][1]}
            for row in self._desk.checks()
        ]  # fmt: skip
        self._state.failed = sum(row["verdict"] == "failed" for row in self._state.checks)
        self._state.approved, self._state.approval = self._desk.approval()
        picture = self._desk.segmentation_picture()
        self._state.segmentation = "" if picture is None else _address(picture)

    def _draw(self) -> None:
        self._scene.refresh(at_once=True)
        center = next(iter(self._scene.slices.values())).center
        self._state.cross = ", ".join(f"{value:.1f}" for value in center)
        self._state.flush()
        self._view.update()

    # What a person does

    def _try(self, act: Callable[[], Any], done: str) -> bool:
        """Do it and say so, or say why not; whether it was done."""
        try:
            act()
        except (PlanRefused, InputError) as error:
            self._state.said, self._state.good = str(error), False
            return False
        self._state.said, self._state.good = done, True
        return True

    def _go(self, point: Any) -> None:
        self._scene.cross_at(point)
        self._draw()

    def select_port(self, name: str) -> None:
        """Go to a port, and offer its name for a change."""
        if name in self._ports:
            self._state.selected_port = self._state.port_name = name
            self._state.dirty("port_name")
            self._go(self._ports[name].center)

    def rename_port(self) -> None:
        """Call the selected port as was typed."""
        old, new = str(self._state.selected_port), str(self._state.port_name).strip()
        if self._try(lambda: self._desk.rename_port(old, new), f"{old} is now {new}"):
            self._state.selected_port = new
            self._refresh_ports()
            self._refresh_checks()
            self._draw()

    def select_landmark(self, name: str) -> None:
        """Go to a landmark, and offer its name for a change."""
        if name in self._landmarks:
            self._state.selected_landmark = self._state.landmark_name = name
            self._state.dirty("landmark_name")
            self._go(self._landmarks[name].at)

    def place(self, kind: str) -> None:
        """Put the landmark that was typed, or the selected one (`kind` "move"), where the slices meet."""
        name = str(self._state.selected_landmark if kind == "move" else self._state.landmark_name)
        point = next(iter(self._scene.slices.values())).center
        if kind != "move" and name.strip() in self._landmarks:
            self._state.said, self._state.good = f'The name "{name}" is taken; give another, or move that one.', False
            return
        self._landmark(
            lambda: self._desk.place_landmark(name, point, fiducial=kind == "fiducial"),
            f"{name.strip()} is at ({', '.join(f'{value:.1f}' for value in point)}) mm",
        )

    def rename_landmark(self) -> None:
        """Call the selected landmark as was typed."""
        old, new = str(self._state.selected_landmark), str(self._state.landmark_name)
        if self._landmark(lambda: self._desk.rename_landmark(old, new), f"{old} is now {new.strip()}"):
            self._state.selected_landmark = new.strip()

    def remove_landmark(self) -> None:
        """Take the selected one away."""
        name = str(self._state.selected_landmark)
        if self._landmark(lambda: self._desk.remove_landmark(name), f"{name} is removed"):
            self._state.selected_landmark = self._state.landmark_name = ""
            self._state.dirty("landmark_name")

    def _landmark(self, act: Callable[[], None], done: str) -> bool:
        if not self._try(act, done):
            return False
        self._refresh_landmarks()
        self._refresh_checks()
        self._draw()
        return True

    def wishes(self) -> list[tuple[str, str]]:
        """What the sliders ask for, as kinds and values of the command ``what-if``."""
        state, found = self._state, []
        for key, kind in (("resistance", "svr"), ("output", "inflow"), ("rate", "heart-rate")):
            change = float(state[f"slider_{key}"])
            if change:
                found.append((kind, f"{change:+g}%"))
        if float(state.slider_clamp) and state.outlet:
            found.append(("clamp", f"{state.outlet}={float(state.slider_clamp):g}%"))
        return found

    def _moved(self, **_: Any) -> None:
        if str(self.wishes()) != self._state.asked and (self.wishes() or self._state.asked):
            self.ask()

    def ask(self, *_: Any) -> None:
        """Ask the reduced model; a slider moved meanwhile is asked for afterwards, and all else goes on."""
        if not self._state.asking:
            self._state.asking = True
            beside(self._answered())

    async def _answered(self) -> None:
        state = self._state
        while str(wishes := self.wishes()) != state.asked:
            state.asked = str(wishes)
            if not wishes:
                state.answer, state.answer_picture = [], ""
                break
            state.flush()
            answer = await asyncio.to_thread(self._desk.ask, wishes)
            state.answer = answer.rows
            state.answer_picture = "" if answer.picture is None else png_address(answer.picture)
        state.asking = False
        state.flush()

    def reset_sliders(self) -> None:
        """Back to the plan."""
        for key, *_ in SLIDERS:
            self._state[f"slider_{key}"] = 0
            self._state.dirty(f"slider_{key}")  # trame takes what it sent last for what the page has
        self._state.answer, self._state.answer_picture, self._state.asked = [], "", ""

    def approve(self) -> None:
        """Approve the plan in the name that was typed."""
        who, reason, seen = str(self._state.who), str(self._state.reason), bool(self._state.seen)
        if self._try(lambda: self._desk.approve(who, reason, seen=seen), "approved"):
            self._refresh_checks()

    def withdraw(self) -> None:
        """Take the approval back in the name that was typed."""
        if self._try(lambda: self._desk.withdraw(str(self._state.who)), "the approval is withdrawn"):
            self._refresh_checks()

    def look_again(self) -> None:
        """Check the case's files anew."""
        self._refresh_checks()
        self._state.said, self._state.good = "checked", True

    # The page

    def _build(self) -> Any:
        from trame.ui.vuetify3 import VAppLayout
        from trame.widgets import html, vuetify3

        state = self._state
        state.cross = ""
        self._scene.refresh(at_once=True)
        with VAppLayout(self.server, theme="dark") as layout:
            with vuetify3.VNavigationDrawer(
                location="right", permanent=True, width=PANEL_PX, color=colors.PANEL, classes="plan-panel"
            ):
                with vuetify3.VTabs(v_model=("tab",), density="comfortable", grow=True):
                    for key, title in TABS:
                        vuetify3.VTab(title, value=key, classes=f"tab-{key}")
                with html.Div(style="padding: 14px 16px; font-size: 16px;"):
                    html.Div(
                        "{{ said }}",
                        v_if=("said",),
                        classes="said",
                        style=("`margin-bottom: 10px; font-weight: 700; color: ${good ? '#7fd6a8' : '#ff8f8f'}`",),
                    )
                    self._ports_tab(html, vuetify3)
                    self._landmarks_tab(html, vuetify3)
                    self._what_if_tab(html, vuetify3)
                    self._approval_tab(html, vuetify3)
                with vuetify3.Template(v_slot_append=True), html.Div(style="padding: 8px 16px;", classes="plan-scale"):
                    quantity = self._scene.quantity
                    low, high = quantity.limits
                    html.Div(
                        f"{quantity.title.capitalize()} [{quantity.unit}] as planned, when inflow is highest",
                        style="font-size: 13px; color: #9aa7b5;",
                    )
                    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b, _ in quantity.table(17))
                    html.Div(style=f"height: 14px; background: linear-gradient(90deg, {stops});")
                    with html.Div(style="display: flex; justify-content: space-between; font-size: 13px;"):
                        for value in (low, 0.5 * (low + high), high):
                            html.Div(f"{value:g}")
            with vuetify3.VMain(style=f"background: {colors.BACKGROUND}; height: 100vh;"):
                view = picture_of(self.server, self._controls)
        layout.root.style = f"background: {colors.BACKGROUND};"
        return view

    def _ports_tab(self, html: Any, vuetify3: Any) -> None:
        with html.Div(v_show=("tab === 'ports'",)):
            with vuetify3.VTable(density="comfortable", classes="ports"):
                with html.Thead(), html.Tr():
                    for head in ("port", "", "radius mm", "planned flow mL/min, 95 %"):
                        html.Th(head)
                with (
                    html.Tbody(),
                    html.Tr(
                        v_for="row in ports",
                        key="row.name",
                        click=(self.select_port, "[row.name]"),
                        style=("`cursor: pointer; background: ${row.name === selected_port ? '#2b3542' : 'none'}`",),
                    ),
                ):
                    for cell in ("row.name", "row.role", "row.radius", "row.flow"):
                        html.Td("{{ " + cell + " }}")
            with html.Div(style="display: flex; gap: 10px; margin-top: 14px;"):
                vuetify3.VTextField(
                    v_model=("port_name",), label="Name of the selected port", density="compact",
                    disabled=("!selected_port",), classes="port-name",
                )  # fmt: skip
                vuetify3.VBtn(
                    "Rename", click=self.rename_port, disabled=("!selected_port",), classes="port-rename", size="large"
                )
            html.Div("Click a port to bring the slices there.", style="color: #9aa7b5;")

    def _landmarks_tab(self, html: Any, vuetify3: Any) -> None:
        with html.Div(v_show=("tab === 'landmarks'",)):
            with (
                html.Div(style="max-height: 46vh; overflow-y: auto;"),
                vuetify3.VTable(density="compact", classes="landmarks"),
            ):
                with html.Thead(), html.Tr():
                    for head in ("name", "", "L, P, S mm"):
                        html.Th(head)
                with (
                    html.Tbody(),
                    html.Tr(
                        v_for="row in landmarks",
                        key="row.name",
                        click=(self.select_landmark, "[row.name]"),
                        style=(
                            "`cursor: pointer; background: ${row.name === selected_landmark ? '#2b3542' : 'none'}`",
                        ),
                    ),
                ):
                    for cell in ("row.name", "row.kind", "row.at"):
                        html.Td("{{ " + cell + " }}")
            html.Div(
                "Slices meet at ({{ cross }}) mm. Hold shift and move the mouse over a slice or the 3D view to bring "
                "them elsewhere.",
                style="color: #9aa7b5; margin: 10px 0;",
            )
            vuetify3.VTextField(
                v_model=("landmark_name",),
                label="Name (target: what the display navigates to)",
                density="compact",
                classes="landmark-name",
            )
            with html.Div(style="display: flex; flex-wrap: wrap; gap: 10px;"):
                for title, act, classes, needed in (
                    ("Landmark here", (self.place, "['landmark']"), "landmark-add", False),
                    ("Fiducial here", (self.place, "['fiducial']"), "fiducial-add", False),
                    ("Move here", (self.place, "['move']"), "landmark-move", True),
                    ("Rename", self.rename_landmark, "landmark-rename", True),
                    ("Remove", self.remove_landmark, "landmark-remove", True),
                ):
                    extra = {"disabled": ("!selected_landmark",)} if needed else {}
                    vuetify3.VBtn(title, click=act, classes=classes, variant="outlined", **extra)

    def _what_if_tab(self, html: Any, vuetify3: Any) -> None:
        with html.Div(v_show=("tab === 'what_if'",)):
            for key, title, unit, low, high, step in SLIDERS:
                present = {
                    "output": " = {{ (present_output * (1 + slider_output / 100)).toFixed(2) }} L/min",
                    "rate": " = {{ (present_rate * (1 + slider_rate / 100)).toFixed(0) }} /min",
                    "clamp": " of {{ outlet }}",
                }.get(key, "")
                sign = "" if key == "clamp" else "{{ slider_" + key + " > 0 ? '+' : '' }}"
                html.Div(f"{title}: {sign}{{{{ slider_{key} }}}} {unit}{present}", classes=f"value-{key}")
                vuetify3.VSlider(
                    v_model=(f"slider_{key}",),
                    min=low,
                    max=high,
                    step=step,
                    hide_details=True,
                    classes=f"slider-{key}",
                )
            with html.Div(style="display: flex; gap: 10px; margin-top: 8px;"):
                vuetify3.VSelect(
                    v_model=("outlet",), items=("outlets",), label="Outlet to clamp", density="compact",
                    classes="control-outlet", hide_details=True,
                )  # fmt: skip
                vuetify3.VBtn("Ask", click=self.ask, loading=("asking",), classes="plan-ask", size="large")
                vuetify3.VBtn("Reset", click=self.reset_sliders, classes="plan-reset", size="large", variant="outlined")
            html.Img(
                v_if=("answer_picture",),
                src=("answer_picture",),
                classes="before-after",
                style="width: 100%; margin-top: 10px;",
            )
            with vuetify3.VTable(v_if=("answer.length",), density="compact", classes="answer"):
                with html.Thead(), html.Tr():
                    for head in ("quantity, 95 %", "before", "after", "change"):
                        html.Th(head)
                with html.Tbody(), html.Tr(v_for="row in answer", key="row[0]"):
                    html.Td("{{ cell }}", v_for="(cell, i) in row", key="i", style="font-size: 13px;")

    def _approval_tab(self, html: Any, vuetify3: Any) -> None:
        with html.Div(v_show=("tab === 'approval'",)):
            with html.Div(v_for="row in checks", key="row.name", style="display: flex; gap: 10px; margin-bottom: 8px;"):
                html.Div(
                    "{{ row.mark }}",
                    style=(
                        "`flex: 0 0 28px; height: 28px; border-radius: 6px; text-align: center; font-weight: 700;"
                        " color: ${row.verdict === 'caution' ? '#000' : '#fff'}; background: ${row.color}`",
                    ),
                )
                with html.Div():
                    html.Div("{{ row.name }}", style="font-weight: 700;")
                    html.Div("{{ row.words }}", style="font-size: 14px; color: #c4ccd6;")
            html.Img(
                v_if=("segmentation",),
                src=("segmentation",),
                classes="segmentation",
                style="width: 100%; margin: 6px 0;",
            )
            vuetify3.VCheckbox(
                v_model=("seen",),
                label="I have looked at the outline of the segmentation",
                density="compact",
                hide_details=True,
                classes="approve-seen",
            )
            vuetify3.VTextField(v_model=("who",), label="Name", density="compact", classes="approve-who")
            vuetify3.VTextField(
                v_model=("reason",),
                v_if=("failed > 0",),
                label="Why in spite of the failed checks",
                density="compact",
                classes="approve-reason",
            )
            html.Div(
                "{{ approval }}",
                classes="approval",
                style=(
                    "`font-weight: 700; margin-bottom: 10px; color: ${approved === 'approved' ? '#7fd6a8' :"
                    " approved === 'changed' ? '#f5c542' : '#9aa7b5'}`",
                ),
            )
            with html.Div(style="display: flex; flex-wrap: wrap; gap: 10px;"):
                vuetify3.VBtn("Approve the plan", click=self.approve, classes="approve", color="primary", size="large")
                vuetify3.VBtn(
                    "Withdraw",
                    click=self.withdraw,
                    disabled=("approved === 'none'",),
                    classes="withdraw",
                    size="large",
                    variant="outlined",
                )
                vuetify3.VBtn("Check again", click=self.look_again, classes="check-again", size="large", variant="text")


def serve_plan(
    scene: Scene,
    desk: PlanDesk,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the planning page until interrupted.

    Args:
        scene: an off-screen scene that shows the plan.
        desk: what may be done to the case.
        host: address to listen on; the page has no password and changes the case.
        port: TCP port.
        on_ready: called with the page's address once it is served.

    Raises:
        InputError: the port is in use or may not be opened.
    """
    require_free(host, port)
    scene.arrange(PLANNING)
    page = PlanPage(scene, desk)

    async def pulse(**_: Any) -> None:
        if on_ready is not None:
            on_ready(f"http://{host}:{port}/")

    run_server(page.server, pulse, host, port)


def _address(png: bytes) -> str:
    return png_address(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))
