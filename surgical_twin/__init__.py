"""The intraoperative surgical twin."""

__version__ = "0.1.0"
