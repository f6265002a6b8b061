"""Calibrations: of a tool's tip and axis, of one device against another in space and time, of cameras and probes."""
