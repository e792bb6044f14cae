"""SSIM: as scikit-image computes it, 1 for what is unchanged, and an objective of a study."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from study.config import StudyConfig
from study.metric_names import STUDY_METRICS, for_disease
from ude_core.ssim import WINDOW, ssim
from ude_core.types import Undefined


def pictures(images: int = 10, rows: int = 40, columns: int = 33) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 1, rows // 4, columns // 4, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear")


def by_scikit_image(original: torch.Tensor, edited: torch.Tensor) -> float:
    values = [
        structural_similarity(
            x[0].double().numpy(),
            y[0].double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for x, y in zip(original, edited, strict=True)
    ]
    return float(np.mean(values))


@pytest.mark.parametrize("strength", [0.01, 0.1, 1.0])
def test_it_is_what_scikit_image_gives(strength: float) -> None:
    clean = pictures()
    noise = torch.randn(1, 40, 33, generator=torch.Generator().manual_seed(1)) * strength
    for edited in (clean + noise, (clean + noise).clamp(0, 1), 1 - clean):
        expected = by_scikit_image(clean, edited)
        assert ssim(clean, edited) == pytest.approx(expected, abs=1e-9)


def test_unchanged_is_one_and_inverted_is_negative() -> None:
    clean = pictures()
    assert ssim(clean, clean) == 1.0
    inverted = ssim(clean, 1 - clean)
    assert isinstance(inverted, float)
    assert inverted < 0


def test_an_image_smaller_than_the_window_has_none() -> None:
    small = torch.rand(2, 1, WINDOW - 1, 40)
    assert ssim(small, small) == Undefined("images are smaller than SSIM's window of 11 pixels")
    fits = torch.rand(2, 1, WINDOW, WINDOW)
    assert ssim(fits, fits) == 1.0


def test_it_can_be_an_objective() -> None:
    config = StudyConfig.model_validate_json(
        """{"study": "s", "cohort": {"kind": "phantom"}, "encoder": {"kind": "phantom_vit"},
        "search": {"step_size": {"low": 0.01, "high": 0.1}},
        "objectives": [{"metric": "eo_gap", "direction": "minimize"},
                       {"metric": "ssim", "direction": "maximize"}]}"""
    )
    assert STUDY_METRICS[config.objectives[1].metric] == "maximize"
    assert for_disease("ssim", "edema") == "ssim"
