"""What the NIfTI reader takes for 0 without a word: voxels that are not finite."""

import gzip
from pathlib import Path

import numpy as np

HEADER_BYTES = 348
FLOATS = {16: "f4", 64: "f8"}
"""NIfTI-1 datatype codes of real floating-point voxels."""


def not_finite(path: Path) -> int:
    """How many voxels of a NIfTI-1 file are NaN or infinite; 0 for any other file, and for one that ends too early.

    The header's layout: the NIfTI-1 standard's ``nifti1.h``.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return 0
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError):
        return 0
    if len(content) < HEADER_BYTES:
        return 0
    order = "<" if int.from_bytes(content[:4], "little") == HEADER_BYTES else ">"
    size = np.frombuffer(content, f"{order}i2", 8, 40)
    kind = FLOATS.get(int(np.frombuffer(content, f"{order}i2", 1, 70)[0]))
    start = int(np.frombuffer(content, f"{order}f4", 1, 108)[0])
    if kind is None or not 1 <= size[0] <= 7:
        return 0
    count = int(np.prod(size[1 : size[0] + 1].astype(np.int64)))
    if count <= 0 or start < 0 or len(content) < start + count * int(kind[1]):
        return 0
    return int((~np.isfinite(np.frombuffer(content, order + kind, count, start))).sum())
