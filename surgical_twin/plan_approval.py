"""A person's approval of a plan: who, when, and the hash of every file that was approved.

It lies in the case as ``approval.toml`` and in the case's audit log, whose lines are chained by their hashes. What has
changed since is found by hashing the files again, so that an approval never covers what its author has not seen.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import tomli_w

from streams.audit import note
from surgical_twin import __version__
from surgical_twin.case import (
    ANATOMY,
    AXIS,
    BRANCHES,
    CENTERLINE,
    CENTERLINE_TABLE,
    FIDUCIALS,
    IMAGE,
    LABELS,
    LEVEL_SET,
    LUMEN,
    MESH,
    REDUCED,
    STENOSES,
    SURFACE,
    Case,
    file_hash,
    write_atomically,
)
from surgical_twin.errors import InputError

APPROVAL = "approval.toml"
LANDMARKS = "landmarks.mrk.json"
MOTION = "motion.pvd"
AUDIT_LOG = "audit.jsonl"

NEEDED = (IMAGE, MESH, SURFACE, CENTERLINE, CENTERLINE_TABLE, BRANCHES, STENOSES, FIDUCIALS, AXIS, REDUCED)
"""Files without which there is no plan to approve."""

WHERE_PRESENT = (LABELS, LEVEL_SET, LUMEN, ANATOMY, LANDMARKS, MOTION, "calibration.json")
"""Files that are approved too where the case has them; one that comes later is a change."""

SETTINGS = "case.toml: flow, registration"
"""Stands among the files for what the manifest says of them."""

MOST_LETTERS = 200


@dataclass(frozen=True)
class ApprovalStatus:
    """What a plan's approval is worth now.

    Attributes:
        state: whether it is approved as it is, was approved and has changed since, or was never approved.
        by: who approved it.
        at: when, ISO 8601 in UTC.
        hash: of all that was approved.
        reason: why in spite of checks that failed.
        changed: files that are not as they were approved.
    """

    state: Literal["approved", "changed", "none"]
    by: str = ""
    at: str = ""
    hash: str = ""
    reason: str = ""
    changed: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One line for a person."""
        when = self.at[:16].replace("T", " ")
        match self.state:
            case "approved":
                spite = f", in spite of failed checks: {self.reason}" if self.reason else ""
                return f"plan approved by {self.by}, {when} UTC{spite}"
            case "changed":
                return f"plan changed since {self.by} approved it ({when} UTC): {', '.join(self.changed)}"
        return "plan not approved"


def approve(case: Case, who: str, *, failed: Sequence[str] = (), reason: str = "") -> ApprovalStatus:
    """Write that a person approves the plan as it is now.

    Args:
        case: planned to its end.
        who: the person's name.
        failed: names of the checks that failed.
        reason: why it is approved in spite of them.

    Raises:
        InputError: no name, a plan that is not finished, or failed checks without a reason.
    """
    who, reason = " ".join(who.split()), " ".join(reason.split())
    if not any(letter.isalpha() for letter in who):
        raise InputError("An approval needs a name: say who approves.")
    if max(len(who), len(reason)) > MOST_LETTERS:
        raise InputError(f"Name and reason have {MOST_LETTERS} letters at most.")
    missing = [name for name in NEEDED if not case.path(name).is_file()]
    if missing or not case.step("reduced"):
        what = f"it has no {', '.join(missing)}" if missing else "its flow model is the estimate from the anatomy"
        raise InputError(f"The plan of {case.folder} is not finished ({what}), and cannot be approved before it is.")
    if failed and not reason:
        raise InputError(f"Checks have failed ({', '.join(failed)}): say why the plan is approved in spite of them.")
    files = _hashes(case)
    status = ApprovalStatus("approved", who, datetime.now(UTC).isoformat(timespec="seconds"), _overall(files), reason)
    content = {
        "by": status.by,
        "at": status.at,
        "hash": status.hash,
        "software": f"surgical-twin {__version__}",
        "reason": reason,
        "failed_checks": list(failed),
        "files": files,
    }
    note(
        case.path(AUDIT_LOG),
        "plan approved",
        by=who,
        hash=status.hash,
        failed_checks=list(failed),
        reason=reason,
    )
    write_atomically(case.path(APPROVAL), tomli_w.dumps(content))
    return status


def withdraw(case: Case, who: str) -> ApprovalStatus:
    """Take an approval back; the audit log keeps both.

    Raises:
        InputError: there is none, or no name.
    """
    if not case.path(APPROVAL).is_file():
        raise InputError("The plan is not approved; there is nothing to withdraw.")
    if not any(letter.isalpha() for letter in who):
        raise InputError("Say who withdraws the approval.")
    note(case.path(AUDIT_LOG), "plan approval withdrawn", by=" ".join(who.split()), hash=approval_status(case).hash)
    case.path(APPROVAL).unlink()
    return ApprovalStatus("none")


def approval_status(case: Case) -> ApprovalStatus:
    """Whether the plan is as it was approved; every file is read for it.

    Raises:
        InputError: the approval cannot be read.
    """
    path = case.path(APPROVAL)
    if not path.is_file():
        return ApprovalStatus("none")
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        files = {str(name): str(known) for name, known in content["files"].items()}
        by, at, known, reason = (str(content[key]) for key in ("by", "at", "hash", "reason"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as an approval ({error}); approve the plan again.") from error
    if _overall(files) != known:
        return ApprovalStatus("changed", by, at, known, reason, (APPROVAL,))
    now = _hashes(case)
    changed = tuple(name for name in sorted(files.keys() | now.keys()) if files.get(name) != now.get(name))
    return ApprovalStatus("changed" if changed else "approved", by, at, known, reason, changed)


def _hashes(case: Case) -> dict[str, str]:
    present = [name for name in (*NEEDED, *WHERE_PRESENT) if case.path(name).is_file()]
    found = {name: file_hash(case.path(name)) for name in present}
    for surface in sorted(case.folder.glob("motion/*.vtp")):
        found[surface.relative_to(case.folder).as_posix()] = file_hash(surface)
    said = repr([sorted(case.manifest.get(table, {}).items()) for table in ("flow", "registration")])
    found[SETTINGS] = hashlib.sha256(said.encode()).hexdigest()
    return found


def _overall(files: dict[str, str]) -> str:
    """SHA-256 over all names and hashes, in the order of the names."""
    text = "".join(f"{name}\0{known}\n" for name, known in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()
