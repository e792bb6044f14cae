"""Phantom chest X-rays: a cohort anyone can make, whose shortcut is known and can be erased.

Sex shows in two places that say nothing of disease: a lead side marker (an R on the upper left of
women's films, an L on the upper right of men's, as two wards would have it) and a faint breast
shadow. The three diseases are drawn inside the lungs, independent of sex and of each other; the
tie between disease and sex is made later, by sampling (`ude_core.cohorts.bias`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom_anatomy import Films, Rendered, render
from ude_core.errors import SettingError
from ude_core.seeding import numpy_generator

DISEASES = ("pleural_effusion", "pneumonia", "edema")
GROUPS = ("female", "male")
Layer = Literal["cue", "pleural_effusion", "pneumonia", "edema"]

# A pixel belongs to a mask where its layer adds this much brightness.
_VISIBLE = 0.02
_FILMS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """What phantoms to make. Brightness is in pixel units ([0, 1]); `severity` 1 is the default."""

    patients: int = 1600
    images_per_patient: int = 2  # at most; each patient has 1 to this many films
    image_size: int = 64
    seed: int = 0
    female_share: float = 0.5
    prevalence: float = 0.4  # of each disease, among patients
    severity: float = 1.0  # how opaque the diseases are
    marker_adherence: float = 0.97  # share of films with the marker of their ward; the rest: none
    marker_contrast: float = 0.22
    breast_shadow: float = 0.05
    film_noise: float = 0.025

    def __post_init__(self) -> None:
        for name in ("patients", "images_per_patient", "image_size"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)} (expected at least 1)")
        for name in ("female_share", "prevalence", "marker_adherence"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} is {getattr(self, name)} (expected a share, 0 to 1)")
        for name in ("severity", "marker_contrast", "breast_shadow", "film_noise"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"{name} is {getattr(self, name)} (expected 0 or more)")


@dataclass(frozen=True, slots=True)
class _Patients:
    """Who is on each film."""

    code: Int[np.ndarray, " films"]
    sex: Int[np.ndarray, " films"]
    sick: Bool[np.ndarray, "diseases films"]


def make_phantoms(config: PhantomConfig) -> Cohort:
    """Return the phantom cohort of `config`, a pure function of it.

    Every image is used for every disease (no label is -1). A patient's films share anatomy, sex
    and diseases, and differ in pose, exposure, marker position and film noise.
    """
    patients = _draw_patients(config)
    films = _draw_films(config, patients)
    images = np.empty((len(films), config.image_size, config.image_size), np.uint8)
    for chunk, (rows, rendered) in enumerate(_rendered(films, config.image_size)):
        rng = numpy_generator(config.seed, "phantom", "film noise", chunk)
        noise = rng.standard_normal(rendered.brightness.shape, dtype=np.float32)
        noisy = rendered.brightness + config.film_noise * noise
        images[rows] = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    labels = {
        disease: sick.astype(np.int64)
        for disease, sick in zip(DISEASES, patients.sick, strict=True)
    }
    return Cohort(
        name=f"phantom-{config.seed}",
        images=images,
        patients=patients.code,
        attribute_name="sex",
        groups=GROUPS,
        attribute=patients.sex,
        labels=labels,
        fingerprint=_fingerprint(images, patients.sex, *labels.values(), patients.code),
    )


def phantom_masks(config: PhantomConfig) -> Mapping[Layer, Bool[np.ndarray, "images h w"]]:
    """Return where each film of `make_phantoms(config)` shows its cue and its diseases.

    A pixel is in a mask where that layer adds at least 0.02 of brightness. Healthy films have
    an empty disease mask; a film without marker and breast shadow has an empty cue mask.
    """
    films = _draw_films(config, _draw_patients(config))
    shape = (len(films), config.image_size, config.image_size)
    names: tuple[Layer, ...] = ("cue", "pleural_effusion", "pneumonia", "edema")
    masks: dict[Layer, Bool[np.ndarray, "images h w"]] = {n: np.zeros(shape, bool) for n in names}
    for rows, rendered in _rendered(films, config.image_size):
        masks["cue"][rows] = (rendered.marker >= _VISIBLE) | (rendered.breast >= _VISIBLE)
        masks["pleural_effusion"][rows] = rendered.effusion >= _VISIBLE
        masks["pneumonia"][rows] = rendered.pneumonia >= _VISIBLE
        masks["edema"][rows] = rendered.edema >= _VISIBLE
    return masks


def _rendered(films: Films, size: int) -> Iterator[tuple[slice, Rendered]]:
    for start in range(0, len(films), _FILMS_AT_ONCE):
        stop = min(start + _FILMS_AT_ONCE, len(films))
        yield slice(start, stop), render(films.rows(start, stop), size)


def _draw_patients(config: PhantomConfig) -> _Patients:
    rng = numpy_generator(config.seed, "phantom", "patients")
    films_each = rng.integers(1, config.images_per_patient + 1, config.patients)
    code = np.repeat(np.arange(config.patients), films_each)
    sex = (rng.random(config.patients) >= config.female_share).astype(np.int64)
    sick = rng.random((len(DISEASES), config.patients)) < config.prevalence
    return _Patients(code=code, sex=sex[code], sick=sick[:, code])


def _draw_films(config: PhantomConfig, patients: _Patients) -> Films:
    anatomy = _Sampler(numpy_generator(config.seed, "phantom", "anatomy"), patients.code)
    film = _Sampler(numpy_generator(config.seed, "phantom", "films"), np.arange(len(patients.code)))
    effusion, pneumonia, edema = patients.sick
    female = patients.sex == 0
    opacity = config.severity
    side = anatomy.uniform(0, 1)
    fluid_on = np.stack([side < 0.6, side > 0.4], axis=1) & effusion[:, None]
    focus_side = np.where(anatomy.uniform(0, 1) < 0.5, -1, 1)
    marked = film.uniform(0, 1) < config.marker_adherence
    breast = np.where(female, anatomy.normal(1, 0.35), anatomy.normal(0.25, 0.25))
    return Films(
        shift_u=film.normal(0, 0.025),
        shift_v=film.normal(0, 0.02),
        scale=film.normal(1, 0.025),
        tilt=film.normal(0, 0.025),
        build=anatomy.normal(1, 0.04),
        diaphragm=anatomy.normal(0.52, 0.035, 2) + np.array([-0.04, 0], np.float32),
        heart=anatomy.normal(1, 0.09),
        ribs=anatomy.uniform(0.05, 0.11),
        rib_phase=anatomy.normal(0, 0.8),
        inflation=film.normal(1, 0.07),
        texture=anatomy.normal(0, 1, 20, 20),
        haze_at=anatomy.uniform(-0.3, 0.4, 2),
        haze=anatomy.uniform(0, 0.12, 2),
        gain=film.normal(1, 0.06),
        gamma=film.normal(1, 0.07),
        effusion=_share(opacity * fluid_on * anatomy.uniform(0.6, 0.95, 2)),
        effusion_level=anatomy.uniform(0.12, 0.36, 2),
        pneumonia=_share(opacity * pneumonia * anatomy.uniform(0.8, 1.0)),
        pneumonia_u=(focus_side * anatomy.uniform(0.26, 0.46)).astype(np.float32),
        pneumonia_v=anatomy.uniform(-0.05, 0.25),
        pneumonia_radius=anatomy.uniform(0.2, 0.3),
        edema=_share(opacity * edema * anatomy.uniform(0.35, 0.65)),
        edema_radius=anatomy.uniform(0.18, 0.26),
        breast=(config.breast_shadow * np.clip(breast, 0, None)).astype(np.float32),
        marker=(config.marker_contrast * marked * film.uniform(0.8, 1.2)).astype(np.float32),
        marker_side=np.where(female, 0, 1),
        marker_u=film.normal(0, 0.02),
        marker_v=film.normal(0, 0.02),
    )


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Draws float32 values once a subject, and hands each film its subject's value."""

    rng: np.random.Generator
    subject: Int[np.ndarray, " films"]  # codes 0..subjects-1

    def normal(
        self, mean: float, deviation: float, *shape: int
    ) -> Float[np.ndarray, " films *shape"]:
        """Return normal values, cut at 2.5 deviations so that no film is absurd."""
        drawn = self.rng.standard_normal((self._subjects, *shape), dtype=np.float32)
        values = mean + deviation * np.clip(drawn, -2.5, 2.5)
        return self._hand_out(values)

    def uniform(self, low: float, high: float, *shape: int) -> Float[np.ndarray, " films *shape"]:
        drawn = self.rng.random((self._subjects, *shape), dtype=np.float32)
        return self._hand_out(low + (high - low) * drawn)

    def _hand_out(
        self, values: Float[np.ndarray, "subjects ..."]
    ) -> Float[np.ndarray, "films ..."]:
        each: Float[np.ndarray, "films ..."] = values[self.subject].astype(np.float32)
        return each

    @property
    def _subjects(self) -> int:
        return int(self.subject[-1]) + 1


def _share(values: Float[np.ndarray, "films ..."]) -> Float[np.ndarray, "films ..."]:
    shares: Float[np.ndarray, "films ..."] = np.clip(values, 0, 1).astype(np.float32)
    return shares


def _fingerprint(*arrays: Shaped[np.ndarray, "*any"]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
