"""The vessel tree in figures: sections, branches and stenoses, as tables of the case."""

from dataclasses import dataclass

import SimpleITK as sitk

from meshes.branches import BranchFigures, branch_figures
from meshes.centerline import Centerline
from meshes.files import write_centerline
from meshes.partial_volume import thin_areas
from meshes.sections import Sections, cross_sections
from meshes.stenosis import Stenosis, find_stenoses
from surgical_twin.case import BRANCHES, CENTERLINE, CENTERLINE_TABLE, STENOSES, Case, write_table


@dataclass(frozen=True)
class VesselTree:
    """What was measured of a vessel tree."""

    sections: Sections
    branches: tuple[BranchFigures, ...]
    stenoses: tuple[Stenosis, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence on each stenosis."""
        return tuple(
            f"Stenosis of {100 * stenosis.diameter_reduction:.0f} % in diameter "
            f"({100 * stenosis.area_reduction:.0f} % in area) in branch {stenosis.branch} at "
            f"({', '.join(f'{value:.1f}' for value in stenosis.position)}) mm: {stenosis.diameter:.2f} of "
            f"{stenosis.reference_diameter:.2f} mm, {stenosis.length:.0f} mm long."
            for stenosis in self.stenoses
        )


def measure_tree(image: sitk.Image, level_set: sitk.Image, centerline: Centerline) -> VesselTree:
    """Measure a vessel tree in its image and its level set (mm, negative inside)."""
    walls = cross_sections(level_set, centerline)
    area = thin_areas(image, centerline, walls)
    sections = Sections(area, walls.shortest, walls.longest, walls.single)
    return VesselTree(sections, branch_figures(centerline, sections), find_stenoses(centerline, sections))


def write_tree(case: Case, centerline: Centerline, tree: VesselTree) -> None:
    """Write the centerline with its sections (VTP), and the tables of points, branches and stenoses (CSV)."""
    write_centerline(centerline, case.path(CENTERLINE), tree.sections)
    write_table(
        case.path(CENTERLINE_TABLE),
        ("branch", "arc_length_mm", "x", "y", "z", "inscribed_radius_mm", "area_mm2", "equivalent_radius_mm"),
        [
            (branch, *(f"{value:.4f}" for value in (arc, *point, radius, area, equivalent)))
            for branch, arc, point, radius, area, equivalent in zip(
                centerline.branch.tolist(),
                centerline.arc_length,
                centerline.points,
                centerline.radius,
                tree.sections.area,
                tree.sections.radius,
                strict=True,
            )
        ],
    )
    write_table(
        case.path(BRANCHES),
        ("branch", "parent", "port", "length_mm", "radius_mm", "tortuosity", "angle_deg"),
        [
            (
                branch.branch,
                "" if branch.parent is None else branch.parent,
                branch.end or "",
                f"{branch.length:.3f}",
                f"{branch.radius:.3f}",
                f"{branch.tortuosity:.4f}",
                "" if branch.angle is None else f"{branch.angle:.1f}",
            )
            for branch in tree.branches
        ],
    )
    write_table(
        case.path(STENOSES),
        ("branch", "arc_length_mm", "x", "y", "z", "diameter_mm", "reference_mm", "diameter_reduction", "length_mm"),
        [
            (
                stenosis.branch,
                f"{stenosis.arc_length:.3f}",
                *(f"{value:.3f}" for value in stenosis.position),
                f"{stenosis.diameter:.3f}",
                f"{stenosis.reference_diameter:.3f}",
                f"{stenosis.diameter_reduction:.4f}",
                f"{stenosis.length:.3f}",
            )
            for stenosis in tree.stenoses
        ],
    )
