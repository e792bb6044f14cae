"""Fig. 3 and 4: what an edit does to a film, and where it is strong. The data alone; `draw` draws it.

No patient's image leaves the study: films are synthetic, or means over at least five patients,
unless the user says otherwise. All are of development patients, never of the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from study.confirm import load_noise
from study.report.choices import method_title
from study.report.collect import Collected
from study.report.tables import Raw, csv_text, raw
from study.spaces import method_of
from ude_core.baselines.base import learns_noise
from ude_core.cohorts.base import NEGATIVE, POSITIVE
from ude_core.cohorts.cells import LABEL_NAMES
from ude_core.cohorts.mean_film import LARGEST_CROWD, SMALLEST_CROWD, mean_film
from ude_core.fidelity import fidelity
from ude_core.noise import LEVELS, apply_noise, to_pixels
from ude_core.saliency import Plane, smoothed_magnitude, top_share
from ude_core.types import ImageArray, Indices, Measured, Noise, PixelPipeline

Film = UInt8[np.ndarray, "height width"]
Films = Literal["synthetic", "mean", "patient"]
PAPERS = ("whitebox", "gezo")
_MOST_GROUPS = 4
_SIGMA_SHARE = 1 / 56
"""Width of the Gaussian in image sides: four pixels at 224, a quarter of a ViT's patch."""


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of Fig. 3; `image` is None, and `why` says it, where there is nothing to show."""

    disease: str
    label: str
    method: str
    title: str
    image: Film | None
    why: str = ""
    fidelity: Mapping[str, Measured] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Where one method's noise is strong, and the mean film of every group."""

    method: str
    title: str
    magnitude: Plane
    top: Bool[np.ndarray, "height width"]
    films: Mapping[str, Film | None]


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One method's noise, and the pixels it was scored in."""

    method: str
    trial: int
    noise: Noise
    pixels: PixelPipeline

    def of(self, film: ImageArray) -> Film:
        """Return the edited film as a display shows it: clamped and rounded."""
        edited = apply_noise(to_pixels(film), self.noise, "deploy")
        levels = edited[0, 0].mul(LEVELS).round().to(torch.uint8)
        return np.asarray(levels.numpy())


def edits_of(found: Collected) -> list[Edit]:
    """Return the noises to picture: white-box and GeZO, and where neither ran, what was learnt."""
    learnt = [name for name, trial in found.methods.items() if learns_noise(found.method_of(trial))]
    names = [name for name in PAPERS if name in learnt] or learnt[:2]
    return [_edit(found, name) for name in names]


def _edit(found: Collected, name: str) -> Edit:
    record = found.records[found.methods[name]]
    pixels = method_of(found.config, record.params).pixels
    return Edit(name, record.number, load_noise(record), pixels)


def films_of(found: Collected, *, patient_images: bool) -> Films:
    """Return what kind of film may be shown."""
    if found.config.cohort.kind == "phantom":
        return "synthetic"
    return "patient" if patient_images else "mean"


def pairs(found: Collected, edits: Sequence[Edit], films: Films) -> list[list[Panel]]:
    """Return Fig. 3: by disease, a negative and a positive film, each followed by its edits."""
    cohort, split = found.materials.cohort, found.materials.assets.split
    rows = []
    for disease in found.diseases:
        row: list[Panel] = []
        for label in (NEGATIVE, POSITIVE):
            name = LABEL_NAMES[label]
            chosen = split.train[cohort.labels[disease][split.train] == label]
            film = _film(found, chosen, films)
            if film is None:
                why = "fewer than five patients" if films == "mean" else "no such film"
                row += [Panel(disease, name, "", name, None, why)] * (1 + len(edits))
                continue
            row.append(Panel(disease, name, "", f"{name}, original", film[0]))
            for edit in edits:
                shown = f"{name}, {method_title(edit.method)}"
                seen = fidelity(film, edit.noise, edit.pixels)
                row.append(Panel(disease, name, edit.method, shown, edit.of(film), fidelity=seen))
        rows.append(row)
    return rows


def _film(found: Collected, rows: Indices, films: Films) -> ImageArray | None:
    cohort = found.materials.cohort
    match films:
        case "mean":
            return mean_film(cohort, rows)
        case "synthetic" | "patient":
            return np.array(cohort.images[int(rows[0])])[None] if len(rows) else None


def pairs_csv(panels: Sequence[Sequence[Panel]]) -> str:
    """Return how visible each edit of Fig. 3 is, as CSV."""
    rows: list[tuple[Raw, ...]] = [
        (
            panel.disease,
            panel.label,
            panel.method,
            *(raw(panel.fidelity.get(name))[0] for name in ("noise_l2", "psnr_db", "ssim")),
        )
        for row in panels
        for panel in row
        if panel.fidelity is not None
    ]
    return csv_text(("disease", "label", "method", "noise_l2", "psnr_db", "ssim"), rows)


def regions_of(found: Collected, edits: Sequence[Edit]) -> list[Regions]:
    """Return Fig. 4 of every edit; mean films of at most four groups, each of at least five patients."""
    cohort, split = found.materials.cohort, found.materials.assets.split
    films: dict[str, Film | None] = {}
    for index, group in enumerate(cohort.groups[:_MOST_GROUPS]):
        rows = split.development[cohort.attribute[split.development] == index]
        mean = mean_film(cohort, rows)
        films[f"mean film, {group}"] = None if mean is None else mean[0]
    found_regions = []
    for edit in edits:
        magnitude = smoothed_magnitude(edit.noise, edit.noise.shape[-1] * _SIGMA_SHARE)
        found_regions.append(
            Regions(edit.method, method_title(edit.method), magnitude, top_share(magnitude), films)
        )
    return found_regions


def regions_csv(one: Regions) -> str:
    """Return the smoothed |ε| of one method, one line an image row, pixel units."""
    width = one.magnitude.shape[1]
    header = tuple(f"x{column}" for column in range(width))
    return csv_text(header, [[float(f"{value:.6g}") for value in row] for row in one.magnitude])


def pairs_caption(films: Films, edits: Sequence[Edit]) -> str:
    """Return what Fig. 3 shows, and which of the paper's two methods it cannot."""
    what = {
        "synthetic": "Films are synthetic.",
        "mean": f"Films are means over at least {SMALLEST_CROWD} patients: none is of one person.",
        "patient": "FILMS ARE OF PATIENTS, as was asked for: treat this report as patient data.",
    }[films]
    return (
        "Per disease a negative and a positive film, and the same film under the one universal edit "
        f"of each method, as a display shows it (8 bits). {what}"
        + "".join(
            f" {method_title(name)}: not run."
            for name in PAPERS
            if name not in {edit.method for edit in edits}
        )
    )


REGIONS_CAPTION = (
    "Left, the top 20 % of |ε| after a Gaussian of σ = side/56 (four pixels at 224), brighter is "
    f"stronger. Then its outline on the mean film of each group, over {SMALLEST_CROWD} to "
    f"{LARGEST_CROWD} patients."
)
