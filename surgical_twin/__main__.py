"""Runs the command line: ``python -m surgical_twin``."""

from surgical_twin.cli import main

if __name__ == "__main__":
    main()
