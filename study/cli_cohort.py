"""`ude-study cohort`: the tables of X-rays a study would stand on, before it does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli_support import AsJson, Commands, show
from ude_core.errors import SettingError

if TYPE_CHECKING:
    from study.cohort_check import CohortCheck

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="The tables of X-rays a study stands on."
)


@app.callback()
def cohort() -> None:
    """The tables of X-rays a study stands on."""


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CSV",
            help="A CSV file, a data root of CheXpert, ChestX-ray14 or MIMIC-CXR-JPG, or a space.",
        ),
    ],
    kind: Annotated[
        str | None, typer.Option(help="csv, chexpert, nih or mimic; else what CSV looks like.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder the paths start from; else the CSV's.")
    ] = None,
    diseases: Annotated[
        list[str] | None,
        typer.Option("--disease", "--diseases", help="Slugs, by commas; else all that are known."),
    ] = None,
    attributes: Annotated[
        list[str] | None,
        typer.Option("--attribute", help="A column; several make an intersection (repeatable)."),
    ] = None,
    age_bands: Annotated[str | None, typer.Option(help="Ages where bands part: 40,60.")] = None,
    negatives: Annotated[str | None, typer.Option(help="no_finding or disease_zero.")] = None,
    blank: Annotated[str | None, typer.Option(help="A blank finding: negative or drop.")] = None,
    uncertain: Annotated[
        list[str] | None,
        typer.Option(metavar="DISEASE=POLICY", help="What -1 means: ones, zeros or drop."),
    ] = None,
    missing_attribute: Annotated[
        str | None, typer.Option(help="A row without it: refuse or drop.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="ROLE=COLUMN",
            help="path, patient, sex, age, view, no_finding, split or a disease (repeatable).",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--value", metavar="ROLE.CELL=MEANING", help="As sex.W=Female (repeatable)."),
    ] = None,
    confounder: Annotated[
        str | None, typer.Option(help="A column to balance in every cell, as AP/PA.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Keep these images alone (repeatable)."),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Decode every image, too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Print every problem of a cohort file in one report, and the images per cell.

    Exit status 2 where there is a problem.
    """
    from study.cohort_check import check_cohort, check_space, section_of

    given: dict[str, Any] = {
        "diseases": _listed(diseases),
        "attributes": tuple(attributes or ()),
        "age_bands": _ages(age_bands),
        "negatives": negatives,
        "blank": blank,
        "uncertain": dict(_pairs("--uncertain", uncertain)),
        "missing_attribute": missing_attribute,
        "columns": {role: name or None for role, name in _pairs("--column", columns)},
        "values": _recodings(values),
        "confounder": confounder,
        "only": _grouped("--only", only),
    }
    choices = {name: value for name, value in given.items() if value}
    if _is_space(target):
        from study.config import load_space

        if choices or kind or root:
            raise SettingError(f"{target} is a space, which says how to read its cohort; edit that")
        checked = check_space(load_space(target), images=images)
    else:
        section, named = section_of(Path(target), kind=kind, root=root, choices=choices)
        checked = check_cohort(section, named=named, images=images)
    if as_json:
        typer.echo(json.dumps(checked.as_json()))
    else:
        _print(checked)
    if checked.problems:
        raise typer.Exit(2)


@app.command()
def films(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A YAML file, or a name in search_spaces/.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where they go: a new folder, or an empty one.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
) -> None:
    """Write some of a synthetic cohort's X-rays as PNG, to try a bundle on."""
    from study.config import load_space
    from study.materials import load_cohort
    from ude_core.errors import UserError
    from ude_core.image_files import write_films

    config = load_space(space)
    if config.cohort.kind != "phantom":
        raise UserError(f"{space} is of patients, whose X-rays stay where they are; name phantoms")
    cohort = load_cohort(config, None)
    write_films(cohort.images[:count], folder)
    typer.echo(f"{min(count, len(cohort.images))} synthetic X-rays in {folder}")


def _print(checked: CohortCheck) -> None:
    for line in checked.lines():
        typer.echo(line)
    for table in checked.tables():
        show(table)
    for problem in checked.problems:
        typer.echo(f"problem: {problem}")
    count = len(checked.problems)
    if count:
        plural = "problem" if count == 1 else "problems"
        typer.echo(f"error: {checked.title}: {count} {plural}", err=True)
    else:
        typer.echo(f"{checked.title}: no problems")


def _is_space(target: str) -> bool:
    path = Path(target)
    if path.suffix in (".yaml", ".yml"):
        return True
    if path.exists() or path.suffix or len(path.parts) > 1:
        return False
    from study.config import space_names

    return target in space_names()


def _listed(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(
        part.strip() for value in values or () for part in value.split(",") if part.strip()
    )


def _ages(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed([text] if text else None))
    except ValueError:
        raise SettingError(f"--age-bands is {text!r} (expected whole years, as 40,60)") from None


def _pairs(option: str, values: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for value in values or ():
        name, equals, meaning = value.partition("=")
        if not equals or not name:
            raise SettingError(f"{option} is {value!r} (expected NAME=VALUE)")
        pairs.append((name, meaning))
    return pairs


def _grouped(option: str, values: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, tuple[str, ...]] = {}
    for name, value in _pairs(option, values):
        grouped[name] = (*grouped.get(name, ()), value)
    return grouped


def _recodings(values: Sequence[str] | None) -> dict[str, dict[str, str]]:
    recodings: dict[str, dict[str, str]] = {}
    for name, meaning in _pairs("--value", values):
        role, dot, cell = name.partition(".")
        if not dot:
            raise SettingError(f"--value is {name!r} (expected ROLE.CELL=MEANING)")
        recodings.setdefault(role, {})[cell] = meaning
    return recodings
