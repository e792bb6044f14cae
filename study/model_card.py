"""MODEL_CARD.md of a bundle: what the noise is, what it was measured to do, and what it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.pareto import LEVEL_TOLERANCE_PP, MEAN, WORST, Goal, Levelling, levelling, scoped
from study.pareto_views import measured_text, title
from ude_core.bundle_manifest import FEWEST, BundleFacts
from ude_core.types import Interval, Measured

_PIPELINES = {
    "deploy": "clamped to [0, 1] and rounded to 8 bits, as a PNG is",
    "paper": "not clamped and not rounded (floats); files written by `ude-study apply` are both",
}


_FIDELITY = (
    ("noise_l2", "norm ‖ε‖₂, in pixel units", "{:.1f}"),
    ("psnr_db", "peak signal-to-noise ratio against the un-edited image", "{:.1f} dB"),
    ("ssim", "structural similarity to the un-edited image (1 is unchanged)", "{:.3f}"),
)
_LEAKAGE = (
    ("attribute_auc_frozen", "the classifier it was learnt against"),
    ("attribute_auc_retrained", "a fresh probe, trained on edited images"),
    ("attribute_auc_retrained_mlp", "a fresh small network, trained on edited images"),
)


def model_card(facts: BundleFacts, goals: Sequence[Goal]) -> str:
    """Return the card as Markdown. A function of its arguments: no date, no path, no user."""
    split = "test split, fresh seeds" if facts.stage == "confirmed" else "validation split"
    diseases = sorted({name.partition("/")[0] for name in facts.metrics if "/" in name})
    sections = [
        f"# Universal debiasing edit: study {facts.study}, trial {facts.trial}",
        _verdict(facts),
        *_warnings(facts, diseases),
        "One noise, added to every image before it goes to the frozen encoder "
        f"`{facts.encoder}`, so that the embedding says less of the sensitive attribute.\n"
        f"{_chosen_for(facts)}\n\n"
        "![a synthetic image, the same edited, and the noise](preview.png)",
        "## Use\n\n"
        f"- Images: {facts.image_size}x{facts.image_size}, gray, values in [0, 1], prepared as in "
        "the study.\n"
        f"- Edited pixels are {_PIPELINES[facts.pixels]}.\n"
        f"- Encoder fingerprint: `{facts.encoder_fingerprint}`. Another encoder needs another "
        "noise.\n"
        "- Heads must be trained on embeddings of edited images.\n\n"
        "```\nude-study verify BUNDLE\nude-study apply BUNDLE IMAGES OUT\n```",
        "## Learnt on\n\n" + _cells(facts),
        f"## Measured ({split})\n\n"
        "Percentage points, with 95 % intervals; ERM is the same head without an edit.\n\n"
        + _table(facts, goals, diseases),
    ]
    if facts.stage == "search":
        sections.append(
            "These figures were searched over, so they are optimistic. "
            "`ude-study confirm` measures the test split."
        )
    sections += [
        "## Whom it helped\n\n" + _levelled(facts, diseases),
        _groups(facts, diseases),
        "## What remains of the attribute\n\n" + _leakage(facts),
        "## The edit itself\n\n" + _fidelity(facts),
        "## Learnt with\n\n"
        + "\n".join(f"- `{name}`: {value}" for name, value in sorted(facts.parameters.items())),
        "## Limits\n\n"
        "- Measured on one cohort, one attribute and equal cells; other scanners, ages and "
        "prevalences were not.\n"
        "- Not a medical device. Do not diagnose from edited images.\n"
        "- A smaller gap between groups does not say that anyone is better served; see above.\n"
        "- The manifest's hashes show that nothing was altered; they are not a signature.",
        f"Cohort `{facts.cohort}`, data fingerprint `{facts.data_fingerprint}`; commit "
        f"`{facts.commit}`.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _chosen_for(facts: BundleFacts) -> str:
    if facts.policy == "minimax":
        return (
            "Chosen for every disease at once by policy `minimax`: its worst gap is the smallest."
        )
    return f"Chosen for {facts.disease.replace('_', ' ')} by policy `{facts.policy}`."


def _warnings(facts: BundleFacts, diseases: Sequence[str]) -> list[str]:
    """Return a paragraph for each disease where some group is served worse than without the edit."""
    said = []
    for disease in diseases:
        fell = [change for change in _changes(facts, disease) if change.fell]
        if fell:
            label = _label(facts, disease, diseases)
            rates = ", ".join(f"{change.name} {change.points:+.1f}" for change in fell)
            said.append(f"**{disease}: {label}. Against no edit, in percentage points: {rates}.**")
    return said


@dataclass(frozen=True, slots=True)
class _Change:
    """One group's TPR or TNR for one disease, without and with the edit."""

    rate: str
    group: str
    before: Measured | None
    after: Measured | None

    @property
    def name(self) -> str:
        return f"{self.rate.upper()} of {self.group}"

    @property
    def points(self) -> float | None:
        """Edited minus ERM, in percentage points; None where either is undefined."""
        if isinstance(self.before, Interval) and isinstance(self.after, Interval):
            return self.after.mean - self.before.mean
        return None

    @property
    def fell(self) -> bool:
        return self.points is not None and self.points < -LEVEL_TOLERANCE_PP


