"""The tables that the paper has not: leakage, the front on the test split, transfer, one for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from study.pareto_views import title
from study.report.choices import RULE, method_title
from study.report.collect import Collected
from study.report.tables import Cell, Raw, Table, cell_of, raw, signed
from study.standing import SHARE_BEATEN
from ude_core.types import Interval, Measured

_PROBES: Mapping[str, str] = {
    "attribute_auc_frozen": "frozen classifier g",
    "attribute_auc_retrained": "fresh linear probe",
    "attribute_auc_retrained_mlp": "fresh MLP probe",
}
_CLEAN = "clean (ERM)"


def leakage_table(found: Collected) -> Table:
    """Return what the edited embeddings still tell of the attribute, beside the clean ones.

    Every `attribute_auc_*` that the study measured is a column, whatever probes there are.
    """
    clean = found.fronts["mean"].erm
    lines: list[tuple[str, int | None, Mapping[str, Measured]]] = [(_CLEAN, None, clean)]
    lines += [
        (method_title(method), trial, found.records[trial].metrics)
        for method, trial in found.methods.items()
    ]
    seen = {name for _, _, metrics in lines for name in metrics}
    probes = [name for name in _PROBES if name in seen]
    probes += sorted(n for n in seen if n.startswith("attribute_auc_") and n not in _PROBES)
    names = [*probes, *(["attribute_cross_entropy"] if "attribute_cross_entropy" in seen else [])]
    heads = [_PROBES.get(name, _probe_title(name)) for name in probes]
    entropy = ["cross-entropy of g (nats)"] if len(names) > len(probes) else []
    rows = tuple(
        (
            Cell(who, note="" if trial is None else f"trial {trial}"),
            *(_leak_cell(name, metrics.get(name)) for name in names),
        )
        for who, trial, metrics in lines
    )
    data = tuple(
        (who, trial, name, *raw(metrics.get(name)))
        for who, trial, metrics in lines
        for name in names
    )
    return Table(
        slug="leakage",
        file="leakage",
        title="What still leaks",
        caption=(
            "AUC of the sensitive attribute on validation patients, percentage points; 50 is "
            "nothing left to find. The frozen classifier is the one the noise was learnt against: "
            "fooling it is not removal, what a freshly trained probe finds is still there. Under "
            "50, its prediction is flipped and just as readable. A method that trains other heads "
            "leaves the embeddings, and so the leakage, as they are."
        ),
        columns=("noise", *heads, *entropy),
        rows=rows,
        header=("noise", "trial", "metric", "mean", "low", "high", "why_none"),
        data=data,
    )


def _probe_title(name: str) -> str:
    kind = name.removeprefix("attribute_auc_")
    return f"fresh {kind.upper() if len(kind) <= 3 else kind.replace('_', ' ')} probe"


def _leak_cell(name: str, value: Measured | None) -> Cell:
    if name == "attribute_cross_entropy" and isinstance(value, Interval):
        return Cell(f"{value.mean:.2f}")
    return cell_of(value, missing="–")


def front_table(found: Collected) -> Table:
    """Return the front's points as the test split sees them, and how far validation flattered them."""
    columns = (
        "disease",
        "trial",
        "method",
        "EO gap, validation",
        "EO gap, test",
        "validation − test",
        "accuracy, test",
        "dominates ERM (%)",
        "random noises beaten (%)",
        "against ERM",
        "mark",
    )
    rows: list[tuple[Cell, ...]] = []
    data: list[tuple[Raw, ...]] = []
    for disease in found.diseases:
        for point in found.fronts[disease].best:
            tested = found.confirmation.point(point.trial)
            method = method_title(found.method_of(point.trial))
            before = point.metrics.get("eo_gap")
            if tested is None:
                why = point.control if point.control == "no better than noise" else "not confirmed"
                rows.append(
                    (
                        Cell(title(disease)),
                        Cell(str(point.trial)),
                        Cell(method),
                        cell_of(before),
                        *(Cell("–") for _ in range(6)),
                        Cell(why),
                    )
                )
                data.append((disease, point.trial, method, *raw(before)[:3], *[None] * 7, why))
                continue
            after = tested.metrics.get(f"{disease}/eo_gap")
            accuracy = tested.metrics.get(f"{disease}/accuracy")
            beaten = tested.metrics.get(f"{disease}/controls_beaten")
            optimism = tested.optimism.get(f"{disease}/eo_gap")
            chance = tested.dominance.get(disease)
            percent = None if chance is None else 100 * chance
            level = found.levelling(point.trial, disease)
            verdict = tested.standing.get(disease, "not compared")
            rows.append(
                (
                    Cell(title(disease)),
                    Cell(str(point.trial)),
                    Cell(method),
                    cell_of(before),
                    cell_of(after),
                    signed(optimism),
                    cell_of(accuracy),
                    Cell("–" if percent is None else f"{percent:.0f}"),
                    Cell(f"{beaten.mean:.0f}" if isinstance(beaten, Interval) else "–"),
                    Cell(level),
                    Cell(verdict),
                )
            )
            data.append(
                (
                    disease,
                    point.trial,
                    method,
                    *raw(before)[:3],
                    *raw(after)[:3],
                    optimism,
                    raw(accuracy)[0],
                    percent,
                    raw(beaten)[0],
                    f"{verdict}; {level}",
                )
            )
    return Table(
        slug="front",
        file="front",
        title="The front, confirmed",
        caption=(
            f"Every point of each disease's front on the test split ({found.confirmation.repeats} "
            f"fresh draws, {found.confirmation.controls} random noises a point). Validation − test "
            "is the search's optimism: below zero, validation made the gap look smaller than it is. "
            "Dominates ERM: the probability of being better on every objective at once. Against "
            "ERM: whose true rates rose or fell. Confirmed: its EO gap is under ERM's, paired, at a "
            "level that holds for all points and diseases together (Holm), and under that of at least "
            f"{SHARE_BEATEN:.0f} % of its random noises; a method without noise is not compared with any."
        ),
        columns=columns,
        rows=tuple(rows),
        header=(
            "disease",
            "trial",
            "method",
            "validation.mean",
            "validation.low",
            "validation.high",
            "test.mean",
            "test.low",
            "test.high",
            "validation_minus_test",
            "accuracy",
            "dominance_percent",
            "controls_beaten_percent",
            "mark",
        ),
        data=tuple(data),
    )


