"""Commands that show: exports of a case, and a window or page on a running twin."""

from pathlib import Path
from typing import Annotated

import typer

from streams.roles import VIEWER
from surgical_twin.commands.console import CaseFolder, out
from surgical_twin.commands.network import STATES, StatesAt, ViewerKeys, as_client
from surgical_twin.commands.streams import export_tables
from surgical_twin.errors import InputError


def export(
    case: Annotated[Path, typer.Argument(help="The case's folder; with --csv a recording.")],
    glb: Annotated[Path | None, typer.Option(help="Write the 3D scene for AR and the web (GLB).")] = None,
    usdz: Annotated[Path | None, typer.Option(help="Write it for AR on Apple devices (USDZ).")] = None,
    triangles: Annotated[int, typer.Option(help="Triangles at most in such a model.")] = 50_000,
    png: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a recording's messages and states as CSV tables into this folder.")
    ] = None,
    mesh: Annotated[
        Path | None, typer.Option(help="Write the mesh for a solver: .mesh, .msh, .xdmf, .vtu or .vtk.")
    ] = None,
) -> None:
    """Write the planned case as a GLB model, a picture or a mesh for another solver; or a recording as CSV tables."""
    from surgical_twin.case import Case
    from surgical_twin.display import export_ar, export_png

    if csv is not None:
        export_tables(case, csv)
        return
    if glb is None and usdz is None and png is None and mesh is None:
        raise InputError(
            "export has nothing to write; give --glb FILE, --usdz FILE, --png FILE, --mesh FILE or several of them."
        )
    opened = Case.open(case)
    if mesh is not None:
        from meshes.exchange import export_mesh
        from meshes.files import read_lumen_mesh
        from surgical_twin.case import MESH

        export_mesh(read_lumen_mesh(opened.require(MESH)), mesh)
        out.print(f"{mesh} written")
    for model in (glb, usdz):
        if model is not None:
            export_ar(opened, model, triangles=triangles)
            out.print(f"{model} written")
    if png is not None:
        export_png(opened, png)
        out.print(f"{png} written")


def view(
    case: CaseFolder,
    states: StatesAt = STATES,
    web: Annotated[bool, typer.Option("--web", help="Serve a web page instead of opening a window.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page on 127.0.0.1.")] = 8080,
    keys: ViewerKeys = None,
) -> None:
    """Show a running twin in a window or as a web page."""
    from surgical_twin.case import Case
    from surgical_twin.display import handed_security, run_display

    security = handed_security() if keys is None else as_client(keys, VIEWER)
    run_display(Case.open(case), states, web=web, port=port, security=security)
