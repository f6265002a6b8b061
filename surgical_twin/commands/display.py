"""Commands that show: exports of a case, and a window or page on a running twin."""

from pathlib import Path
from typing import Annotated

import typer

from streams.roles import VIEWER
from surgical_twin.commands.console import CaseFolder, out, progress_bar
from surgical_twin.commands.network import STATES, StatesAt, ViewerKeys, as_client
from surgical_twin.commands.streams import export_tables
from surgical_twin.errors import InputError


def export(
    case: Annotated[Path, typer.Argument(help="The case's folder; with --csv or --mp4 a recording.")],
    glb: Annotated[Path | None, typer.Option(help="Write the 3D scene for AR and the web (GLB).")] = None,
    usdz: Annotated[Path | None, typer.Option(help="Write it for AR on Apple devices (USDZ).")] = None,
    triangles: Annotated[int, typer.Option(help="Triangles at most in such a model.")] = 50_000,
    png: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a recording's messages and states as CSV tables into this folder.")
    ] = None,
    mp4: Annotated[
        Path | None, typer.Option(help="Write a film of a recording's states as the display shows them.")
    ] = None,
    begin: Annotated[float, typer.Option("--from", help="With --mp4: seconds after the recording's beginning.")] = 0.0,
    seconds: Annotated[float | None, typer.Option(help="With --mp4: how much of the procedure.")] = None,
    speed: Annotated[float, typer.Option(help="With --mp4: seconds of the procedure in a second of film.")] = 1.0,
    mesh: Annotated[
        Path | None, typer.Option(help="Write the mesh for a solver: .mesh, .msh, .xdmf, .vtu or .vtk.")
    ] = None,
) -> None:
    """Write the planned case as a model for AR, a picture or a mesh; or a recording as tables or a film."""
    from surgical_twin.case import Case
    from surgical_twin.display import export_ar, export_film, export_png

    if mp4 is not None:
        if not begin >= 0.0 or (seconds is not None and not seconds > 0.0):  # so that nan is refused too
            raise InputError("--from is not negative, and --seconds more than nothing.")
        with progress_bar() as progress:
            task = progress.add_task("filming", total=seconds)
            frames = export_film(
                case,
                mp4,
                begin_s=begin,
                seconds=seconds,
                speed=speed,
                say=lambda done: progress.update(task, completed=done),
            )
        out.print(f"{mp4} written, {frames} frames")
        return
    if csv is not None:
        export_tables(case, csv)
        return
    if glb is None and usdz is None and png is None and mesh is None:
        raise InputError(
            "export has nothing to write; give --glb FILE, --usdz FILE, --png FILE, --mesh FILE or several of them, "
            "and of a recording --csv FOLDER or --mp4 FILE."
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
    ar: Annotated[
        bool, typer.Option("--ar", help="Serve a page that draws by itself, in 3D and in AR headsets (WebXR).")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Serve the planning page: ports, landmarks, what-if, checks, approval.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8080,
    host: Annotated[str, typer.Option(help="Address of the AR page; beyond this machine it needs TLS.")] = "127.0.0.1",
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate of the AR page (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    triangles: Annotated[int, typer.Option(help="Triangles at most in the AR page.")] = 50_000,
    recording: Annotated[
        Path | None, typer.Option(help="With --web: show this recording (MCAP), with a time bar.")
    ] = None,
    commands: Annotated[
        str | None, typer.Option(help="The twin's command channel, for what-if questions from the web page.")
    ] = None,
    keys: ViewerKeys = None,
) -> None:
    """Show a running twin in a window, as a web page or in AR; a recording; or the page on which a plan is approved."""
    from surgical_twin.case import Case
    from surgical_twin.display import handed_security, run_ar, run_display, run_plan, run_replay
    from viewer.ar_page import Certificate

    security = handed_security() if keys is None else as_client(keys, VIEWER)
    if (tls_certificate is None) != (tls_key is None):
        raise InputError("--tls-certificate and --tls-key belong together; give both or none.")
    if ar + web + plan > 1:
        raise InputError("--ar, --web and --plan are pages of their own; start one view for each, with another --port.")
    if plan:
        if recording is not None or commands is not None or keys is not None or host != "127.0.0.1":
            raise InputError("--plan shows a case on this machine, and takes --port alone beside it.")
        run_plan(Case.open(case), port=port)
        return
    if ar:
        tls = None if tls_certificate is None or tls_key is None else Certificate(tls_certificate, tls_key)
        run_ar(Case.open(case), states, host=host, port=port, tls=tls, triangles=triangles, security=security)
        return
    if recording is not None:
        if not web:
            raise InputError("--recording is shown as a page; give --web too, or write a film with export --mp4.")
        run_replay(Case.open(case), recording, port=port)
        return
    if host != "127.0.0.1" or tls_certificate is not None:
        raise InputError("--host and --tls-certificate are for --ar; the other page is for this machine only.")
    run_display(Case.open(case), states, web=web, port=port, security=security, commands=commands)
