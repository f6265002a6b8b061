"""What it tells a tracker that a catheter cannot leave the vessel."""
