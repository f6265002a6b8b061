"""The anatomy: image, lumen, centerline, ports and tetrahedra."""
