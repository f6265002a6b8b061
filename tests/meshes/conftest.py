"""The phantom and analytic lumens."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from meshes.phantom import stenosed_bifurcation
from meshes.segmentation import segment_lumen

SPACING = np.array([0.6, 0.6, 0.6])


def grid_points(shape, spacing=SPACING, direction=None, origin=(0.0, 0.0, 0.0)):
    """Positions of the voxels of an image of ``shape`` (x, y, z), in the order of its array."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape[::-1]), indexing="ij")
    index = np.stack([i, j, k], axis=-1).reshape(-1, 3) * spacing
    return index @ (np.eye(3) if direction is None else direction).T + np.array(origin)


def image_of(values, shape, spacing=SPACING, direction=None, origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(values.reshape(shape[::-1]).astype(np.float32))
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in origin])
    image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    return image


def capsule(points, start, end, radius):
    """Signed distance to a straight vessel with round ends."""
    axis = end - start
    along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * axis, axis=1) - radius


@pytest.fixture(scope="session")
def phantom():
    return stenosed_bifurcation(seed=0)


@pytest.fixture(scope="session")
def lumen(phantom):
    return segment_lumen(phantom.image)


@pytest.fixture(scope="session")
def y_shape():
    """A Y of radii 4, 3 and 2.5 mm: its level set and the ends of its axes."""
    shape = (80, 40, 110)
    points = grid_points(shape)
    fork = np.array([24.0, 12.0, 32.0])
    ends = {
        "parent": np.array([24.0, 12.0, 60.0]),
        "left": np.array([10.0, 12.0, 6.0]),
        "right": np.array([38.0, 12.0, 6.0]),
    }
    radii = {"parent": 4.0, "left": 3.0, "right": 2.5}
    distance = np.min([capsule(points, fork, ends[name], radii[name]) for name in ends], axis=0)
    return image_of(distance, shape), fork, ends, radii


@pytest.fixture(scope="session")
def analytic():
    return grid_points, image_of, capsule


@pytest.fixture(scope="session")
def real_data():
    """Path of a file of the real data sets, where they are on this machine."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SURGICAL_TWIN_DATA", default))

    def path(*parts):
        found = folder.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"{'/'.join(parts)} is not in {folder}; set SURGICAL_TWIN_DATA")
        return found

    return path


@pytest.fixture(scope="session")
def dicom():
    """The module that makes DICOM files."""
    spec = importlib.util.spec_from_file_location("dicom_files", Path(__file__).with_name("dicom_files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
