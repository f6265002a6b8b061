"""Segmentation of the phantom against its analytic truth, of made tubes, and of real volumes."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from meshes.errors import InputError
from meshes.external import lumen_from_labels
from meshes.grid import Grid
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.segmentation import segment_lumen
from meshes.shapes import scanned
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline


def dice(one, other):
    return 2 * np.sum(one & other) / (np.sum(one) + np.sum(other))


def mask(image):
    return sitk.GetArrayFromImage(image) > 0


def test_the_phantoms_lumen_is_found_and_its_bone_is_not(phantom, lumen):
    assert dice(mask(lumen.label), mask(phantom.truth_label)) > 0.96


def test_the_wall_lies_between_voxels_where_it_truly_is(phantom, lumen):
    field = Grid.of(lumen.level_set)
    near = np.flatnonzero(np.abs(field.values) < 0.6)
    positions = field.positions_of(near)
    inner = np.abs(positions[:, 2]) < 35  # away from the ends, where the image cuts the vessel
    error = (field.values.ravel()[near] - phantom.truth_signed_distance(positions))[inner]
    assert abs(error.mean()) < 0.08
    assert error.std() < 0.15
    throat = np.linalg.norm(positions[inner] - phantom.stenosis_center, axis=1) < 4
    assert abs(error[throat].mean()) < 0.06 * phantom.throat_radius


def test_a_seed_in_the_vessel_gives_the_same_lumen(phantom, lumen):
    seeded = segment_lumen(phantom.image, seed=tuple(phantom.stenosis_center + 8 * phantom.stenosis_direction))
    assert dice(mask(seeded.label), mask(lumen.label)) > 0.99


def test_a_seed_outside_the_image_or_in_no_vessel_is_refused(phantom):
    with pytest.raises(InputError, match="outside the image"):
        segment_lumen(phantom.image, seed=(900.0, 0.0, 0.0))
    beside = phantom.stenosis_center + np.array([0.0, -14.0, 0.0])
    assert phantom.truth_signed_distance(beside[None])[0] > 4
    with pytest.raises(InputError, match="no vessel"):
        segment_lumen(phantom.image, seed=tuple(beside))


def test_noise_holds_no_vessel():
    noise = np.random.default_rng(1).normal(0, 30, (40, 40, 40)).astype(np.float32)
    with pytest.raises(InputError, match="No vessel"):
        segment_lumen(sitk.GetImageFromArray(noise))


@pytest.mark.parametrize("scale", [1 / 400.0, 100.0])
def test_grey_values_may_have_any_scale(phantom, lumen, scale):
    """Such as from 0 to 1, as after normalization."""
    found = segment_lumen(sitk.Cast(phantom.image, sitk.sitkFloat32) * scale)
    assert dice(mask(found.label), mask(lumen.label)) > 0.995


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_tube_has_its_radius_however_the_image_is_turned(analytic, angle):
    _, _, capsule = analytic
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), angle, 0.3 * angle, -angle).GetMatrix()).reshape(3, 3)
    grid = Grid(np.zeros((70, 60, 60), dtype=np.float32), np.zeros(3), np.full(3, 0.7), rotation)
    start, end = rotation @ [21.0, 21.0, 5.0], rotation @ [21.0, 21.0, 43.0]
    grey = scanned(
        grid,
        [lambda points: capsule(points, start, end, 3.0)],
        lambda depths: np.where(depths[0] < 0, 340.0, 40.0),
        blur=0.35,
        noise=10.0,
        generator=np.random.default_rng(0),
    )
    found = Grid.of(segment_lumen(grid.like(grey).image()).level_set)
    volume = np.clip(0.5 - found.values / found.spacing[0], 0.0, 1.0).sum() * np.prod(found.spacing)
    exact = np.pi * 9 * 38 + 4 / 3 * np.pi * 27
    assert volume == pytest.approx(exact, rel=0.02)
    center = rotation @ [21.0, 21.0, 24.0]
    assert -found.sample(center[None])[0] == pytest.approx(3.0, rel=0.04)


def test_a_label_map_keeps_its_volume_and_loses_its_steps(phantom):
    labels = phantom.truth_label
    found = lumen_from_labels(labels, phantom.image)
    field = Grid.of(found.level_set)
    volume = np.sum(field.values < 0) * np.prod(field.spacing)
    assert volume == pytest.approx(mask(labels).sum() * np.prod(labels.GetSpacing()), rel=0.03)
    assert dice(mask(found.label), mask(labels)) > 0.999


def test_several_labels_taken_together_are_told_of(phantom):
    values = sitk.GetArrayFromImage(phantom.truth_label)
    values[:20] *= 5
    labels = sitk.GetImageFromArray(values)
    labels.CopyInformation(phantom.truth_label)
    assert "labels 1, 5 are taken together" in lumen_from_labels(labels, phantom.image).notes[0]
    assert "together" not in " ".join(lumen_from_labels(labels, phantom.image, value=1).notes)


def test_a_label_map_that_does_not_fit_is_refused(phantom):
    moved = sitk.Image(phantom.truth_label)
    moved.SetOrigin((0.0, 0.0, 5.0))
    with pytest.raises(InputError, match="another grid"):
        lumen_from_labels(moved, phantom.image)
    with pytest.raises(InputError, match="label 7"):
        lumen_from_labels(phantom.truth_label, phantom.image, value=7)


def test_a_real_aorta_agrees_with_a_published_level_set(real_data):
    """VMTK's own segmentation of the same volume; a plain threshold reaches a Dice of 0.926."""
    image = sitk.ReadImage(str(real_data("vmtk_aorta", "input", "aorta.mha")))
    published = sitk.ReadImage(str(real_data("vmtk_aorta", "input", "aorta-final-levelset.mha")))
    reference = sitk.GetArrayFromImage(published) < 0
    found = segment_lumen(image)
    box = ndimage.find_objects(reference.astype(int))[0]
    assert dice(mask(found.label)[box], reference[box]) > 0.94
    ports = meshed(found.level_set, 60_000)
    assert ports[0].role == "inlet"
    # The aorta itself, in its upper part, where the coil's signal fades and the segmentation frays: whole, and once.
    # Its radius there is some 10 mm (the reference's lower part has 7.6).
    assert ports[0].radius == pytest.approx(10.0, abs=1.5)
    assert max(port.radius for port in ports[1:]) < 4.0
    # Two renal arteries, celiac and mesenteric trunks, and the branches of both iliacs.
    assert len(ports) >= 8