def transfer_table(found: Collected) -> Table:
    """Return the eo_gap that the noise best for disease i has on disease j, and against ERM's there."""
    lines = [(f"best for {title(disease)}", trial) for disease, trial in found.by_disease.items()]
    if found.minimax is not None:
        lines.append(("one for all (minimax)", found.minimax))
    erm = {disease: found.named.erm.get(f"{disease}/eo_gap") for disease in found.diseases}
    rows: list[tuple[Cell, ...]] = [
        (Cell("ERM"), Cell("–"), *(cell_of(erm[disease]) for disease in found.diseases))
    ]
    data: list[tuple[Raw, ...]] = [
        ("ERM", None, disease, *raw(erm[disease]), 0.0) for disease in found.diseases
    ]
    for who, trial in lines:
        metrics = found.tested(trial).metrics
        cells: list[Cell] = []
        for disease in found.diseases:
            value = metrics.get(f"{disease}/eo_gap")
            change = _difference(value, erm[disease])
            shown = cell_of(value)
            against = "" if change is None else f"({signed(change).text})"
            note = f"{shown.note}; ERM {cell_of(erm[disease]).note}"
            cells.append(Cell(f"{shown.text} {against}".strip(), shown.spread, note=note))
            data.append((who, trial, disease, *raw(value), change))
        rows.append((Cell(who), Cell(str(trial)), *cells))
    return Table(
        slug="transfer",
        file="transfer",
        title="Transfer: one disease's noise on the others",
        caption=(
            "EO gap (the larger of EO− and EO+) on the test split, and in brackets its difference "
            "to ERM's, percentage points: below zero is fairer. A row is the noise chosen for one "
            f"disease on validation ({RULE}); a column the disease it is used on. The paper's claim "
            "of universality is that a row does not depend on its column."
        ),
        columns=("noise", "trial", *(title(disease) for disease in found.diseases)),
        rows=tuple(rows),
        header=(
            "noise",
            "trial",
            "used_on",
            "eo_gap.mean",
            "eo_gap.low",
            "eo_gap.high",
            "why_none",
            "minus_erm",
        ),
        data=tuple(data),
    )


def minimax_table(found: Collected) -> Table:
    """Return the worst disease's gap of ERM, of the one noise for all, and of each disease's own."""
    lines: list[tuple[str, int | None, Mapping[str, Measured]]] = [("ERM", None, found.named.erm)]
    if found.minimax is not None:
        lines.append(("one noise for all", found.minimax, found.tested(found.minimax).metrics))
    own = {
        f"{disease}/eo_gap": value
        for disease, trial in found.by_disease.items()
        if (value := found.tested(trial).metrics.get(f"{disease}/eo_gap")) is not None
    }
    if found.by_disease:
        lines.append(("each disease its own noise", None, own))
    worst = [(who, trial, _worst_gap(metrics, found.diseases)) for who, trial, metrics in lines]
    return Table(
        slug="minimax",
        file="minimax",
        title="One noise for all diseases",
        caption=(
            "The largest EO gap over the diseases, test split, percentage points. The one noise is "
            "that with the smallest worst-disease EO gap on validation, noises that beat random "
            "noise on every disease first. Between the last two rows lies what universality costs."
        ),
        columns=("noise", "trial", "EO gap of the worst disease"),
        rows=tuple(
            (
                Cell(who),
                Cell("–" if trial is None else str(trial)),
                cell_of(value, missing="undefined"),
            )
            for who, trial, value in worst
        ),
        header=("noise", "trial", "mean", "low", "high", "why_none"),
        data=tuple((who, trial, *raw(value)) for who, trial, value in worst),
    )


def _difference(value: Measured | None, reference: Measured | None) -> float | None:
    if isinstance(value, Interval) and isinstance(reference, Interval):
        return value.mean - reference.mean
    return None


def _worst_gap(metrics: Mapping[str, Measured], diseases: Sequence[str]) -> Measured | None:
    """Return the largest `<disease>/eo_gap`, or None where one is not defined."""
    gaps = [metrics.get(f"{disease}/eo_gap") for disease in diseases]
    known = [gap for gap in gaps if isinstance(gap, Interval)]
    return max(known, key=lambda gap: gap.mean) if len(known) == len(gaps) else None
