"""The command that writes what a study found down: report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from study.cli_support import ROOT, Name, Root, open_study

app = typer.Typer()


@app.command()
def report(
    study: Name,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")],
    ablation_lambda: Annotated[
        str | None, typer.Option(metavar="STUDY", help="The study whose trials are Fig. 2a.")
    ] = None,
    ablation_iterations: Annotated[
        str | None, typer.Option(metavar="STUDY", help="The study whose trials are Fig. 2b.")
    ] = None,
    patient_images: Annotated[
        bool,
        typer.Option("--patient-images", help="Show single patients in Fig. 3, not mean films."),
    ] = False,
    root: Root = ROOT,
) -> None:
    """Write the paper's tables and figures for a study: Markdown, HTML, PNG and CSV."""
    from study.report.choices import method_title
    from study.report.write import write_report

    began = time.monotonic()
    done = write_report(
        open_study(study, root),
        out,
        ablation_lambda=None if ablation_lambda is None else open_study(ablation_lambda, root),
        ablation_iterations=(
            None if ablation_iterations is None else open_study(ablation_iterations, root)
        ),
        patient_images=patient_images,
        say=lambda text: typer.echo(text, err=True),
    )
    if done.not_run:
        names = ", ".join(map(method_title, done.not_run))
        typer.echo(f"not run in this study, as their rows in Table 2 say: {names}")
    typer.echo(f"{done.folder / 'report.html'}")
    typer.echo(f"{done.folder / 'report.md'}, tables/*.csv, figures/*.png and *.csv beside it")
    typer.echo(
        f"{time.monotonic() - began:.0f} s, {done.queries:,} queries for this report "
        f"(the search spent {done.study_queries:,})"
    )
