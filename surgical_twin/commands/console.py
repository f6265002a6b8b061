"""What all commands share: the terminal, a progress bar, and the case as argument."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from surgical_twin.errors import InputError

out = Console()
err = Console(stderr=True)

CaseFolder = Annotated[Path, typer.Argument(help="The case's folder.")]


def progress_bar() -> Progress:
    """A bar per step with its share and the time it took, on standard error."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=err,
    )


def read_numbers(option: str, text: str, form: str, meaning: str) -> tuple[float, ...]:
    """Read an option's numbers with commas between, as many as its form has letters between commas.

    Raises:
        InputError: these are not as many numbers as the form has.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f'{option} "{text}" is not {form}: {meaning} with commas between.') from error
    if len(numbers) != form.count(",") + 1 or not all(map(math.isfinite, numbers)):
        raise InputError(f'{option} "{text}" is not {form}: {meaning} with commas between.')
    return numbers
