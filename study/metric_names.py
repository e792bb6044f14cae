"""The names of what a trial measures, which of them may be objectives, and where each is better."""

from __future__ import annotations

from typing import Literal

Direction = Literal["minimize", "maximize"]

DISEASE_METRICS: dict[str, Direction] = {
    "eo_negative_gap": "minimize",
    "eo_positive_gap": "minimize",
    "eo_gap": "minimize",
    "selection_rate_ratio_gap": "minimize",
    "selection_rate_symmetric_gap": "minimize",
    "tpr_ratio_gap": "minimize",
    "accuracy": "maximize",
    "auroc": "maximize",
    "worst_group_accuracy": "maximize",
    "eo_gap_vs_random": "minimize",
    "selection_rate_symmetric_gap_vs_random": "minimize",
    "accuracy_vs_random": "maximize",
}
"""Measured per disease as `<disease>/<metric>`."""

STUDY_METRICS: dict[str, Direction] = {
    "eo_gap": "minimize",
    "selection_rate_symmetric_gap": "minimize",
    "accuracy": "maximize",
    "eo_gap_vs_random": "minimize",
    "selection_rate_symmetric_gap_vs_random": "minimize",
    "accuracy_vs_random": "maximize",
    "controls_beaten": "maximize",
    "attribute_auc_frozen": "minimize",
    "attribute_auc_retrained": "minimize",
    "attribute_auc_retrained_mlp": "minimize",
    "attribute_cross_entropy": "maximize",
    "noise_l2": "minimize",
    "psnr_db": "maximize",
    "ssim": "maximize",
    "queries": "minimize",
}
"""Measured per trial; the first six are means over the diseases."""


def for_disease(metric: str, disease: str) -> str:
    """Return the name under which `metric` is measured for `disease`, or itself if per trial.

    >>> for_disease("eo_gap", "edema"), for_disease("queries", "edema")
    ('edema/eo_gap', 'queries')
    """
    return f"{disease}/{metric}" if metric in DISEASE_METRICS else metric
