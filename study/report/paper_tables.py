"""Tables 1 and 2 of the paper for this study: the cells, and every method on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.metric_names import DISEASE_METRICS
from study.pareto import MEAN, scoped
from study.pareto_views import title
from study.report.choices import RANDOM, RULE, TITLES, method_title
from study.report.collect import Collected
from study.report.tables import NOTHING, Cell, Raw, Table, cell_of, ranks, raw
from ude_core.cohorts.cells import LEAST_SHOWN, CellTable, Part
from ude_core.types import BiasConfig, Measured

METRICS: Mapping[str, str] = {
    "eo_negative_gap": "EO− ↓",
    "eo_positive_gap": "EO+ ↓",
    "selection_rate_ratio_gap": "DI ratio ↓",
    "selection_rate_symmetric_gap": "DI symmetric ↓",
    "tpr_ratio_gap": "DI of TPR ↓",
    "accuracy": "accuracy ↑",
}
SMALLEST_COUNT = LEAST_SHOWN
_PARTS: Mapping[Part, str] = {
    "draw_train": "train draw",
    "draw_validation": "validation draw",
    "confirm_test": "test draw",
    "train": "train",
    "validation": "validation",
    "test": "test",
    "all": "all",
}
_SPLIT: tuple[Part, ...] = ("train", "validation", "test")


def table1(cells: CellTable, bias: BiasConfig) -> Table:
    """Return the images per cell: how many a draw takes, and how many each split holds.

    A count of 1 to 4 is not printed (a cell so small may point at somebody), nor the total that
    would give it away.
    """
    counts = cells.wide()
    parts = [part for part in _PARTS if part in counts.columns]
    names = [name for name in counts.columns if name not in cells.parts]
    rows: list[tuple[Cell, ...]] = []
    data: list[tuple[Raw, ...]] = []
    for line in counts.to_dict("records"):
        named = [str(line[name]) for name in names]
        small = any(0 < int(line[part]) < SMALLEST_COUNT for part in _SPLIT if part in parts)
        shown = [NOTHING if part == "all" and small else _count(int(line[part])) for part in parts]
        rows.append((*(Cell(title(name)) for name in named), *map(Cell, shown)))
        data.append((*named, *(text.replace(",", "") for text in shown)))
    columns = tuple(cells.confounder if name == "stratum" else name for name in names)
    return Table(
        slug="table1",
        file="table1",
        title="Table 1. Images per cell",
        caption=(
            "Left, what one draw takes: training is bias-amplified (gap "
            f"{100 * bias.gap:.1f} points between the groups' positive rates, {bias.favoured} "
            "positive), every evaluation cell is of one size. Right, the images that the split by "
            "patient holds; heads are trained on train and validation together. A count of 1 to "
            f"{SMALLEST_COUNT - 1} is not printed."
        ),
        columns=(*columns, *(_PARTS[part] for part in parts)),
        rows=tuple(rows),
        header=(*names, *parts),
        data=tuple(data),
    )


def _count(number: int) -> str:
    return f"1–{SMALLEST_COUNT - 1}" if 0 < number < SMALLEST_COUNT else f"{number:,}"


def table2(found: Collected) -> tuple[Table, ...]:
    """Return one table a disease, and one of the mean over them; a row for every method."""
    methods = [*TITLES, *(name for name in found.methods if name not in TITLES)]
    rows = {method: found.row(method) for method in methods}
    many = len(found.diseases) > 1
    return tuple(
        table2_of(
            disease,
            {
                method: None if metrics is None else scoped(metrics, disease, found.diseases)
                for method, metrics in rows.items()
            },
            trials=found.methods,
        )
        for disease in (*found.diseases, *((MEAN,) if many else ()))
    )


def table2_of(
    disease: str,
    rows: Mapping[str, Mapping[str, Measured] | None],
    *,
    trials: Mapping[str, int],
) -> Table:
    """Return Table 2 of one disease from each method's metrics under bare names; None: not run."""
    names = tuple(METRICS)
    values = {
        name: [None if metrics is None else metrics.get(name) for metrics in rows.values()]
        for name in names
    }
    marks = {name: ranks(values[name], DISEASE_METRICS[name]) for name in names}
    shown: list[tuple[Cell, ...]] = []
    data: list[tuple[Raw, ...]] = []
    for index, method in enumerate(rows):
        run = rows[method] is not None
        trial = trials.get(method)
        first = Cell(method_title(method), note="" if trial is None else f"trial {trial}")
        cells = [
            cell_of(values[name][index], marks[name][index], missing="–" if run else "not run")
            for name in names
        ]
        shown.append((first, *cells))
        data += [
            (method, trial, disease, name, *raw(values[name][index]), marks[name][index])
            for name in names
        ]
    where = "mean over the diseases" if disease == MEAN else title(disease)
    return Table(
        slug=f"table2_{disease}",
        file="table2",
        title=f"Table 2. {where[0].upper()}{where[1:]}",
        caption="",
        columns=("method", *METRICS.values()),
        rows=tuple(shown),
        header=("method", "trial", "disease", "metric", "mean", "low", "high", "why_none", "rank"),
        data=tuple(data),
    )


