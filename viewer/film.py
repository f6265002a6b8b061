"""A film of what the display showed: MP4, one frame a twenty-fifth of a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from viewer.errors import InputError
from viewer.scene import Scene

if TYPE_CHECKING:
    from streams.messages import TwinState

FRAMES_PER_S = 25.0


def write_film(
    path: Path | str,
    scene: Scene,
    states: Iterable[TwinState],
    *,
    speed: float = 1.0,
    say: Callable[[float], None] | None = None,
) -> int:
    """Write a film of states as the scene shows them; the file appears complete or not at all.

    Every state enters the curves; at each frame's time the newest is shown. The foot of the panel tells the time since
    the first state, so that a frame can be found again in the recording.

    Args:
        path: ending in .mp4.
        scene: off screen, of the states' case.
        states: in the order of time.
        speed: seconds of the procedure in a second of film.
        say: called with the seconds of the procedure that are done.

    Returns:
        How many frames were written.

    Raises:
        InputError: no states, a speed that is none, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path.name} must end in .mp4.")
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; make it before writing {path.name} there.")
    if not 0.01 <= speed <= 100.0:
        raise InputError(f"a film at {speed:g} times the speed is none; give 0.01 to 100.")
    width, height = (2 * (side // 2) for side in scene.size)  # the codec halves its colors' resolution
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    film = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_S, (width, height))
    try:
        if not film.isOpened():
            raise InputError(f"{path} cannot be written as a film; is there room on the disk?")
        frames = 0
        first_ns: int | None = None
        for state in states:
            first_ns = state.source_time_ns if first_ns is None else first_ns
            seconds = (state.source_time_ns - first_ns) * 1e-9
            scene.remember(state)
            if seconds < frames * speed / FRAMES_PER_S:
                continue
            scene.pace = f"recorded {int(seconds // 60)}:{seconds % 60:04.1f}" + (
                f", {speed:g} x" if speed != 1.0 else ""
            )
            scene.update(state)
            picture = scene.render()[:height, :width]
            # A gap in the states is shown as long as it was.
            while frames * speed / FRAMES_PER_S <= seconds:
                film.write(np.ascontiguousarray(picture[..., ::-1]))
                frames += 1
            if say is not None:
                say(seconds)
        film.release()
        if not frames:
            raise InputError("there are no states to film.")
        os.replace(temporary, path)
        return frames
    finally:
        film.release()
        temporary.unlink(missing_ok=True)
