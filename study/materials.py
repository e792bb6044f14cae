"""What a study works on, made from its configuration: cohort, encoder, and the shared assets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from study.cohort_sections import PhantomCohort, TableCohort
from study.config import StudyConfig
from study.encoder_sections import EncoderSection, MedicalMaeEncoder, PhantomVitEncoder, TimmEncoder
from study.resources import Resources
from study.spaces import extremes
from ude_core.assets import StudyAssets, prepare
from ude_core.baselines.registry import check_encoder
from ude_core.batch_choice import choose_batch
from ude_core.cohorts.base import Cohort
from ude_core.cohorts.phantom import PhantomConfig, make_phantoms
from ude_core.cohorts.stored import read_cohort, write_columns, write_pixels
from ude_core.cohorts.table_cohort import load_table
from ude_core.directions import SurrogateDirections
from ude_core.encoders.base import Encoder
from ude_core.encoders.phantom_vit import load_phantom_vit
from ude_core.encoders.skip_gradient import past_branches
from ude_core.errors import SettingError
from ude_core.storage import digest, sha256_file
from ude_core.surrogate import Guide, Surrogate, SurrogatePrior, prepare_surrogate
from ude_core.types import MethodConfig

if TYPE_CHECKING:
    from ude_core.encoders.timm_encoder import FrozenNetwork


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """A study's cohort, encoder and assets, loaded in this process; a surrogate where it has one."""

    cohort: Cohort
    encoder: Encoder
    assets: StudyAssets
    surrogate: Surrogate | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a resume must find unchanged."""
        known = {"cohort": self.cohort.fingerprint, "encoder": self.encoder.fingerprint}
        if self.surrogate is not None:
            known["surrogate"] = self.surrogate.encoder.fingerprint
        return known

    def prior(self, method: MethodConfig) -> SurrogatePrior | SurrogateDirections | None:
        """Return what proposes with a trial of `guided` or `jacobian`; None for any other."""
        return self.surrogate.proposing(method) if self.surrogate else None

    def guide(self, method: MethodConfig) -> Guide | None:
        """Return what guides a trial of `method`, a student included; None where nothing does."""
        return self.surrogate.guide(method, self.assets) if self.surrogate else None


def load_materials(config: StudyConfig, cache: Path) -> Materials:
    """Return what the study works on; what is slow to make is read from `cache` once it was made.

    Raises UserError for a cohort, checkpoint or split that cannot be used.
    """
    return assemble(config, load_cohort(config, cache), cache)


def assemble(config: StudyConfig, cohort: Cohort, cache: Path) -> Materials:
    """Return the materials of a cohort that is loaded already."""
    encoder = load_encoder(config, cache)
    for name in config.methods:
        check_encoder(name, encoder)
    open_encoder = load_surrogate(config, encoder, cache)
    assets = prepare(
        cohort,
        encoder,
        split=config.split.to_engine(),
        bias=config.bias.to_engine(),
        scoring=config.scoring.to_engine(),
        seed=config.seed,
        cache=cache,
    )
    surrogate = None
    if open_encoder is not None:
        surrogate = prepare_surrogate(cohort, open_encoder, assets, cache=cache)
    return Materials(cohort, encoder, assets, surrogate)


def load_cohort(config: StudyConfig, cache: Path | None) -> Cohort:
    """Return the cohort, its images memory-mapped where there is a cache."""
    match config.cohort:
        case PhantomCohort():
            return _phantoms(config.cohort.to_engine(), cache)
        case TableCohort() as cohort:
            return load_table(
                Path(cohort.root),
                cohort.to_engine(),
                image_size=cohort.image_size,
                cache=cache / "pixels" if cache is not None else None,
            )
        case _:
            assert_never(config.cohort)


def load_encoder(config: StudyConfig, cache: Path | None = None) -> Encoder:
    """Return the frozen encoder, on the accelerator where a trial is given one.

    A batch size that is to be measured is so with a `cache` to keep it in, and the device's usual
    otherwise.
    """
    return _open_encoder(config.encoder, config.resources, cache)


def load_surrogate(
    config: StudyConfig, attacked: Encoder, cache: Path | None = None
) -> Encoder | None:
    """Return the open encoder that guides the search, if the study names one.

    Raises SettingError where it is the encoder attacked, whatever its preprocessing: a search that
    is guided by the gradients of what it attacks is white-box, not black-box.
    """
    if config.surrogate is None:
        return None
    try:
        encoder = _open_encoder(config.surrogate, config.resources, cache)
    except SettingError as error:
        raise SettingError(f"surrogate: {error}") from error
    ours, theirs = _weights(config.surrogate), _weights(config.encoder)
    if encoder.fingerprint == attacked.fingerprint or ours == theirs:
        raise SettingError(
            f"surrogate is {encoder.name}, the very encoder that is attacked (expected another "
            "network); name another, or use method whitebox"
        )
    if "jacobian" in config.methods:
        past_branches(encoder, _least_skip_gradient(config))  # refused now, not by every trial
    return encoder


def _least_skip_gradient(config: StudyConfig) -> float:
    searched = config.search.get("skip_gradient")
    return (
        config.method.skip_gradient
        if searched is None
        else min(extremes("skip_gradient", searched))
    )


def _weights(section: EncoderSection) -> str:
    """Return what tells one network's weights from another's."""
    return section.kind if section.kind == "phantom_vit" else sha256_file(Path(section.checkpoint))


def _open_encoder(section: EncoderSection, resources: Resources, cache: Path | None) -> Encoder:
    if isinstance(section, PhantomVitEncoder):
        return load_phantom_vit()
    encoder = _local_network(section, "cuda" if resources.gpus_per_trial > 0 else "cpu")
    if section.batch_size == "measured" and cache is not None:
        choose_batch(encoder, cache / "batch_sizes")
    return encoder


def _local_network(section: TimmEncoder | MedicalMaeEncoder, device: str) -> FrozenNetwork:
    from ude_core.encoders import medical_mae, timm_encoder  # imports timm: seconds

    running = section.running(device)
    match section:
        case TimmEncoder():
            return timm_encoder.TimmEncoder(
                section.model,
                Path(section.checkpoint),
                image_size=section.image_size,
                mean=section.mean,
                std=section.std,
                channels=section.channels,
                model_options=section.model_options,
                **running,
            )
        case MedicalMaeEncoder():
            return medical_mae.MedicalMae(
                Path(section.checkpoint),
                image_size=section.image_size,
                preprocessing=section.preprocessing,
                global_pool=section.global_pool,
                heads=section.heads,
                **running,
            )
        case _:
            assert_never(section)


def _phantoms(config: PhantomConfig, cache: Path | None) -> Cohort:
    """Return the phantom cohort; its pixels are drawn once and then memory-mapped."""
    if cache is None:
        return make_phantoms(config)
    folder = cache / "phantoms"
    key = digest("phantoms", asdict(config))
    pixels, tables = folder / f"{key}.npy", folder / f"{key}.npz"
    if not (pixels.exists() and tables.exists()):
        cohort = make_phantoms(config)
        write_pixels(cohort, pixels)
        write_columns(cohort, tables)
    return read_cohort(tables, pixels)
