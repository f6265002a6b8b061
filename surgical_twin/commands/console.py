"""What all commands share: the terminal, a progress bar, and the case as argument."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from surgical_twin.errors import InputError

MOST = 100_000
"""No picture has more columns, and no grid more points in a row."""

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


def read_wholes(option: str, text: str, form: str) -> tuple[int, ...]:
    """Read an option's whole numbers from 1 on with commas between, as `read_numbers`.

    Raises:
        InputError: these are not as many whole numbers as the form has, or none that can be counted to.
    """
    numbers = read_numbers(option, text, form, "whole numbers")
    if any(value != round(value) or not 1 <= value <= MOST for value in numbers):
        raise InputError(f'{option} "{text}" is not {form}: whole numbers from 1 to {MOST} with commas between.')
    return tuple(round(value) for value in numbers)


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
