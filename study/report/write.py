"""A report's files: report.md, report.html, and every table and figure as data beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.provenance import commit, package_versions
from study.report.ablation import Knob, Sweep, caption, sweep_of
from study.report.aims import aims_table
from study.report.choices import RULE, TITLES
from study.report.collect import Ablation, Collected, Say, ablation_of, cells_of, collect
from study.report.draw import pairs_png, regions_png, sweep_png
from study.report.live import sweep_figure
from study.report.our_tables import (
    front_table,
    leakage_table,
    minimax_table,
    transfer_table,
)
from study.report.pages import Figure, Part, Report, html_page, markdown_page
from study.report.paper_tables import chosen_table, table1, table2, table2_note
from study.report.pictures import (
    REGIONS_CAPTION,
    edits_of,
    films_of,
    pairs,
    pairs_caption,
    pairs_csv,
    regions_csv,
    regions_of,
)
from study.report.tables import Table, csv_text
from ude_core.errors import UserError
from ude_core.storage import atomic_write

if TYPE_CHECKING:
    from study.api import Study

_SPACES: dict[Knob, tuple[str, str, str]] = {
    "regularization": ("fig2a", "Fig. 2a. The regularisation λ", "ablation_lambda"),
    "local_iterations": ("fig2b", "Fig. 2b. The local iterations R", "ablation_iterations"),
}
_PATIENTS = (
    "This report holds images of single patients (--patient-images): treat it as patient data."
)


@dataclass(frozen=True, slots=True)
class Written:
    """Where a report is, the queries it paid, and the methods of Table 2 that have no trial."""

    folder: Path
    queries: int
    study_queries: int
    not_run: tuple[str, ...]


def write_report(
    study: Study,
    folder: Path,
    *,
    ablation_lambda: Study | None = None,
    ablation_iterations: Study | None = None,
    patient_images: bool = False,
    say: Say = lambda _: None,
) -> Written:
    """Write the report of `study` into `folder`; its own files there are replaced, others stay.

    Fig. 2a and 2b come from the study's own trials, or from those of the ablation studies.
    Confirms what is not confirmed yet, which queries the encoder. Raises UserError where no trial
    is complete or `folder` is a file, FingerprintError where data or weights changed.
    """
    folder = folder.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file (expected a folder); name another")
    found = collect(study, say)
    say("drawing")
    own = Ablation(found.study, found.config, found.fronts)
    sources: dict[Knob, Study | None] = {
        "regularization": ablation_lambda,
        "local_iterations": ablation_iterations,
    }
    sweeps = [
        sweep_of(own if other is None else ablation_of(other), knob)
        for knob, other in sources.items()
    ]
    report = compose(found, sweeps, patient_images=patient_images)
    for name, text in table_files(report.tables).items():
        atomic_write(folder / "tables" / name, text.encode())
    for figure in report.figures:
        if figure.png:
            atomic_write(folder / "figures" / f"{figure.slug}.png", figure.png)
        for name, text in (figure.data or {}).items():
            atomic_write(folder / "figures" / name, text.encode())
    atomic_write(folder / "report.md", markdown_page(report).encode())
    atomic_write(folder / "report.html", html_page(report).encode())
    missing = tuple(name for name in TITLES if found.row(name) is None)
    return Written(folder, found.queries, found.study_queries, missing)


def table_files(tables: Iterable[Table]) -> dict[str, str]:
    """Return the CSV files of the tables, by name; tables of one file stand under one header."""
    grouped: dict[str, list[Table]] = {}
    for table in tables:
        grouped.setdefault(table.file, []).append(table)
    return {
        f"{name}.csv": csv_text(some[0].header, [row for one in some for row in one.data])
        for name, some in grouped.items()
    }


def compose(found: Collected, sweeps: Sequence[Sweep], *, patient_images: bool) -> Report:
    """Return the report, every table and figure made."""
    films = films_of(found, patient_images=patient_images)
    edits = edits_of(found)
    assets = found.materials.assets
    figures = [_sweep_figure(sweep) for sweep in sweeps]
    aims = None
    if edits:
        panels = pairs(found, edits, films)
        regions = regions_of(found, edits)
        aims = aims_table(found, regions)
        pictures = (
            Figure(
                "fig3",
                "Fig. 3. Films before and after the edit",
                pairs_caption(films, edits),
                pairs_png(panels),
                data={"fig3.csv": pairs_csv(panels)},
            ),
            Figure(
                "fig4",
                "Fig. 4. Where the edit is strong",
                REGIONS_CAPTION,
                regions_png(regions),
                data={f"fig4_{one.method}.csv": regions_csv(one) for one in regions},
            ),
        )
    else:
        why = "Not run: no trial of this study learnt a universal noise."
        pictures = (
            Figure("fig3", "Fig. 3. Films before and after the edit", "", missing=why),
            Figure("fig4", "Fig. 4. Where the edit is strong", "", missing=why),
        )
    return Report(
        study=found.study,
        description=found.config.description,
        warning=_PATIENTS if films == "patient" else "",
        facts=_facts(found),
        parts=(
            Part("The cohort", (table1(cells_of(found), assets.bias),)),
            Part("The methods", (*table2(found), chosen_table(found)), text=table2_note(found)),
            Part("The settings", figures=tuple(figures)),
            Part("The edit", figures=pictures),
            *(() if aims is None else (Part("The aim of the edit", (aims,)),)),
            Part("Leakage", (leakage_table(found),)),
            Part("Confirmation", (front_table(found),)),
            Part("Universality", (transfer_table(found), minimax_table(found))),
        ),
    )


def _sweep_figure(sweep: Sweep) -> Figure:
    slug, title, space = _SPACES[sweep.knob]
    if not sweep.drawn:
        fixed = (
            "no trial uses it" if sweep.fixed is None else f"it is {sweep.fixed:g} in every trial"
        )
        flag = slug.replace("fig2a", "--ablation-lambda").replace("fig2b", "--ablation-iterations")
        return Figure(
            slug,
            title,
            "",
            missing=(
                f"Not run: study {sweep.study} does not vary it ({fixed}). Launch {space} and pass "
                f"{flag} with its name."
            ),
        )
    return Figure(
        slug,
        title,
        caption(sweep),
        sweep_png(sweep),
        data={f"{slug}.csv": sweep.csv()},
        live=sweep_figure(sweep),
    )


def _facts(found: Collected) -> list[tuple[str, str]]:
    config, cohort, split = found.config, found.materials.cohort, found.materials.assets.split
    encoder = config.encoder.model if config.encoder.kind == "timm" else config.encoder.kind
    states = [record.state for record in found.records.values()]
    packages = package_versions()
    known = commit()
    return [
        (
            "Cohort",
            f"{config.cohort.kind}, {len(cohort):,} images, {cohort.attribute_name} "
            f"({', '.join(cohort.groups)}), {cohort.image_size}×{cohort.image_size}",
        ),
        (
            "Split by patient",
            f"{len(split.train):,} train, {len(split.validation):,} validation, "
            f"{len(split.test):,} test images",
        ),
        ("Encoder", encoder),
        (
            "Trials",
            f"{states.count('complete')} complete, {states.count('failed')} failed, "
            f"{states.count('pruned')} pruned",
        ),
        ("Queries of the search", f"{found.study_queries:,}"),
        (
            "Queries of the confirmation",
            f"{found.confirmation.queries:,} for the front, "
            f"{found.named.queries:,} for other trials of the tables",
        ),
        (
            "Test split",
            f"{found.named.repeats} fresh draws; chosen on validation, never by what stands here",
        ),
        ("Rule of choice", RULE),
        (
            "Fingerprints",
            ", ".join(f"{what} {value[:12]}" for what, value in sorted(found.fingerprints.items())),
        ),
        (
            "Software",
            ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
            + ("" if known == "unknown" else f", commit {known[:12]}{known[40:]}"),
        ),
    ]
