"""Export for augmented reality on Apple devices: USDZ, metres, y up, after the same convention as GLB.

Colors are a texture, one row of the pressure map, which every viewer of USDZ shows; a vertex's place on it is its
pressure. Over the beat that place has time samples, as have the vertex colors that other viewers read. Pressure itself
is the primvar ``pressure`` [mmHg].
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewer import colors
from viewer.errors import InputError
from viewer.gltf import GLTF_FROM_LPS, Structure, check_export, geometry

CODES_PER_S = 24.0


def write_usdz(
    path: Path | str,
    structures: Sequence[Structure],
    *,
    limits: tuple[float, float] = (60.0, 140.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    anchors: Mapping[str, Sequence[float]] | None = None,
    period_s: float = 1.0,
) -> None:
    """Write structures to a USDZ file, one prim each; the file appears complete or not at all.

    The arguments are those of `viewer.gltf.write_glb`.

    Raises:
        InputError: what `viewer.gltf.write_glb` refuses.
    """
    from pxr import Sdf, Usd, UsdGeom, UsdUtils  # takes a while to load, and few need it

    path = check_export(path, ".usdz", structures)
    limits = colors.check_limits(limits)
    start = np.asarray(origin, dtype=np.float64).reshape(3)
    with tempfile.TemporaryDirectory(prefix="usdz-") as folder:
        strip = Image.fromarray(np.repeat(colors.pressure_table(256)[None, :, :3], 8, axis=0))
        strip.save(Path(folder) / "pressure.png")
        stage = Usd.Stage.CreateNew(str(Path(folder) / "model.usdc"))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetTimeCodesPerSecond(CODES_PER_S)
        root = UsdGeom.Xform.Define(stage, "/surgical_twin")
        root.GetPrim().SetMetadata("kind", "component")
        stage.SetDefaultPrim(root.GetPrim())
        used: set[str] = set()
        for structure in structures:
            name = _prim_name(structure.name, used)
            _add_mesh(stage, f"/surgical_twin/{name}", structure, start, limits, period_s)
        if any(structure.cycle is not None for structure in structures):
            stage.SetStartTimeCode(0.0)
            stage.SetEndTimeCode(period_s * CODES_PER_S)
        for name, place in (anchors or {}).items():
            point = GLTF_FROM_LPS[:3, :3] @ (np.asarray(place, dtype=np.float64) - start)
            anchor = UsdGeom.Xform.Define(stage, f"/surgical_twin/{_prim_name(f'anchor_{name}', used)}")
            anchor.AddTranslateOp().Set(tuple(float(x) for x in point))
        stage.GetRootLayer().Save()
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.usdz")
        try:
            if not UsdUtils.CreateNewARKitUsdzPackage(Sdf.AssetPath(str(Path(folder) / "model.usdc")), str(temporary)):
                raise InputError(f"{path.name} could not be packed; see the messages of usd-core above.")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _prim_name(name: str, used: set[str]) -> str:
    """A name as USD allows it, not used before."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name) or "structure"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    if plain in used:
        raise InputError(f"structures hold the name {name} twice; name each one differently.")
    used.add(plain)
    return plain


def _add_mesh(
    stage: Any,
    at: str,
    structure: Structure,
    origin: NDArray[np.float64],
    limits: tuple[float, float],
    period_s: float,
) -> None:
    from pxr import Sdf, UsdGeom, UsdShade, Vt

    points, normals, triangles = geometry(structure, origin)
    mesh = UsdGeom.Mesh.Define(stage, at)
    mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(points, dtype=np.float32)))
    mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(normals, dtype=np.float32)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(triangles), 3, dtype=np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(triangles, dtype=np.int32).ravel()))
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateExtentAttr(
        Vt.Vec3fArray.FromNumpy(np.stack([points.min(axis=0), points.max(axis=0)]).astype(np.float32))
    )
    mesh.CreateDoubleSidedAttr(True)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    material = UsdShade.Material.Define(stage, f"{at}/material")
    shader = UsdShade.Shader.Define(stage, f"{at}/material/surface")
    shader.CreateIdAttr("UsdPreviewSurface")
    shader.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.6)
    shader.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    shader.CreateInput("opacity", Sdf.ValueTypeNames.Float).Set(float(structure.opacity))
    material.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
    shown = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
    if structure.scalars is None:
        linear = colors.linear_from_srgb(np.array(colors.rgb(structure.color)) / 255.0)
        shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(tuple(float(x) for x in linear))
        shown.SetInterpolation(UsdGeom.Tokens.constant)
        shown.Set(Vt.Vec3fArray.FromNumpy(linear[None].astype(np.float32)))
    else:
        place = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
        pressure = primvars.CreatePrimvar("pressure", Sdf.ValueTypeNames.FloatArray, UsdGeom.Tokens.vertex)
        frames: list[tuple[float | None, NDArray[np.float64]]] = [
            (None, np.asarray(structure.scalars, dtype=np.float64))
        ]
        if structure.cycle is not None:
            phases = np.asarray(structure.cycle, dtype=np.float64)
            codes = np.linspace(0.0, period_s * CODES_PER_S, len(phases) + 1)
            frames += list(zip(codes.tolist(), [*phases, phases[0]], strict=True))
        for code, values in frames:
            if values.shape != (len(points),):
                raise InputError(f"structure {structure.name} has {len(points)} points but scalars of {values.shape}.")
            linear = colors.linear_from_srgb(colors.pressure_colors(values, limits)).astype(np.float32)
            share = np.clip((values - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
            # Middles of the first and the last of 256 pixels are the map's ends.
            uv = np.stack([(0.5 + 255.0 * share) / 256.0, np.full(len(share), 0.5)], axis=-1).astype(np.float32)
            arguments = () if code is None else (code,)
            shown.Set(Vt.Vec3fArray.FromNumpy(linear), *arguments)
            place.Set(Vt.Vec2fArray.FromNumpy(uv), *arguments)
            pressure.Set(Vt.FloatArray.FromNumpy(values.astype(np.float32)), *arguments)
        reader = UsdShade.Shader.Define(stage, f"{at}/material/place")
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        texture = UsdShade.Shader.Define(stage, f"{at}/material/map")
        texture.CreateIdAttr("UsdUVTexture")
        texture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath("pressure.png"))
        texture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        for wrap in ("wrapS", "wrapT"):
            texture.CreateInput(wrap, Sdf.ValueTypeNames.Token).Set("clamp")
        source = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        texture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(source)
        color = texture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(color)
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
