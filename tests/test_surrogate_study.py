"""A space may name a surrogate: a guided study from its YAML to its trials, and what is refused."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_study import QUICK

from study.config import StudyConfig, load_space
from study.ledger import Ledger
from study.materials import Materials, load_materials
from study.names import Layout
from study.plan import plan_study
from study.spaces import method_of
from study.sweep import _prepare
from study.trainable import NoiseTrainable, WorkerOrder
from study.trials_view import preparation_json
from ude_core.directions import SurrogateDirections
from ude_core.errors import FingerprintError, SettingError, UserError
from ude_core.results import load_noise, load_result

MODEL, OPTIONS = "test_vit", "{img_size: 64}"
IMAGES, QUERIES = 24, 320
GUIDED = QUICK.replace("method: {", f"method: {{name: guided, surrogate_images: {IMAGES}, ")


def write_weights(path: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    network = timm.create_model(MODEL, num_classes=0, in_chans=1, img_size=64)
    save_file(network.state_dict(), path)


def timm_section(name: str, extra: str = "") -> str:
    return (
        f"{name}: {{kind: timm, model: {MODEL}, checkpoint: open.safetensors, image_size: 64, "
        f"channels: 1, model_options: {OPTIONS}{extra}}}\n"
    )


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    write_weights(folder / "open.safetensors")
    path = folder / "quick.yaml"
    path.write_text(GUIDED + timm_section("surrogate"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(space: Path) -> StudyConfig:
    return load_space(space, [f"budget.queries_per_trial={QUERIES}"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def ledger(config: StudyConfig, root: Path) -> Iterator[Ledger]:
    made = Ledger.create_or_open(config, root)
    yield made
    made.close()


def worker(config: StudyConfig, root: Path, trial: dict[str, Any]) -> NoiseTrainable:
    """A worker without its actor."""
    made = NoiseTrainable.__new__(NoiseTrainable)
    order = WorkerOrder(config=config.model_dump_json(by_alias=True), root=str(root))
    made.setup(trial, order)
    return made


def run_to_end(one: NoiseTrainable) -> None:
    while not one.step()["done"]:
        pass


@pytest.mark.slow
def test_a_guided_study_runs_and_reports_the_surrogate_apart(
    config: StudyConfig, root: Path, ledger: Ledger
) -> None:
    _prepare(ledger, Layout.at(root))
    materials = load_materials(config, Layout.at(root).cache)
    train = len(materials.assets.split.train)
    assert set(ledger.fingerprints) == {"cohort", "encoder", "surrogate"}
    assert preparation_json(ledger.reference) == {
        "attribute": len(materials.assets.development),
        "surrogate": train,
    }
    assert materials.surrogate is not None
    assert materials.surrogate.preparation == 0  # a worker reads what the driver paid for

    asked = ledger.ask()
    trial = {"number": asked.number, "params": dict(asked.params), "seed": asked.seed}
    run_to_end(worker(config, root, trial))
    folder = ledger.places.trial(asked.number)
    result = load_result(folder)
    assert result.queries.noise == QUERIES
    assert result.queries.surrogate == QUERIES // (2 * 2 * 16) * IMAGES
    assert result.queries.total == result.queries.noise + result.queries.scoring
    record = ledger.tell(asked.number, result)
    assert record.queries_by_phase["surrogate"] == result.queries.surrogate
    assert ledger.queries() == len(materials.assets.development) + result.queries.total

    straight = load_noise(folder)
    for left in folder.iterdir():
        left.unlink()
    stopped = worker(config, root, trial)
    stopped.step()
    stopped.cleanup()
    run_to_end(worker(config, root, trial))
    assert load_noise(folder).equal(straight)


def test_other_methods_of_the_same_space_are_not_guided(space: Path, root: Path) -> None:
    text = QUICK.replace("search:\n", "search:\n  name: {choices: [gezo, guided]}\n")
    other = space.with_name("both.yaml")
    other.write_text(text + timm_section("surrogate"), encoding="utf-8")
    config = load_space(other, [f"method.surrogate_images={IMAGES}"])
    materials = load_materials(config, root)
    params = {"step_size": 0.05, "local_iterations": 2}
    prior = materials.prior(method_of(config, {**params, "name": "guided"}))
    assert prior is not None
    assert prior.passes == IMAGES
    assert materials.prior(method_of(config, {**params, "name": "gezo"})) is None
    directions = materials.prior(method_of(config, {**params, "name": "jacobian", "samples": 5}))
    assert isinstance(directions, SurrogateDirections)
    assert directions.passes == 5


@pytest.mark.parametrize(
    "setting", ["method.skip_gradient=0.25", "search.skip_gradient={choices: [1.0, 0.25]}"]
)
def test_skip_gradients_are_refused_before_a_trial_where_no_branch_is(
    space: Path, root: Path, setting: str
) -> None:
    network = timm.create_model("test_efficientnet", num_classes=0)  # none of its blocks has one
    weights = root / "flat.safetensors"
    root.mkdir(exist_ok=True)
    save_file(network.state_dict(), weights)
    jacobian = ["method.name=jacobian", setting]
    assert load_materials(load_space(space, jacobian), root).surrogate is not None
    flat = (
        f"surrogate={{kind: timm, model: test_efficientnet, checkpoint: {weights}, image_size: 64}}"
    )
    with pytest.raises(SettingError, match="test_efficientnet has no residual branches"):
        load_materials(load_space(space, [*jacobian, flat]), root)
    load_materials(load_space(space, ["method.name=jacobian", flat]), root)


@pytest.mark.slow
def test_a_jacobian_study_runs_and_reports_the_surrogate_apart(space: Path, root: Path) -> None:
    text = QUICK.replace("method: {", "method: {name: jacobian, direction_images: 3, ")
    other = space.with_name("jacobian.yaml")
    other.write_text(text + timm_section("surrogate"), encoding="utf-8")
    config = load_space(other, [f"budget.queries_per_trial={QUERIES}"])
    with closing(Ledger.create_or_open(config, root)) as ledger:
        _prepare(ledger, Layout.at(root))
        asked = ledger.ask()
        trial = {"number": asked.number, "params": dict(asked.params), "seed": asked.seed}
        run_to_end(worker(config, root, trial))
        result = load_result(ledger.places.trial(asked.number))
    assert result.outcome == "improved"
    assert result.queries.noise == QUERIES
    assert result.queries.surrogate == QUERIES // (2 * 2 * 16) * 2 * 3


def test_the_plan_names_it_and_too_many_images_are_refused(space: Path) -> None:
    assert plan_study(load_space(space))["surrogate"] == MODEL
    assert "checkpoint" not in load_space(space).science()["surrogate"]
    with pytest.raises(SettingError, match="surrogate_images is 9999"):
        plan_study(load_space(space, ["method.surrogate_images=9999"]))


@pytest.mark.parametrize(
    ("space_text", "expected"),
    [
        (GUIDED, "method guided needs a surrogate: give an open encoder"),
        (
            QUICK + timm_section("surrogate"),
            "no method uses it (gezo; expected guided, jacobian or distilled); remove",
        ),
        (
            GUIDED + timm_section("surrogate").replace("size: 64, ", "size: 96, "),
            "cohort.image_size is 64 and the surrogate takes 96",
        ),
        (GUIDED + timm_section("surrogate", ", meen: 1"), "did you mean 'mean'"),
        (GUIDED + "surrogate: {kind: resnet}\n", "surrogate"),
    ],
)
def test_a_surrogate_that_does_not_fit_the_space_is_refused_with_its_place(
    space: Path, space_text: str, expected: str
) -> None:
    path = space.with_name("wrong.yaml")
    path.write_text(space_text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        load_space(path)
    assert expected in str(raised.value)
    assert "wrong.yaml:" in str(raised.value)


@pytest.mark.parametrize("preprocessing", ["", ", mean: 0.4"])
def test_the_encoder_attacked_is_no_surrogate(space: Path, root: Path, preprocessing: str) -> None:
    path = space.with_name("same.yaml")
    attacked = timm_section("encoder")
    text = GUIDED.replace("encoder: {kind: phantom_vit}\n", attacked)
    path.write_text(text + timm_section("surrogate", preprocessing), encoding="utf-8")
    for refuses in (plan_study, lambda config: load_materials(config, root)):
        with pytest.raises(SettingError, match="the very encoder that is attacked"):
            refuses(load_space(path))
    path.write_text(GUIDED + "surrogate: {kind: phantom_vit}\n", encoding="utf-8")
    with pytest.raises(SettingError, match="the very encoder that is attacked"):
        plan_study(load_space(path))


def test_a_missing_or_changed_surrogate_stops_the_study(
    space: Path, config: StudyConfig, root: Path, ledger: Ledger, tmp_path: Path
) -> None:
    gone = config.surrogate.model_copy(update={"checkpoint": str(tmp_path / "no.safetensors")})
    with pytest.raises(SettingError, match=r"surrogate: encoder.checkpoint is .*no such file"):
        load_materials(config.model_copy(update={"surrogate": gone}), root)
    _prepare(ledger, Layout.at(root))
    ledger.ask()
    write_weights(tmp_path / "other.safetensors", seed=1)
    other = config.surrogate.model_copy(update={"checkpoint": str(tmp_path / "other.safetensors")})
    moved: Materials = load_materials(config.model_copy(update={"surrogate": other}), root)
    with pytest.raises(FingerprintError, match="the surrogate changed"):
        ledger.check_fingerprints(moved.fingerprints)
