"""The port model's steps with several members side by side in the processor's vectors (``port_lanes.c``).

Eight outlets make a Newton system of fourteen rows, whose elimination is most of the work: four members share each of
its instructions. Where there is no C compiler `port_kernel` does the same, one member after another.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.compiled import library
from surgical_twin.flow.port_kernel import Members, States, Tree, advance

Array = NDArray[np.float64]
Advance = Callable[[Tree, Members, float, States, Array, Array, States], None]
_SOURCE = Path(__file__).with_name("port_lanes.c")


@cache
def best_advance() -> Advance:
    """What takes an ensemble through steps, as `port_kernel.advance` does: the fastest that this machine can run."""
    try:
        compiled = library(_SOURCE)
    except InputError:
        return advance
    call = compiled.port_advance
    call.restype = ctypes.c_int
    call.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_double] + [ctypes.c_void_p] * 4
    # One model's steps of one length are asked for again and again. The pair is replaced as a whole: what-ifs are
    # computed in a thread of their own.
    known: tuple[Tree, ctypes.Array[ctypes.c_void_p]] | None = None

    def pointers_of_tree(tree: Tree) -> ctypes.Array[ctypes.c_void_p]:
        nonlocal known
        pair = known
        if pair is None or pair[0] is not tree:
            pair = known = tree, _pointers(tree)
        return pair[1]

    def run(
        tree: Tree, members: Members, time_step: float, start: States, inflow: Array, rate: Array, out: States
    ) -> None:
        steps, count = inflow.shape
        sizes = (ctypes.c_long * 6)(
            count, steps, len(tree.share), len(tree.loss), len(tree.recall_past), len(out.flow)
        )  # fmt: skip
        if count and steps and call(
            sizes, pointers_of_tree(tree), _pointers(members), time_step, _pointers(start), inflow.ctypes.data,
            rate.ctypes.data, _pointers(out),
        ):  # fmt: skip
            raise MemoryError("There is no memory for a step of the port model.")

    return run


def _pointers(arrays: tuple[Array, ...]) -> ctypes.Array[ctypes.c_void_p]:
    """The addresses of contiguous arrays, as a C structure of pointers has them."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
