"""The commands that reach a study's driver on a Ray cluster: submit, stop, logs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from study.cli_support import AsJson, Name
from ude_core.errors import UserError

app = typer.Typer()

Address = Annotated[
    str,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The dashboard of the cluster's head."),
]
_ADDRESS = "http://127.0.0.1:8265"


@app.command()
def submit(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="A YAML file, or a name in search_spaces/.")
    ],
    address: Address = _ADDRESS,
    study: Annotated[str | None, typer.Option(help="Name of the study; else the space's.")] = None,
    trials: Annotated[int | None, typer.Option(help="Bring the study to this many.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at the same time, at most.")] = None,
    root: Annotated[
        str | None,
        typer.Option(help="Folder that every node shares; else the cluster's UDE_STUDY_ROOT."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override (repeatable).")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME=VALUE", help="For the driver; shown to all: no secrets."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show its log, and end with the study's own status.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run or continue a study on a cluster, its driver too."""
    from study.config import load_space
    from study.jobs import Jobs, environment_of

    config = load_space(
        space, overrides=settings or (), study=study, trials=trials, workers=workers
    )
    values = environment_of(environment or ())
    jobs = Jobs(address)
    job = jobs.submit(config, root=root, environment=values)
    if as_json:
        typer.echo(json.dumps({"study": config.name, "job": job.id, "status": job.status}))
    else:
        typer.echo(f"{config.name}: submitted as {job.id}", err=wait)
    if wait:
        for text in jobs.follow(config.name):
            typer.echo(text, nl=False, err=as_json)
        ended = jobs.wait(config.name, _REPORTED_SECONDS)
        raise typer.Exit(_exit_status(ended.status, ended.exit_code))


@app.command()
def stop(study: Name, address: Address = _ADDRESS) -> None:
    """Stop a study's driver on a cluster; submitting it again continues."""
    from study.jobs import Jobs
    from study.names import slug

    job = Jobs(address).stop(slug(study))
    typer.echo(f"{job.id}: {job.status.lower()}; nothing finished is lost: submit it again")


@app.command()
def logs(
    study: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the driver ends.")
    ] = False,
    address: Address = _ADDRESS,
) -> None:
    """Show what a study's last driver on a cluster has written."""
    from study.jobs import Jobs
    from study.names import slug

    jobs = Jobs(address)
    if not follow:
        typer.echo(jobs.logs(slug(study)), nl=False)
        return
    for text in jobs.follow(slug(study)):
        typer.echo(text, nl=False)


_REPORTED_SECONDS = 30.0
"""How long a job whose log has ended may take to say how it ended."""


def job_of(study: str, address: str) -> dict[str, Any] | None:
    """Return what the cluster says of a study's last job; None, with a warning, where it cannot."""
    from study.jobs import Jobs

    try:
        job = Jobs(address).latest(study)
    except UserError as error:
        typer.echo(f"warning: {error}", err=True)
        return None
    return None if job is None else {"id": job.id, "status": job.status, "message": job.message}


def _exit_status(status: str, exit_code: int | None) -> int:
    if status == "SUCCEEDED":
        return 0
    return exit_code if exit_code is not None and 0 < exit_code < 256 else 1
