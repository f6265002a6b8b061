"""The verification and validation report is what the kept figures say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from surgical_twin.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("validation", ROOT / "tools" / "validation.py")
assert _SPEC is not None
assert _SPEC.loader is not None
validation = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(validation)


def printed(**figures):
    return "some table\n" + json.dumps({"benchmark": "meshes_speed", "figures": figures}) + "\n"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "KEPT", tmp_path / "figures")
    return tmp_path / "figures" / "meshes_speed.json"


def test_the_page_is_current():
    assert validation.PAGE.read_text(encoding="utf-8") == validation.page(), "run tools/validation.py page"


def test_a_miss_is_called_one_and_a_later_part_replaces_only_its_own_figures(kept):
    both = {
        "seconds": {"value": 200.0, "goal": "<= 180", "unit": "s"},
        "share": {"value": 3, "goal": "in 2 4", "unit": ""},
    }
    validation.keep(printed(**both), "busy", "2026-01-01")
    assert "| seconds | 200 s | <= 180 | **missed** |" in validation.page()
    assert "| share | 3 | 2 to 4 | reached |" in validation.page()
    better = {
        "seconds": {"value": 150.0, "goal": "<= 180", "unit": "s"},
        "share": {"value": None, "goal": "in 2 4", "unit": ""},
    }
    validation.keep(printed(**better), "idle", "2026-02-01")
    page = validation.page()
    assert "| seconds | 150 s | <= 180 | reached |" in page
    assert "| share | 3 | 2 to 4 | reached |" in page
    assert "Measured: 2026-01-01, busy; 2026-02-01, idle." in page


def test_what_any_number_would_reach_is_no_goal(kept):
    validation.keep(printed(peer={"value": 3.0, "goal": ">= 0", "unit": "s"}), "", "")
    assert "| peer | 3 s | >= 0 |  |" in validation.page()


def test_what_was_not_measured_says_why(kept):
    validation.keep(
        printed(peer={"value": None, "goal": ">= 1", "unit": "ratio", "why": "it is not installed"}), "", ""
    )
    assert "| peer | - | >= 1 | not measured: it is not installed |" in validation.page()


@pytest.mark.parametrize("text", ["", "no json", '{"figures": {}}', '{"benchmark": "none_such", "figures": {}}'])
def test_an_output_without_figures_is_refused(kept, text):
    with pytest.raises(InputError):
        validation.keep(text, "", "")
    assert not kept.exists()


def test_the_command_says_what_is_wrong_with_its_input(tmp_path):
    output = tmp_path / "output.txt"
    output.write_text("killed")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "validation.py", "keep", output, "--note", "x"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "last line" in done.stderr
