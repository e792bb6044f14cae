"""The command line, `ude-study`. Heavy imports wait inside the commands: `--help` answers at once.

Exit status: 0 done; 2 what the user can mend (one line, no traceback); 3 the study ended with
failed trials; 130/143 interrupted, and the same command continues; 1 what the world did.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from study import cli_cluster, cli_cohort, cli_report, cli_results
from study.cli_support import ROOT, AsJson, Commands, Name, Root, open_study, show, show_fronts

if TYPE_CHECKING:
    from study.api import Study
    from study.sweep import Outcome

_REASONS = 5

app = typer.Typer(
    cls=Commands,
    help="Hyper-parameter studies for Universal Debiased Editing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
encoders = typer.Typer(no_args_is_help=True, help="The foundation models an edit is learnt for.")


@app.command()
def launch(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A YAML file, or a name in search_spaces/.")
    ],
    study: Annotated[str | None, typer.Option(help="Name of the study; else the space's.")] = None,
    trials: Annotated[int | None, typer.Option(help="Bring the study to this many.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at the same time.")] = None,
    root: Root = ROOT,
    address: Annotated[str | None, typer.Option(help="A Ray cluster; else this machine.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say the cost; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run or continue a study."""
    from study.config import load_space

    config = load_space(
        space, overrides=settings or (), study=study, trials=trials, workers=workers
    )
    if dry_run:
        from study.plan import plan_study, plan_text

        planned = plan_study(config)
        typer.echo(json.dumps(planned, indent=2) if as_json else plan_text(planned))
        return
    from study.sweep import launch as run

    outcome = run(
        config,
        root,
        address=address,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None,
        quiet=as_json,
    )
    for problem in outcome.tracking_problems:
        typer.echo(f"warning: not in MLflow: {problem}", err=True)
    if outcome.tracking_problems:
        typer.echo(f"nothing is lost: ude-study sync {config.name} writes it later", err=True)
    opened = open_study(config.name, root)
    if as_json:
        typer.echo(json.dumps(_status(opened) | {"exit_status": outcome.exit_code}))
    else:
        show_fronts(opened)
        _print_ending(opened, outcome)
        _print_pages(opened)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(
    study: Name,
    root: Root = ROOT,
    address: Annotated[
        str | None,
        typer.Option(help="A cluster's dashboard (http://…): what its job says, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a study is. The study database answers, whatever became of the cluster."""
    opened = open_study(study, root)
    said = _status(opened)
    if address is not None:
        said["job"] = cli_cluster.job_of(opened.name, address)
    if as_json:
        typer.echo(json.dumps(said))
        return
    counts = ", ".join(f"{count} {state}" for state, count in said["counts"].items() if count)
    owner = opened.ledger.owner()
    driver = f"{owner.name} (heard of {owner.age:.0f} s ago)" if owner else "none"
    typer.echo(f"{said['study']}: {counts or 'no trials'} (target {said['target']})")
    saved = f" ({said['queries_saved']:,} saved by pruning)" if said["counts"]["pruned"] else ""
    typer.echo(f"{said['queries']:,} queries{saved} · driver: {driver}")
    if said.get("job"):
        typer.echo(f"job {said['job']['id']}: {said['job']['status']}")
    for note in said.get("notes", ()):
        typer.echo(note)


@app.command("list")
def list_studies(root: Root = ROOT, as_json: AsJson = False) -> None:
    """List the studies under the root: state, owner, progress."""
    from study.names import Layout
    from study.overview import overview, overview_table

    rows = overview(Layout.at(root))
    if as_json:
        typer.echo(json.dumps(rows))
    elif not rows:
        typer.echo(f"no studies under {root}")
    else:
        show(overview_table(rows))


app.add_typer(cli_results.app)
app.add_typer(cli_report.app)
app.add_typer(cli_cluster.app)


@app.command()
def doctor(root: Root = ROOT, as_json: AsJson = False) -> None:
    """Check what is installed, reachable and fast enough."""
    from study.doctor import examine

    checks = examine(root)
    if as_json:
        typer.echo(json.dumps([check.as_json() for check in checks]))
    else:
        for check in checks:
            typer.echo(f"{check.verdict:<4}  {check.name}: {check.detail}")
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(2)


@app.command()
def sync(
    study: Name,
    everything: Annotated[
        bool, typer.Option("--all", help="Write every trial again, not only the missing ones.")
    ] = False,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> None:
    """Rebuild MLflow's runs of a study from the ledger and the trial folders."""
    from study.names import Layout
    from study.tracking import synchronize

    ledger = open_study(study, root).ledger
    written = synchronize(
        ledger,
        Layout.at(root),
        os.environ.get("MLFLOW_TRACKING_URI") or None,
        everything=everything,
    )
    if as_json:
        typer.echo(json.dumps({"study": ledger.name, "written": written}))
    else:
        typer.echo(f"{ledger.name}: {written} trials written to MLflow")


@app.command()
def serve(
    root: Root = ROOT,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On loopback only.")] = 5000,
) -> None:
    """Open MLflow on this machine."""
    from study.serve import serve_mlflow

    serve_mlflow(root, port)


@encoders.command("list")
def list_encoders(as_json: AsJson = False) -> None:
    """List the encoders a study can name."""
    from study.overview import encoder_kinds

    kinds = encoder_kinds()
    if as_json:
        typer.echo(json.dumps(kinds))
        return
    for kind in kinds:
        typer.echo(f"{kind['kind']}: {kind['about']}")
        typer.echo(f"    settings: {', '.join(kind['settings']) or 'none'}")


app.add_typer(encoders, name="encoder")
app.add_typer(cli_cohort.app, name="cohort")


def _status(study: Study) -> dict[str, Any]:
    from study.constraints import constraints_note

    notes = [note for note in (study.ledger.ending, constraints_note(study.config)) if note]
    return {
        "study": study.name,
        "target": study.config.budget.trials,
        "counts": study.ledger.counts(),
        "queries": study.ledger.queries(),
        "queries_saved": study.ledger.queries_saved(),
        **({"notes": notes} if notes else {}),
    }


def _print_ending(study: Study, outcome: Outcome) -> None:
    said = ", ".join(f"{count} {state}" for state, count in outcome.counts.items() if count)
    typer.echo(f"{outcome.study}: {said or 'no trials'} of {outcome.target}")
    if outcome.ending:
        typer.echo(outcome.ending)
    failed = [record for record in study.ledger.trials() if record.state == "failed"]
    for record in failed[:_REASONS]:
        typer.echo(f"trial {record.number} failed: {record.reason}", err=True)
    if len(failed) > _REASONS:
        typer.echo(f"and {len(failed) - _REASONS} more: ude-study trials {study.name}", err=True)
    if outcome.interrupted is not None:
        typer.echo("interrupted: nothing finished is lost; the same command continues", err=True)


def _print_pages(study: Study) -> None:
    """Say where to look: on the server that recorded the study, or on one to be started."""
    from study.names import runs_page, study_page

    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    recorded = server.scheme in ("http", "https")
    host = server.netloc.rpartition("@")[2]  # an address may hold a password
    address = f"{server.scheme}://{host}{server.path}" if recorded else "http://127.0.0.1:5000"
    if not recorded:
        typer.echo(f"look at it: ude-study serve --root {study.root}, and open")
    typer.echo(f"{study_page(address, study.name)}  the front")
    typer.echo(f"{runs_page(address, study.name)}  its runs in MLflow")


def main() -> None:
    """Run the command line."""
    app()