def meshed(level_set, most):
    """The ports of a lumen's mesh, which is held to what a solver needs and to the tetrahedra that it may have."""
    centerline = extract_centerline(level_set)
    trimmed = trim_to_centerline(level_set, centerline)
    ports, _ = find_ports(trimmed, centerline)
    mesh = mesh_lumen(trimmed, ports, max_tetrahedra=most)
    assert 0.8 * most < len(mesh.tetrahedra) <= most
    quality = mesh_quality(mesh)
    assert quality.watertight
    assert quality.min_scaled_jacobian > 0.2
    assert quality.min_dihedral_deg > 12.0
    assert quality.mean_scaled_jacobian > 0.6
    assert quality.port_flatness_mm < 1e-9
    assert {port.tag for port in mesh.ports} == set(np.unique(mesh.triangle_tags)) - {0}
    return mesh.ports


def test_a_real_circle_of_willis_is_meshed(real_data):
    """Thin branches, a loop through the anterior communicating artery, both carotids."""
    image = sitk.ReadImage(str(real_data("niivue_mra", "chris_MRA.nii.gz")))
    ports = meshed(segment_lumen(image).level_set, 100_000)
    assert len(ports) >= 7
    # The internal carotid arteries are 4 to 5 mm wide.
    assert 1.8 < ports[0].radius < 2.7
    assert 1.8 < ports[1].radius < 2.7


def test_a_real_label_map_of_many_classes_is_read(real_data):
    labels = sitk.ReadImage(
        str(real_data("topcow_labels", "test_assets", "seg_metrics", "topcow_roi", "topcow_ct_roi_003.nii.gz"))
    )
    found = lumen_from_labels(labels, labels)
    assert mask(found.label).sum() > 0.5 * mask(labels).sum()
    assert len(meshed(found.level_set, 60_000)) >= 7


def test_a_real_pulmonary_artery_from_a_label_map_is_meshed(real_data):
    labels = sitk.ReadImage(str(real_data("seqseg", "seqseg", "tests", "test_data", "truths", "PA000005.nii.gz")))
    ports = meshed(lumen_from_labels(labels, labels).level_set, 65_000)
    # The main pulmonary artery is some 25 to 30 mm wide.
    assert 11.0 < ports[0].radius < 16.0
    assert len(ports) >= 8
