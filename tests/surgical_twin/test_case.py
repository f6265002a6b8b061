"""The case folder: what it refuses, and when a step need not be run again."""

import pytest

from surgical_twin.case import MANIFEST, Case
from surgical_twin.errors import InputError


@pytest.fixture
def case(tmp_path):
    case = Case.create(tmp_path / "case")
    case.save()
    case.path("image.nrrd").write_text("image")
    case.path("labels.nrrd").write_text("labels")
    case.record_step("lumen", inputs=["image.nrrd"], outputs=["labels.nrrd"], settings={"value": 1})
    return case


def test_a_step_is_current_until_something_it_read_or_wrote_changes(case):
    again = Case.open(case.folder)
    assert again.is_current("lumen", ["image.nrrd"], {"value": 1})
    assert not again.is_current("lumen", ["image.nrrd"], {"value": 2})
    assert not again.is_current("lumen", ["image.nrrd", "more"], {"value": 1})
    assert not again.is_current("mesh", [], {})
    case.path("labels.nrrd").write_text("labels corrected by hand")
    assert not again.is_current("lumen", ["image.nrrd"], {"value": 1})


def test_a_missing_output_makes_a_step_run_again(case):
    case.path("labels.nrrd").unlink()
    assert not case.is_current("lumen", ["image.nrrd"], {"value": 1})


def test_a_case_of_another_version_is_refused(case):
    text = case.path(MANIFEST).read_text(encoding="utf-8")
    case.path(MANIFEST).write_text(text.replace("format = 1", "format = 99"))
    with pytest.raises(InputError, match="format 99"):
        Case.open(case.folder)
    with pytest.raises(InputError, match="format 99"):
        Case.create(case.folder)


@pytest.mark.parametrize("content", ["", "[case", "case = 3", "\x00\xff"])
def test_a_broken_manifest_is_refused(case, content):
    case.path(MANIFEST).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=MANIFEST):
        Case.open(case.folder)


def test_a_folder_of_something_else_is_never_made_a_case(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="no case"):
        Case.create(tmp_path)
    with pytest.raises(InputError, match="no case"):
        Case.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_that_is_not_there_yet_is_named(case):
    with pytest.raises(InputError, match=r"reduced\.npz"):
        case.require("reduced.npz")
