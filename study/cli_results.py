"""The commands that read what a study found: trials, pareto, confirm, export, verify, apply."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli_support import (
    ROOT,
    AsJson,
    Name,
    Root,
    known_standings,
    open_study,
    show,
    show_fronts,
)
from ude_core.errors import UserError

if TYPE_CHECKING:
    from study.api import Study
    from study.publish import Published

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
        typer.echo(
            json.dumps(front_to_json(front, known_standings(opened, disease)), allow_nan=False)
        )
    elif html is None:
        show(front_table(front, known_standings(opened, disease), everything=everything))


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
        typer.Option(
            help="knee, min-gap, max-accuracy, accuracy-drop=P, trial=N; or minimax: one "
            "noise for every disease."
        ),
    ] = "knee",
    register: Annotated[
        bool, typer.Option(help="In MLflow's Model Registry too, where it can be reached.")
    ] = True,
    onnx: Annotated[bool, typer.Option("--onnx", help="With the edit as a graph too.")] = False,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Write the best noise as a bundle, and register it."""
    from study.policies import parse_policy
    from study.publish import publish

    chosen = parse_policy(policy)
    if chosen.kind == "minimax":
        if disease is not None or all_diseases:
            raise UserError("minimax is one noise for every disease: name no --disease")
    elif (disease is None) == (not all_diseases):
        raise UserError("name one --disease, or --all-diseases")
    opened = open_study(study, root)
    published = publish(opened, chosen, out, disease=disease, register=register, onnx=onnx)
    for warning in dict.fromkeys(one.exported.warning for one in published):
        if warning:
            typer.echo(f"warning: {warning}", err=True)
    for note in dict.fromkeys(one.note for one in published):
        if note:
            typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps([_published_json(one) for one in published]))
        return
    for one in published:
        done = one.exported
        state = "written" if done.written else "unchanged"
        typer.echo(f"{done.disease}: trial {done.trial} → {done.folder} ({state})")
        if one.registered is not None:
            typer.echo(f"  models:/{one.registered.name}@best is version {one.registered.version}")


def _published_json(one: Published) -> dict[str, Any]:
    done = one.exported
    return {
        "disease": done.disease,
        "trial": done.trial,
        "folder": str(done.folder),
        "written": done.written,
        "warning": done.warning,
        "registered": None if one.registered is None else asdict(one.registered),
        "note": one.note,
    }


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
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="An image, or a folder with its sub-folders.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A PNG, or a folder.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Where the images go: a name, or 12 digits of a fingerprint. Refused "
            "where the noise was learnt for another."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of OUT that differ.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; else a core each.")] = None,
) -> None:
    """Edit an image or a folder of images; the originals stay as they are."""
    from study.progress_bar import progress_bar
    from ude_core.bundle import check_encoder, load_bundle
    from ude_core.edit_files import edit_path

    loaded = load_bundle(bundle)
    if encoder is not None:
        check_encoder(loaded.facts, encoder)
    with progress_bar("editing") as progress:
        done = edit_path(
            loaded, source, target, overwrite=overwrite, workers=workers, progress=progress
        )
    if loaded.facts.pixels == "paper":
        typer.echo(
            "note: this noise was scored on floats; files are clamped and rounded to their bits",
            err=True,
        )
    if done.skipped:
        names = ", ".join(path.name for path in done.skipped[:5])
        typer.echo(f"skipped {len(done.skipped)} that are no PNG or JPEG: {names}", err=True)
    typer.echo(f"{len(done.written)} written, {len(done.unchanged)} unchanged in {target}")
