"""What the simulated room's further devices say of a truth that is known."""

import msgspec
import numpy as np
import pytest

from streams.messages import CardiacOutput, DopplerVelocity, PressureSamples, SectionFlow
from streams.transducer import MMHG_PER_CM
from surgical_twin.errors import InputError
from surgical_twin.procedure import (
    ArterialLineSettings,
    CardiacOutputSettings,
    DopplerSettings,
    Intervention,
    SectionFlowSettings,
    read_procedure,
)
from surgical_twin.simulated_observations import (
    arterial_line,
    cardiac_output,
    doppler,
    moved_transducer,
    section_flow,
)
from surgical_twin.truth import Truth

PERIOD = 0.8


@pytest.fixture
def truth():
    time = np.linspace(0.0, PERIOD, 81)
    pulse = np.sin(2 * np.pi * time / PERIOD)
    velocity = np.zeros((81, 2, 3))
    velocity[:, :, 2] = (300.0 + 100.0 * pulse)[:, None]
    return Truth(
        period=PERIOD,
        time=time,
        distance=np.array([0.0, 50.0]),
        pressure_mmhg=np.repeat((90.0 + 15.0 * pulse)[:, None], 2, axis=1),
        velocity_mm_s=velocity,
        port_names=("inlet", "a", "b"),
        port_pressure_mmhg=np.column_stack([90.0 + 15.0 * pulse, 80.0 + 10.0 * pulse, 85.0 + 12.0 * pulse]),
        port_flow_ml_s=np.column_stack([9.0 + 3.0 * pulse, 5.0 + 2.0 * pulse, 4.0 + pulse]),
        factors={},
        figures={},
    )


def said(device):
    return [due.message for due in device.messages(0)]


def test_a_line_says_its_port_what_was_measured_of_it_and_how_well_it_was_zeroed(truth):
    settings = ArterialLineSettings(
        present=True, port="b", bias="4 mmHg", noise="0.1 mmHg", flushed=True, zeroed="1 mmHg"
    )
    messages = said(arterial_line(settings, truth, 8.0, np.random.default_rng(0)))
    assert all(isinstance(one, PressureSamples) and one.tool is None and one.port == "b" for one in messages)
    assert (messages[0].natural_frequency_hz, messages[0].damping, messages[0].zero_deviation_mmhg) == (18.0, 0.35, 1.0)
    values = np.concatenate([one.values_mmhg for one in messages])[250:]
    assert values.mean() == pytest.approx(85.0 + 4.0, abs=0.3)
    # 1.25 Hz is far below the line's own frequency: the pulse comes through with its size.
    assert np.ptp(values) == pytest.approx(24.0, abs=1.5)
    with pytest.raises(InputError, match="is no port"):
        arterial_line(ArterialLineSettings(port="c"), truth, 1.0, np.random.default_rng(0))


def test_flow_of_a_section_is_that_of_the_outlets_behind_it(truth):
    settings = SectionFlowSettings(every="0.05 s", noise=0.05)
    place = np.array([1.0, 2.0, 3.0])
    messages = said(section_flow(settings, truth, place, ("a",), 8.0, np.random.default_rng(0)))
    assert all(isinstance(one, SectionFlow) and one.position == (1.0, 2.0, 3.0) for one in messages)
    assert np.mean([one.flow_ml_s for one in messages]) == pytest.approx(5.0, abs=0.1)


def test_a_beam_sees_the_velocitys_part_along_it_in_the_trackers_frame(truth):
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    turned[:3, 3] = [10.0, 20.0, 30.0]
    settings = DopplerSettings(every="0.02 s", angle="60 deg", angle_error="0 deg", noise="1 mm/s")
    device = doppler(
        settings,
        truth,
        25.0,
        np.array([1.0, 2.0, 3.0]),
        np.array([0.0, 0.0, 1.0]),
        turned,
        8.0,
        np.random.default_rng(0),
    )
    messages = said(device)
    assert all(isinstance(one, DopplerVelocity) for one in messages)
    assert np.mean([one.velocity_mm_s for one in messages]) == pytest.approx(300.0 * 0.5, abs=1.0)
    assert messages[0].position == (13.0, 21.0, 32.0)
    # The vessel's direction, z in the image, is x in the tracker's frame.
    assert messages[0].direction[0] == pytest.approx(0.5)


def test_the_output_is_the_mean_inflow(truth):
    settings = CardiacOutputSettings(every="1 s", noise=0.02)
    messages = said(cardiac_output(settings, truth, 60.0, np.random.default_rng(0)))
    assert all(isinstance(one, CardiacOutput) and one.port == "inlet" for one in messages)
    assert np.mean([one.output_l_min for one in messages]) == pytest.approx(9.0 * 0.06, rel=0.01)


def test_a_transducer_that_is_lowered_reads_more_from_then_on(truth):
    line = arterial_line(ArterialLineSettings(noise="0.01 mmHg"), truth, 8.0, np.random.default_rng(0))
    plain = {one.sequence: one for one in said(line)}
    again = arterial_line(ArterialLineSettings(noise="0.01 mmHg"), truth, 8.0, np.random.default_rng(0))
    moved = said(moved_transducer(again, (Intervention(at="4 s", kind="level", text="-20 cm"),)))
    for one in moved:
        change = np.mean(one.values_mmhg) - np.mean(plain[one.sequence].values_mmhg)
        late = one.source_time_ns >= 4_000_000_000
        assert change == pytest.approx(20.0 * MMHG_PER_CM if late else 0.0, abs=1e-9)


def test_settings_that_mean_nothing_are_refused(tmp_path):
    path = tmp_path / "procedure.toml"
    for text, match in (
        ('[doppler]\nevery = "0 s"\n', "not positive"),
        ('[section_flow]\nevery = "1 s"\nplace = 1.5\n', "not on the catheter's way"),
        ('[[intervention]]\nat = "1 s"\nkind = "level"\ntext = "high"\n', "intervention.text"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=match):
            read_procedure(path)
    assert msgspec.to_builtins(read_procedure(None))["arterial_line"]["present"] is False
