"""MODEL_CARD.md of a bundle: what the noise is, what it was measured to do, and what it is not."""

from __future__ import annotations

from collections.abc import Sequence

from study.pareto import MEAN, WORST, Goal, levelling, scoped
from study.pareto_views import measured_text, title
from ude_core.bundle_manifest import BundleFacts
from ude_core.types import Interval

_PIPELINES = {
    "deploy": "clamped to [0, 1] and rounded to 8 bits, as a PNG is",
    "paper": "not clamped and not rounded (floats); files written by `ude-study apply` are both",
}


_FIDELITY = (
    ("noise_l2", "norm ‖ε‖₂, in pixel units", "{:.1f}"),
    ("psnr_db", "peak signal-to-noise ratio against the un-edited image", "{:.1f} dB"),
    ("ssim", "structural similarity to the un-edited image (1 is unchanged)", "{:.3f}"),
    ("attribute_auc_frozen", "attribute AUC of the classifier it was learnt against", "{:.1f} %"),
    ("attribute_auc_retrained", "attribute AUC of a fresh probe on edited images", "{:.1f} %"),
    (
        "attribute_auc_retrained_mlp",
        "attribute AUC of a fresh small network on edited images",
        "{:.1f} %",
    ),
)


def model_card(facts: BundleFacts, goals: Sequence[Goal]) -> str:
    """Return the card as Markdown. A function of its arguments: no date, no path, no user."""
    split = "test split, fresh seeds" if facts.stage == "confirmed" else "validation split"
    diseases = sorted({name.partition("/")[0] for name in facts.metrics if "/" in name})
    sections = [
        f"# Universal debiasing edit: study {facts.study}, trial {facts.trial}",
        _verdict(facts),
        "\n".join(
            (
                "One noise, added to every image before it goes to the frozen encoder "
                f"`{facts.encoder}`, so that the embedding says less of the sensitive attribute.",
                f"Chosen for {facts.disease.replace('_', ' ')} by policy `{facts.policy}`.",
            )
        ),
        "## Use\n\n"
        f"- Images: {facts.image_size}x{facts.image_size}, gray, values in [0, 1], prepared as in "
        "the study.\n"
        f"- Edited pixels are {_PIPELINES[facts.pixels]}.\n"
        f"- Encoder fingerprint: `{facts.encoder_fingerprint}`. Another encoder needs another "
        "noise.\n"
        "- Heads must be trained on embeddings of edited images.\n\n"
        "```\nude-study verify BUNDLE\nude-study apply BUNDLE IMAGES OUT\n```",
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
        "## The edit itself\n\n" + _fidelity(facts),
        "## Whom it helped\n\n" + _levelled(facts, diseases),
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
    return "\n\n".join(sections) + "\n"


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
        ours = scoped(facts.metrics, disease, diseases)
        label = levelling(ours, scoped(facts.reference, disease, diseases))
        lines.append(f"- {disease}: {label} ({explained[label]}).")
    return "\n".join(lines)
