"""What the commands share: options, errors turned into exit statuses, tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ude_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from study.api import Study

Root = Annotated[
    Path,
    typer.Option("--root", envvar="UDE_STUDY_ROOT", help="Folder that holds every study."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Name = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name.")]
ROOT = Path("runs")
_PIPED_WIDTH = 180


class Commands(TyperGroup):
    """Turns errors into exit statuses, for every command alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error), 2)
        except KeyboardInterrupt:
            _fail("interrupted; the same command continues", 130)
        except OSError as error:
            if error.filename is None:
                raise
            _fail(f"{error.filename}: {error.strerror}", 2)
        except ValueError as error:
            pydantic = sys.modules.get("pydantic")
            if pydantic is None or not isinstance(error, pydantic.ValidationError):
                raise
            _fail("; ".join(_complaint(one) for one in error.errors()), 2)
        except RuntimeError as error:
            if type(error).__name__ not in _WORLD:
                raise
            _fail(str(error), 1)


_WORLD = frozenset(
    {
        "JobStuckError",
        "LeaseLostError",
        "LedgerUnavailableError",
        "PermanentEncoderError",
        "TrackingUnavailableError",
    }
)


def _complaint(error: Mapping[str, Any]) -> str:
    place = ".".join(str(key) for key in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(status)


def open_study(name: str, root: Path) -> Study:
    """Return a study to read. Raises UserError where there is none."""
    from study.api import Study

    return Study.open(name, root)


def show(table: RenderableType) -> None:
    """Print a table; one that goes into a file is not cut to the width of some terminal."""
    from rich.console import Console

    width = None if Console().is_terminal else _PIPED_WIDTH
    Console(width=width).print(table)


def show_fronts(study: Study, *, everything: bool = False) -> None:
    """Print the front of every disease beside ERM."""
    from study.pareto import front_of
    from study.pareto_views import front_table

    for disease in study.config.cohort.diseases:
        show(front_table(front_of(study, disease), everything=everything))