def table2_note(found: Collected) -> str:
    """Return what the numbers of Table 2 are, and where each row comes from."""
    of = found.random_of()
    text = (
        f"Test split, {found.named.repeats} fresh draws, percentage points, 95 % bootstrap "
        "intervals. Bold: the best mean; underlined: the second best, which says nothing of "
        f"significance. Each method's trial was chosen on validation: {RULE}, by the mean over the "
        "diseases."
    )
    if of is not None:
        text += (
            f" {TITLES[RANDOM]}: the mean of {found.named.controls} noises of the norm of "
            f"{method_title(of)}'s, and of its basis; beside it the smallest and the largest of them."
        )
    return text


def chosen_table(found: Collected) -> Table:
    """Return which trial stands for each method, what it cost, and whom it helped."""
    columns = (
        "method",
        "trial",
        "complete trials",
        "queries",
        "‖ε‖₂",
        "PSNR (dB)",
        "random noises beaten",
        *(f"{title(disease)}, against ERM" for disease in found.diseases),
    )
    rows: list[tuple[Cell, ...]] = []
    data: list[tuple[Raw, ...]] = []
    for method, trial in found.methods.items():
        record, point = found.records[trial], found.tested(trial)
        beaten = _beaten(point.metrics, found.diseases)
        levels = [found.levelling(trial, disease) for disease in found.diseases]
        rows.append(
            (
                Cell(method_title(method)),
                Cell(str(trial)),
                Cell(f"{found.ran.get(method, 0):,}"),
                Cell(f"{record.queries:,}"),
                cell_of(record.metrics.get("noise_l2"), missing="–"),
                cell_of(record.metrics.get("psnr_db"), missing="–"),
                cell_of(beaten, missing="–"),
                *(Cell(level) for level in levels),
            )
        )
        norms = (raw(record.metrics.get(name))[0] for name in ("noise_l2", "psnr_db"))
        data.append(
            (
                method,
                trial,
                found.ran.get(method, 0),
                record.queries,
                *norms,
                raw(beaten)[0],
                *levels,
            )
        )
    return Table(
        slug="methods",
        file="methods",
        title="The trials behind Table 2",
        caption=(
            "Random noises beaten: the share, in percent, of norm-matched random noises whose "
            "EO gap on the test split, averaged over the diseases, is larger. Against ERM, by every "
            "group's TPR and TNR on the test split: lifted (some rose, none fell), traded (both), "
            "levelled-down (some fell, none rose), unchanged (no change was shown: every 95 % "
            "interval of the paired difference holds 0)."
        ),
        columns=columns,
        rows=tuple(rows),
        header=(
            "method",
            "trial",
            "complete_trials",
            "queries",
            "noise_l2",
            "psnr_db",
            "controls_beaten",
            *(f"levelling.{disease}" for disease in found.diseases),
        ),
        data=tuple(data),
    )


def _beaten(metrics: Mapping[str, Measured], diseases: Sequence[str]) -> Measured | None:
    return scoped(metrics, MEAN, diseases).get("controls_beaten")
