"""Blood flow: the 3D Navier-Stokes solver and the reduced model trained on it (SI units throughout)."""
