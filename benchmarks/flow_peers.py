"""The peers of the speed comparison, each run by an interpreter that has it: NGSolve, and Kratos with its fluid
application.

Not to be run by hand: `flow_speed.py` writes the mesh and starts it as ``python flow_peers.py PEER MESH STEP STEPS
THREADS``; the last line it prints is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEIGHT, VISCOSITY, FASTEST, DIAMETER = 0.41, 1e-3, 0.45, 0.1
SCALE = 2 / (0.2**2 * DIAMETER * HEIGHT)
TOLERANCE = 1e-6
BUDGET = 240.0
"""s of steps; what is not done by then is not waited for, and has no drag"""


def kratos(mesh: dict[str, np.ndarray], step: float, steps: int, threads: int) -> dict[str, float]:
    """Its fractional step on linear tetrahedra, with its own solvers (AMGCL), as its users run it."""
    import KratosMultiphysics as Kratos
    from KratosMultiphysics.FluidDynamicsApplication.fluid_dynamics_analysis import FluidDynamicsAnalysis

    Kratos.ParallelUtilities.SetNumThreads(threads)
    Kratos.Logger.GetDefaultOutput().SetSeverity(Kratos.Logger.Severity.WARNING)
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    points, cells, facets, tags = mesh["points"], mesh["cells"], mesh["facets"], mesh["tags"]
    lines = ["Begin Properties 0\nEnd Properties\nBegin Nodes"]
    lines += [f"{i + 1} {p[0]:.16g} {p[1]:.16g} {p[2]:.16g}" for i, p in enumerate(points)]
    lines += ["End Nodes", "Begin Elements Element3D4N"]
    lines += [f"{i + 1} 0 " + " ".join(str(n + 1) for n in cell) for i, cell in enumerate(cells)]
    lines += ["End Elements", "Begin Conditions SurfaceCondition3D3N"]
    lines += [f"{i + 1} 0 " + " ".join(str(n + 1) for n in facet) for i, facet in enumerate(facets)]
    lines.append("End Conditions")
    parts = {"FluidParts": None, "Inlet": 1, "Outlet": 2, "Walls": 0, "Cylinder": 3}
    for name, tag in parts.items():
        chosen = np.arange(len(facets)) if tag is None else np.flatnonzero(tags == tag)
        nodes = np.arange(len(points)) if tag is None else np.unique(facets[chosen])
        lines += [
            f"Begin SubModelPart {name}",
            "Begin SubModelPartNodes",
            *map(str, nodes + 1),
            "End SubModelPartNodes",
        ]
        if tag is None:
            lines += ["Begin SubModelPartElements", *map(str, np.arange(len(cells)) + 1), "End SubModelPartElements"]
        else:
            lines += ["Begin SubModelPartConditions", *map(str, chosen + 1), "End SubModelPartConditions"]
        lines.append("End SubModelPart")
    Path("dfg.mdpa").write_text("\n".join(lines) + "\n")
    materials = {
        "properties": [
            {
                "model_part_name": "FluidModelPart.FluidParts",
                "properties_id": 1,
                "Material": {
                    "constitutive_law": {"name": "Newtonian3DLaw"},
                    "Variables": {"DENSITY": 1.0, "DYNAMIC_VISCOSITY": VISCOSITY},
                    "Tables": {},
                },
            }
        ]
    }
    Path("materials.json").write_text(json.dumps(materials))

    def process(module: str, name: str, **more: object) -> dict[str, object]:
        return {
            "python_module": module,
            "kratos_module": "KratosMultiphysics.FluidDynamicsApplication",
            "Parameters": {"model_part_name": f"FluidModelPart.{name}", **more},
        }

    profile = f"{16 * FASTEST / HEIGHT**4}*y*z*({HEIGHT}-y)*({HEIGHT}-z)"
    linear = {"solver_type": "amgcl", "tolerance": TOLERANCE, "max_iteration": 200, "smoother_type": "ilu0",
              "coarsening_type": "aggregation", "verbosity": 0}  # fmt: skip
    settings = {
        "problem_data": {
            "problem_name": "dfg", "parallel_type": "OpenMP", "echo_level": 0, "start_time": 0.0,
            "end_time": step * (steps - 0.5),
        },
        "output_processes": {},
        "solver_settings": {
            "model_part_name": "FluidModelPart",
            "domain_size": 3,
            "solver_type": "FractionalStep",
            "model_import_settings": {"input_type": "mdpa", "input_filename": "dfg"},
            "material_import_settings": {"materials_filename": "materials.json"},
            "echo_level": 0,
            "compute_reactions": True,
            "dynamic_tau": 0.01,
            "oss_switch": 1,
            "predictor_corrector": False,
            "maximum_velocity_iterations": 1,
            "velocity_linear_solver_settings": {**linear, "krylov_type": "bicgstab"},
            "pressure_linear_solver_settings": {**linear, "krylov_type": "cg"},
            "volume_model_part_name": "FluidParts",
            "skin_parts": ["Inlet", "Outlet", "Walls", "Cylinder"],
            "no_skin_parts": [],
            "use_slip_conditions": False,
            "time_stepping": {"automatic_time_step": False, "time_step": step},
        },
        "processes": {
            "boundary_conditions_process_list": [
                process("apply_inlet_process", "Inlet", variable_name="VELOCITY", modulus=profile,
                        direction=[1.0, 0.0, 0.0], interval=[0.0, "End"]),
                process("apply_outlet_process", "Outlet", variable_name="PRESSURE", constrained=True, value=0.0,
                        hydrostatic_outlet=False, h_top=0.0),
                process("apply_noslip_process", "Walls"),
                process("apply_noslip_process", "Cylinder"),
            ]
        },
    }  # fmt: skip
    model = Kratos.Model()
    clocks: list[float] = []

    class Timed(FluidDynamicsAnalysis):
        def FinalizeSolutionStep(self) -> None:  # noqa: N802
            super().FinalizeSolutionStep()
            clocks.append(time.perf_counter())

    Timed(model, Kratos.Parameters(json.dumps(settings))).Run()
    part = model["FluidModelPart.Cylinder"]
    drag = SCALE * sum(-node.GetSolutionStepValue(Kratos.REACTION_X) for node in part.Nodes)
    gaps = np.diff(clocks)
    return {"seconds_per_step": float(np.median(gaps)), "steps": len(clocks), "drag": float(drag)}


def ngsolve(mesh: dict[str, np.ndarray], step: float, steps: int, threads: int) -> dict[str, float | str | None]:
    """The same scheme as our order 2 (Taylor-Hood, BDF2, linearized convection, incremental pressure correction),
    written in its language: its assembly, its compiled GMRes with Jacobi, its sparse Cholesky for the pressure."""
    import netgen.meshing as ng
    from ngsolve import (
        CF,
        H1,
        BilinearForm,
        GMRESSolver,
        GridFunction,
        InnerProduct,
        LinearForm,
        Mesh,
        Preconditioner,
        SetNumThreads,
        TaskManager,
        VectorH1,
        ds,
        dx,
        grad,
        specialcf,
        x,
        y,
        z,
    )  # fmt: skip

    SetNumThreads(threads)
    raw = ng.Mesh(dim=3)
    nodes = [raw.Add(ng.MeshPoint(ng.Pnt(*point))) for point in mesh["points"]]
    names = {0: "wall", 1: "inlet", 2: "outlet", 3: "cylinder"}
    faces = {}
    for tag, name in names.items():
        faces[tag] = raw.Add(ng.FaceDescriptor(surfnr=tag + 1, domin=1, domout=0, bc=tag + 1))
        raw.SetBCName(tag, name)
    for facet, tag in zip(mesh["facets"], mesh["tags"], strict=True):
        raw.Add(ng.Element2D(faces[int(tag)], [nodes[n] for n in facet]))
    for cell in mesh["cells"]:
        order = [cell[0], cell[2], cell[1], cell[3]]
        raw.Add(ng.Element3D(1, [nodes[n] for n in order]))
    grid = Mesh(raw)
    V = H1(grid, order=2, dirichlet="wall|inlet|cylinder")
    VV = VectorH1(grid, order=2, dirichlet="wall|inlet|cylinder")
    Q = H1(grid, order=1, dirichlet="outlet")
    u, v = V.TnT()
    p, q = Q.TnT()
    pk = BilinearForm(Q)
    pk += grad(p) * grad(q) * dx
    pk.Assemble()
    pinv = pk.mat.Inverse(Q.FreeDofs(), inverse="sparsecholesky")
    vel, old, tilde = GridFunction(VV), GridFunction(VV), GridFunction(VV)
    pres, inc, inc_old = GridFunction(Q), GridFunction(Q), GridFunction(Q)
    profile = CF((16 * FASTEST / HEIGHT**4 * y * z * (HEIGHT - y) * (HEIGHT - z), 0, 0))
    clocks = []
    with TaskManager():
        for count in range(steps):
            a0, a1, a2 = (1.0, -1.0, 0.0) if count == 0 else (1.5, -2.0, 0.5)
            c = vel if count == 0 else 2 * vel - old
            a = BilinearForm(V)
            a += (a0 / step * u * v + VISCOSITY * grad(u) * grad(v)) * dx
            a += 0.5 * ((c * grad(u)) * v - (c * grad(v)) * u) * dx
            n = specialcf.normal(3)
            a += 0.5 * (c * n) * u * v * ds("outlet")
            pre = Preconditioner(a, "local")
            a.Assemble()
            slope = grad(pres) - (a1 * grad(inc) + a2 * grad(inc_old)) / step
            tilde.vec.data = vel.vec
            tilde.Set(profile, definedon=grid.Boundaries("inlet"))
            for k in range(3):
                f = LinearForm(V)
                f += (-(a1 * vel.components[k] + a2 * old.components[k]) / step - slope[k]) * v * dx
                f.Assemble()
                part = tilde.components[k].vec
                rest = f.vec.CreateVector()
                rest.data = f.vec - a.mat * part
                part.data += GMRESSolver(a.mat, pre.mat, printrates=False, precision=TOLERANCE, maxsteps=200) * rest
            g = LinearForm(Q)
            g += InnerProduct(tilde, grad(q)) * dx + (profile * CF((1, 0, 0))) * q * ds("inlet")
            g.Assemble()
            inc_old.vec.data = inc.vec
            inc.vec.data = pinv * g.vec
            pres.vec.data += a0 / step * inc.vec
            old.vec.data = vel.vec
            vel.vec.data = tilde.vec
            clocks.append(time.perf_counter())
            if clocks[-1] - clocks[0] > BUDGET:
                break
    gaps = np.diff(clocks)
    done = {"seconds_per_step": float(np.median(gaps)), "steps": len(clocks)}
    if len(clocks) < steps:
        return {**done, "drag": None, "why": f"{len(clocks)} of {steps} steps in {BUDGET:g} s"}
    # Drag by the balance of momentum with a function that is one on the cylinder.
    from ngsolve import Integrate

    body = GridFunction(V)
    body.Set(CF(1), definedon=grid.Boundaries("cylinder"))
    ux = vel.components[0]
    force = -Integrate(VISCOSITY * grad(ux) * grad(body) + (vel * grad(ux)) * body - pres * grad(body)[0], grid)
    _ = x
    return {**done, "drag": float(SCALE * force)}


def main() -> None:
    name, path, step, steps, threads = sys.argv[1:6]
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    with np.load(path) as data:
        mesh = {key: data[key] for key in data.files}
    found = {"kratos": kratos, "ngsolve": ngsolve}[name](mesh, float(step), int(steps), int(threads))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
