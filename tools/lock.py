"""Write requirements.lock: every package with its version and hashes, and no registry address.

Resolves the project with its ``dev`` extra for each supported Python on Linux x86-64 and merges the
hashes, so that ``pip install --require-hashes -r requirements.lock`` works on each of them.
Run by ``make lock``.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.12", "3.13")
# pip takes each platform tag literally, so every glibc a wheel may name is listed.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)


def resolve(python: str, constraints: Path | None) -> dict[str, tuple[str, str]]:
    """Resolve for one Python version: canonical name -> (version, sha256)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        command += ["--target", folder, "--report", str(report)]
        if constraints is not None:
            command += ["--constraint", str(constraints)]
        subprocess.run([*command, *wanted], check=True)
        items = json.loads(report.read_text())["install"]
    found = {}
    for item in items:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        found[name] = (item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"])
    return found


def main() -> None:
    """Resolve, merge and write the lock."""
    merged: dict[str, tuple[str, set[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        constraints = None
        for python in PYTHONS:
            for name, (version, digest) in resolve(python, constraints).items():
                known, digests = merged.setdefault(name, (version, set()))
                if known != version:
                    raise SystemExit(f"{name}: {known} and {version} for different Pythons")
                digests.add(digest)
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("".join(f"{name}=={version}\n" for name, (version, _) in merged.items()))
    lines = ["# Made by `make lock` for CPython " + " and ".join(PYTHONS) + " on Linux x86-64.\n"]
    for name, (version, digests) in sorted(merged.items()):
        hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(digests))
        lines.append(f"{name}=={version} \\\n{hashes}\n")
    (ROOT / "requirements.lock").write_text("".join(lines))


if __name__ == "__main__":
    main()