def _changes(facts: BundleFacts, disease: str) -> list[_Change]:
    names = sorted(
        name.removeprefix(f"{disease}/")
        for name in facts.metrics.keys() | facts.reference.keys()
        if name.startswith((f"{disease}/tpr.", f"{disease}/tnr."))
    )
    return [
        _Change(
            rate,
            group,
            facts.reference.get(f"{disease}/{rate}.{group}"),
            facts.metrics.get(f"{disease}/{rate}.{group}"),
        )
        for rate, _, group in (name.partition(".") for name in names)
    ]


def _groups(facts: BundleFacts, diseases: Sequence[str]) -> str:
    rows = [
        f"| {disease} | {change.rate.upper()} | {change.group} | {measured_text(change.before)} "
        f"| {measured_text(change.after)} "
        f"| {'–' if change.points is None else f'{change.points:+.1f}'} |"
        for disease in diseases
        for change in _changes(facts, disease)
    ]
    if not rows:
        return ""
    head = [
        "| disease | rate | group | ERM | edited | change |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(head + rows)


def _cells(facts: BundleFacts) -> str:
    """Return the training cells as a table: counts of images, and never anything of a patient."""
    if not facts.cells:
        return f"The training split of cohort `{facts.cohort}`. Its cells were not counted."
    lines = [
        "Images of the training split, by group and label; cells of fewer than 5 are not told.",
        "",
        "| disease | group, label | images |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {disease} | {cell} | {f'under {FEWEST}' if count is None else count} |"
        for disease, counts in sorted(facts.cells.items())
        for cell, count in sorted(counts.items())
    ]
    return "\n".join(lines)


def _leakage(facts: BundleFacts) -> str:
    lines = ["| AUC of the attribute | ERM | edited |", "| --- | --- | --- |"]
    lines += [
        f"| {text} | {measured_text(facts.reference.get(name))} "
        f"| {measured_text(facts.metrics.get(name))} |"
        for name, text in _LEAKAGE
    ]
    told = (
        "50 is a coin toss. Fooling one classifier is not removal: what a fresh probe still reads"
    )
    return "\n".join(lines) + f"\n\n{told} is what the edit leaves behind."


def _verdict(facts: BundleFacts) -> str:
    match facts.label:
        case "no better than noise":
            return (
                "**No better than noise: random noise of the same norm does as well. "
                "Do not use it.**"
            )
        case "not compared":
            return "**Not compared with random noise of the same norm.**"
        case _:
            return "It does better than random noise of the same norm, basis and pixel pipeline."


def _table(facts: BundleFacts, goals: Sequence[Goal], diseases: Sequence[str]) -> str:
    names = list(dict.fromkeys((*(goal.name for goal in goals), "auroc", "worst_group_accuracy")))
    rows = [
        "| disease | metric | ERM | edited | minus random noise |",
        "| --- | --- | --- | --- | --- |",
    ]
    for disease in diseases:
        for name in names:
            edited = facts.metrics.get(f"{disease}/{name}")
            if edited is None:
                continue
            before = facts.reference.get(f"{disease}/{name}")
            control = facts.metrics.get(f"{disease}/{name}_vs_random")
            rows.append(
                f"| {disease} | {title(name)} | {measured_text(before)} | {measured_text(edited)} "
                f"| {measured_text(control)} |"
            )
    return "\n".join(rows)


def _fidelity(facts: BundleFacts) -> str:
    lines = [
        f"- {text}: {form.format(value.mean)}"
        for name, text, form in _FIDELITY
        if isinstance(value := facts.metrics.get(name), Interval)
    ]
    return "\n".join(lines) or "- not measured"


def _levelled(facts: BundleFacts, diseases: Sequence[str]) -> str:
    explained = {
        "lifted": "some group's TPR or TNR rose, none fell",
        "traded": "some group's TPR or TNR rose and another fell",
        "levelled-down": "some group's TPR or TNR fell, none rose",
        "unchanged": "no group's TPR or TNR moved by over 1 point",
        "unknown": "a group's TPR or TNR is undefined",
    }
    lines = []
    for disease in diseases:
        if disease in (MEAN, WORST):
            continue
        label = _label(facts, disease, diseases)
        lines.append(f"- {disease}: {label} ({explained[label]}).")
    return "\n".join(lines)


def _label(facts: BundleFacts, disease: str, diseases: Sequence[str]) -> Levelling:
    ours = scoped(facts.metrics, disease, diseases)
    return levelling(ours, scoped(facts.reference, disease, diseases))
