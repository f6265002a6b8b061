import numpy as np
import pytest

from viewer import colors
from viewer.errors import InputError
from viewer.player import Player
from viewer.scene import Scene


@pytest.fixture
def played(state):
    now = [100.0]
    passed = []
    states = [state(sequence=n, source_time_ns=5_000_000_000 + n * 10_000_000) for n in range(1001)]
    return Player(states, every=lambda one: passed.append(one.sequence), clock=lambda: now[0]), now, passed


def test_time_speed_pause_and_jumps(played):
    player, now, passed = played
    assert player.duration_s == pytest.approx(10.0)
    assert player.next_state().sequence == 0
    now[0] += 1.0
    assert player.next_state().sequence == 100
    assert passed == list(range(1, 100))  # none is left out of the curves
    assert player.next_state() is None
    player.run_at(4.0)
    now[0] += 0.5
    assert player.next_state().sequence == 300
    player.pause()
    now[0] += 3.0
    assert player.next_state().sequence == 300
    assert player.paused
    player.play()
    now[0] += 0.25
    assert player.next_state().sequence == 400
    passed.clear()
    player.seek(2.5)
    assert player.next_state().sequence == 250
    assert passed == list(range(250))  # what was before the jump, for the curves
    now[0] += 100.0
    assert player.next_state().sequence == 1000
    assert player.paused
    player.play()
    assert player.position_s == 0.0


def test_bookmarks_are_kept_in_order_and_once(played):
    player, _, _ = played
    for at in (7.0, 2.0, 7.0):
        player.seek(at)
        player.bookmark()
    assert player.bookmarks == [2.0, 7.0]
    player.seek(1e9)
    assert player.position_s == pytest.approx(10.0)
    player.seek(-5.0)
    assert player.position_s == 0.0


def test_recordings_that_cannot_be_played_are_refused(played, state):
    with pytest.raises(InputError, match="no states"):
        Player([])
    with pytest.raises(InputError, match="order of time"):
        Player([state(source_time_ns=2), state(source_time_ns=1)])
    with pytest.raises(InputError, match="times the speed"):
        played[0].run_at(0.0)


def test_a_replay_is_shown_as_one_but_not_as_untrusted(lumen, state):
    scene = Scene(lumen, size=(960, 540))
    scene.update(state(flags=("replay",)))
    assert scene.trusted
    picture = scene.render()
    near = [
        (np.abs(picture.astype(int) - colors.rgb(c)).max(axis=2) < 12).mean() for c in (colors.REPLAY, colors.ALARM)
    ]
    assert near[0] > 0.001
    assert near[1] < 0.0005
    assert [a.words for a in scene.alerts.alerts] == ["replay of a recording: not the patient now"]
    scene.update(state(flags=("replay", "pressure_stale")))
    assert not scene.trusted
    scene.close()
