"""Registration of volumes and centerlines to X-ray projections."""
