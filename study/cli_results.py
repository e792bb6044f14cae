"""The commands that read what a study found: trials, pareto, confirm, export, verify, apply."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli_support import ROOT, AsJson, Name, Root, open_study, show, show_fronts
from ude_core.errors import UserError

if TYPE_CHECKING:
    from study.api import Study

app = typer.Typer()


@app.command()
def trials(
    study: Name,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a CSV file.")] = None,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Show every trial."""
    from study import trials_view

    opened = open_study(study, root)
    records = opened.ledger.trials()
    if csv is not None:
        from ude_core.storage import atomic_write

        atomic_write(csv, trials_view.trials_csv(records).encode())
        typer.echo(f"{len(records)} trials in {csv}", err=True)
    if as_json:
        everything = {
            "study": opened.name,
            "preparation": trials_view.preparation_json(opened.reference),
            "trials": trials_view.trials_json(records),
        }
        typer.echo(json.dumps(everything))
    elif csv is None:
        goals = [(goal.metric, goal.direction) for goal in opened.config.objectives]
        show(trials_view.trials_table(opened.name, records, [name for name, _ in goals]))


@app.command()
def pareto(
    study: Name,
    disease: Annotated[
        str | None, typer.Option(help="A disease, `mean` or `worst`; all when left out.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Dominated trials too.")] = False,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Show the front beside ERM."""
    from study.pareto import front_of, front_to_json
    from study.pareto_views import front_html, front_table

    opened = open_study(study, root)
    if disease is None and (as_json or html is not None):
        known = ", ".join((*opened.config.cohort.diseases, "mean", "worst"))
        raise UserError(f"--json and --html take one front: name --disease ({known})")
    if disease is None:
        show_fronts(opened, everything=everything)
        return
    front = front_of(opened, disease)
    if html is not None:
        from ude_core.storage import atomic_write

        atomic_write(html, front_html(front).encode())
        typer.echo(f"front of {disease}: {html}", err=True)
    if as_json:
        typer.echo(json.dumps(front_to_json(front), allow_nan=False))
    elif html is None:
        show(front_table(front, everything=everything))


@app.command()
def confirm(
    study: Name,
    repeats: Annotated[int | None, typer.Option(min=1, help="Fresh draws.")] = None,
    controls: Annotated[int | None, typer.Option(min=0, help="Random noises a point.")] = None,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Score the front's points on the test split, over fresh seeds."""
    from study.confirm import confirm as run
    from study.confirm import confirmation_file
    from study.confirm_view import confirmation_table
    from study.pareto import goals_of

    opened = open_study(study, root)
    found, fresh = run(opened, repeats=repeats, controls=controls)
    path = confirmation_file(opened)
    if fresh:
        _tell_mlflow(opened)
    if as_json:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    goals = goals_of((goal.metric, goal.direction) for goal in opened.config.objectives)
    for disease in opened.config.cohort.diseases:
        show(confirmation_table(found, disease, goals))
    if not found.points:
        typer.echo("no front point beats random noise of its own norm: only ERM was confirmed")
    typer.echo(f"{path} ({'written' if fresh else 'unchanged: confirmed before'})")


def _tell_mlflow(study: Study) -> None:
    """Mark the confirmed trials in MLflow, where it holds the study; a failure is only told."""
    from study.lease import StudyBusyError
    from study.names import Layout
    from study.tracking import TrackingUnavailableError, synchronize

    layout, server = Layout.at(study.root), os.environ.get("MLFLOW_TRACKING_URI") or None
    if server is None and not layout.mlflow_database.is_file():
        return
    try:
        synchronize(study.ledger, layout, server)
    except (StudyBusyError, TrackingUnavailableError) as error:
        typer.echo(f"warning: MLflow was not told what is confirmed: {error}", err=True)


@app.command()
def export(
    study: Name,
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle (of the bundles).")],
    disease: Annotated[str | None, typer.Option(help="A disease, `mean` or `worst`.")] = None,
    all_diseases: Annotated[
        bool, typer.Option("--all-diseases", help="One bundle a disease, in OUT/<disease>.")
    ] = False,
    policy: Annotated[
        str,
        typer.Option(help="knee, min-gap, max-accuracy, accuracy-drop=P or trial=N."),
    ] = "knee",
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Write the best noise as a bundle."""
    from study.export import export as run
    from study.export import parse_policy

    if (disease is None) == (not all_diseases):
        raise UserError("name one --disease, or --all-diseases")
    chosen = parse_policy(policy)
    opened = open_study(study, root)
    wanted = opened.config.cohort.diseases if disease is None else (disease,)
    done = [run(opened, one, chosen, out / one if disease is None else out) for one in wanted]
    for one in done:
        if one.warning:
            typer.echo(f"warning: {one.warning}", err=True)
        if not as_json:
            state = "written" if one.written else "unchanged"
            typer.echo(f"{one.disease}: trial {one.trial} → {one.folder} ({state})")
    if as_json:
        rows = [
            {
                "disease": one.disease,
                "trial": one.trial,
                "folder": str(one.folder),
                "written": one.written,
                "warning": one.warning,
            }
            for one in done
        ]
        typer.echo(json.dumps(rows))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    as_json: AsJson = False,
) -> None:
    """Check every byte of a bundle against its hashes."""
    from ude_core.bundle import verify_bundle

    facts = verify_bundle(bundle)
    if as_json:
        typer.echo((bundle / "manifest.json").read_text(encoding="utf-8"), nl=False)
        return
    typer.echo(
        f"ok: study {facts.study}, trial {facts.trial}, for {facts.encoder} and "
        f"{facts.image_size}x{facts.image_size} images, pixels {facts.pixels}; {facts.label}"
    )


@app.command()
def apply(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A PNG, or a folder.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of OUT that differ.")
    ] = False,
) -> None:
    """Edit an image or a folder of images; the originals stay as they are."""
    from ude_core.bundle import load_bundle
    from ude_core.editing import edit_path

    loaded = load_bundle(bundle)
    done = edit_path(loaded, source, target, overwrite=overwrite)
    if loaded.facts.pixels == "paper":
        typer.echo(
            "note: this noise was scored on floats; files are clamped and rounded to their bits",
            err=True,
        )
    if done.skipped:
        names = ", ".join(path.name for path in done.skipped[:5])
        typer.echo(f"skipped {len(done.skipped)} that are no PNG or JPEG: {names}", err=True)
    typer.echo(f"{len(done.written)} written, {len(done.unchanged)} unchanged in {target}")
