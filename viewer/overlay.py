"""Augmented reality: lumen and tool drawn over a camera's image, where the camera sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from registration.camera import PinholeCamera
from viewer import colors
from viewer.actors import LumenActors, ToolActors, typical_radius
from viewer.alert_strip import draw_banner, reasons
from viewer.alerts import doubts
from viewer.catheter import CatheterPath
from viewer.errors import InputError
from viewer.lens import Lens, picture
from viewer.lettering import DESIGN_HEIGHT, font, format_estimate

if TYPE_CHECKING:
    from streams.messages import TwinState


class Overlay:
    """Lumen and tool as one calibrated camera sees them, to lay over its image.

    Args:
        lumen: display surface with pressure modes, as for `viewer.scene.Scene`.
        camera: the calibrated camera; `camera_from_world` maps mm LPS to the camera frame.
        centerline: for the catheter's shaft.
        pressure_range: fixed ends of the color scale in mmHg.
        opacity: how strongly the drawing covers the image, 0 to 1.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        camera: PinholeCamera,
        *,
        centerline: pv.PolyData | None = None,
        pressure_range: tuple[float, float] = (60.0, 140.0),
        opacity: float = 0.75,
    ) -> None:
        if not 0.0 < opacity <= 1.0:
            raise InputError(f"overlay opacity {opacity:g} lies outside 0 to 1; 1 hides the camera image.")
        self._lens = Lens.of(camera)
        self._pose = camera.camera_from_world
        self._opacity = opacity
        self._lumen = LumenActors(lumen, pressure_range)
        path = None if centerline is None else CatheterPath(centerline)
        self._tool = ToolActors(path, radius=float(np.clip(0.28 * typical_radius(lumen, centerline), 0.4, 2.5)))
        self._state: TwinState | None = None
        self._plotter = pv.Plotter(off_screen=True, border=False, lighting="none")
        self._plotter.set_background("black")
        self._plotter.add_light(pv.Light(light_type="headlight"))
        for actor in (*self._tool.actors, *self._lumen.actors):
            self._plotter.renderer.AddActor(actor)
        self._plotter.enable_anti_aliasing("msaa", multi_samples=4)

    def look(self, camera_from_world: ArrayLike) -> None:
        """Move the camera (4, 4): a tracked endoscope or a headset moves with every frame."""
        self._pose = self._lens.camera.posed(camera_from_world).camera_from_world

    def update(self, state: TwinState) -> None:
        """Take a new state; one with flags is drawn hatched grey."""
        trusted = not doubts(state.flags) and len(state.field_coefficients) > 0
        self._lumen.show(state.field_coefficients if trusted else None)
        self._tool.show(state)
        self._state = state

    def render(self) -> NDArray[np.uint8]:
        """Lumen and tool as the camera sees them: (height, width, 4), color premultiplied by alpha, lens
        included."""
        renderer = self._plotter.renderer
        self._lens.aim(self._plotter, self._pose, renderer.ComputeVisiblePropBounds())
        ideal = self._lens.ideal
        return self._lens.bend(picture(self._plotter, (ideal.width, ideal.height), transparent=True))

    def compose(self, image: NDArray[np.uint8], *, readout: bool = True) -> NDArray[np.uint8]:
        """Lay the drawing over a camera image (height, width, 3), with the tip's pressure and any distrust in
        words.

        Raises:
            InputError: an image of another size than the camera was calibrated for.
        """
        camera = self._lens.camera
        if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
            raise InputError(
                f"camera image has shape {image.shape} and type {image.dtype}; the camera was calibrated for "
                f"({camera.height}, {camera.width}, 3) of uint8."
            )
        drawing = self.render().astype(np.float32)
        cover = self._opacity * drawing[..., 3:] / 255.0
        result = np.clip(image * (1.0 - cover) + self._opacity * drawing[..., :3] + 0.5, 0, 255).astype(np.uint8)
        return self._annotate(result) if readout else result

    def close(self) -> None:
        """Give the renderer's memory back."""
        self._plotter.close()

    def _annotate(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Banner if untrusted; tip pressure with its interval at the lower left."""
        height, width = image.shape[:2]
        scale = min(height / DESIGN_HEIGHT, width / 900.0)
        words = ("no state received yet",) if self._state is None else reasons(self._state)
        if words:
            strip = draw_banner(words, width, scale)
            image[: strip.shape[0]] = strip[:height]
        if self._state is None or self._state.tip_pressure_mmhg is None:
            return image
        value, interval = format_estimate(self._state.tip_pressure_mmhg)
        big, small = font(round(34 * scale), bold=True), font(round(17 * scale))
        canvas = Image.fromarray(image)
        draw = ImageDraw.Draw(canvas, "RGBA")
        unit = f"{interval} mmHg  (95 %)"
        box = max(draw.textlength(f"Tip {value} mmHg", font=big), draw.textlength(unit, font=small))
        left, top, pad = round(20 * scale), height - round(110 * scale), round(16 * scale)
        draw.rounded_rectangle(
            [left, top, left + box + 2 * pad, height - round(20 * scale)],
            round(8 * scale),
            fill=(*colors.rgb(colors.BACKGROUND), 205),
        )
        ink = colors.MUTED if words else colors.TEXT
        draw.text((left + pad, top + round(46 * scale)), f"Tip {value} mmHg", font=big, fill=ink, anchor="ls")
        draw.text((left + pad, top + round(74 * scale)), unit, font=small, fill=ink, anchor="ls")
        return np.asarray(canvas, dtype=np.uint8)
