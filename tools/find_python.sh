#!/bin/sh
# Prints a command that runs a Python with a dependency lock (3.12 or 3.13), or says what to do and fails.
supported='import sys, venv; sys.exit(not ((3, 12) <= sys.version_info[:2] <= (3, 13)))'
for candidate in python3.13 python3.12 python3 python; do
    # A version manager's shim may exist and still refuse to run, so the candidate is tried, not only found.
    if "$candidate" -c "$supported" >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
if command -v uv >/dev/null 2>&1; then
    found="$(uv python find '>=3.12,<3.14' 2>/dev/null || { uv python install 3.12 >&2 && uv python find 3.12; })"
    if [ -n "$found" ]; then
        echo "$found"
        exit 0
    fi
fi
echo "No Python 3.12 or 3.13 was found. Install one (apt install python3.12-venv, pyenv install 3.12," >&2
echo "or uv: see its manual), so that python3.12 --version answers, and run make again." >&2
exit 1
