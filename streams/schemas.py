"""JSON Schemas of everything on the wire, as files for other languages: ``python -m streams.schemas FOLDER``."""

import json
import sys
from pathlib import Path

from streams.command_channel import request_schemas
from streams.messages import message_schemas


def schema_files() -> dict[str, str]:
    """The content of each file, by its name."""
    schemas = message_schemas() | request_schemas()
    return {f"{name}.json": json.dumps(schema, indent=2, sort_keys=True) + "\n" for name, schema in schemas.items()}


def write_schemas(folder: Path) -> None:
    """Write the files into a folder, and take out those of types that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    files = schema_files()
    for old in folder.glob("*.json"):
        if old.name not in files:
            old.unlink()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
