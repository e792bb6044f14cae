"""Files through a store: whole or not at all, claimed by one attempt, and fetched once a node."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest
import timm
import torch
from safetensors.torch import save_file
from small_study import QUICK, RESULT

from study.attempts import FAILURE, Failure, FencedError, write_failure
from study.config import StudyConfig, load_space
from study.harvest import settle
from study.ledger import Ledger
from study.materials import load_materials
from study.node_cache import SharedFile, fetch, fetch_once, publish
from study.package import pack, unpack
from study.trainable import NoiseTrainable, WorkerOrder
from study.trial_files import StoredFiles
from study.trial_store import TrialStore, folder_of
from ude_core.errors import UserError
from ude_core.results import RESULT_FILE, has_result, load_noise, save_result
from ude_core.trial import CHECKPOINT


@pytest.fixture(params=["file", "subtree", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrialStore]:
    """One store a kind of filesystem: a URL, a subtree, and one that only fsspec knows."""
    place = tmp_path / "store"
    place.mkdir()
    match request.param:
        case "file":
            yield TrialStore.open(place.as_uri())
        case "subtree":
            yield TrialStore(pafs.SubTreeFileSystem(str(place), pafs.LocalFileSystem()), "studies")
        case _:
            memory = fsspec.filesystem("memory")
            yield TrialStore(pafs.PyFileSystem(pafs.FSSpecHandler(memory)), f"/{tmp_path.name}")
            memory.rm(f"/{tmp_path.name}", recursive=True)


def test_a_file_comes_back_as_it_went(store: TrialStore, tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "deep" / "b"
    source.write_bytes(b"one")
    assert store.size("x/y") is None
    assert not store.get("x/y", target)
    store.put(source, "x/y")
    source.write_bytes(b"three")
    store.put(source, "x/y")
    assert store.get("x/y", target)
    assert target.read_bytes() == b"three"
    assert (store.size("x/y"), store.names("x"), store.names("z")) == (5, ["y"], [])
    store.delete("x/y")
    store.delete("x/y")
    assert store.names("x") == []


def test_an_attempt_continues_where_another_node_left_off(store: TrialStore) -> None:
    first = StoredFiles(store, "tiny", 3)
    first.begin()
    (first.folder / CHECKPOINT).write_bytes(b"half")
    first.publish()

    second = StoredFiles(store, "tiny", 3)
    second.begin()
    assert second.folder != first.folder
    assert (second.folder / CHECKPOINT).read_bytes() == b"half"
    with pytest.raises(FencedError, match="other hands"):
        first.check()
    second.check()

    save_result(RESULT, second.folder)
    (second.folder / CHECKPOINT).unlink()
    second.publish()
    assert second.done()
    assert CHECKPOINT not in store.names(folder_of("tiny", 3))
    for files in (first, second):
        files.close()
        assert not files.folder.exists()


@pytest.mark.parametrize("url", ["nowhere://x/y", "s4://bucket"])
def test_a_store_that_cannot_be(url: str) -> None:
    with pytest.raises(UserError, match="trial_store is"):
        TrialStore.open(url)


def test_of_all_workers_of_a_node_one_fetches(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "pixels.npy"
    copies: list[int] = []

    def slow(temporary: Path) -> None:
        copies.append(threading.get_ident())
        time.sleep(0.2)
        temporary.write_bytes(b"pixels")

    workers = [threading.Thread(target=fetch_once, args=(target, slow)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(copies) == 1
    assert target.read_bytes() == b"pixels"


def test_a_copy_that_was_cut_short_is_not_kept(store: TrialStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"whole")
    file = SharedFile.of(source, "weights/x")
    publish([file], store)
    source.write_bytes(b"who")
    store.put(source, "cache/weights/x")
    with pytest.raises(OSError, match="cut short"):
        fetch([file], tmp_path / "cache", store)
    source.write_bytes(b"whole")
    publish([file], store)
    fetch([file], tmp_path / "cache", store)
    assert (tmp_path / "cache" / "weights" / "x").read_bytes() == b"whole"


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    (tmp_path / "store").mkdir()
    place = (tmp_path / "store").as_uri()
    return load_space(
        tmp_path / "quick.yaml",
        [f"resources.trial_store={place}", f"resources.node_cache={tmp_path}/node"],
    )


@pytest.mark.slow
def test_a_worker_that_shares_no_disk_with_its_driver(config: StudyConfig, tmp_path: Path) -> None:
    ledger = Ledger.create_or_open(config, tmp_path / "runs")
    materials = load_materials(config, tmp_path / "runs" / "cache")
    package = pack(materials, config, tmp_path / "runs" / "cache")
    store = TrialStore.open(str(config.resources.trial_store))
    publish(package.files, store)
    assignment = ledger.ask()
    order = WorkerOrder(
        config=config.model_dump_json(by_alias=True),
        root=str(tmp_path / "elsewhere"),
        package=package,
    )
    worker = NoiseTrainable.__new__(NoiseTrainable)
    worker.setup({"number": 0, "params": assignment.params, "seed": assignment.seed}, order)
    while not worker.step()["done"]:
        pass
    worker.cleanup()
    assert not (tmp_path / "elsewhere").exists()
    assert {path.parent.name for path in (tmp_path / "node").rglob("*.npy")} == {
        "pixels",
        "embeddings",
    }

    folder = ledger.places.trial(0)
    assert not has_result(folder)
    record = settle(ledger, 0, given_up=False)
    assert record is not None
    assert (record.state, has_result(folder)) == ("complete", True)
    assert load_noise(folder).abs().sum() > 0
    ledger.close()


def test_what_was_packed_is_what_was_prepared(config: StudyConfig, tmp_path: Path) -> None:
    cache = tmp_path / "runs" / "cache"
    before = load_materials(config, cache)
    package = pack(before, config, cache)
    fetch(package.files, tmp_path / "node", None)
    for place in (tmp_path / "node", None):
        after = unpack(package, config, place)
        assert after.fingerprints == before.fingerprints
        assert (after.cohort.images == before.cohort.images).all()
        assert after.cohort.diseases == before.cohort.diseases
        assert (after.assets.clean == before.assets.clean).all()
        assert after.assets.queries == 0


@pytest.mark.slow
def test_weights_and_a_surrogates_embeddings_travel_too(
    config: StudyConfig, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), checkpoint)
    (tmp_path / "node").mkdir()
    surrogate = (
        f"{{kind: timm, model: test_efficientnet, checkpoint: {checkpoint}, image_size: 64}}"
    )
    guided = load_space(tmp_path / "quick.yaml", ["method.name=guided", f"surrogate={surrogate}"])
    before = load_materials(guided, tmp_path / "runs" / "cache")
    package = pack(before, guided, tmp_path / "runs" / "cache")
    fetch(package.files, tmp_path / "node", None)
    checkpoint.unlink()
    after = unpack(package, guided, tmp_path / "node")
    assert after.fingerprints == before.fingerprints
    assert after.surrogate is not None
    assert (after.surrogate.preparation, after.assets.queries) == (0, 0)


def test_a_failure_on_another_node_is_heard_of(config: StudyConfig, tmp_path: Path) -> None:
    ledger = Ledger.create_or_open(config, tmp_path / "runs")
    ledger.ask()
    files = StoredFiles(TrialStore.open(str(config.resources.trial_store)), ledger.name, 0)
    files.begin()
    write_failure(files.folder, Failure("the encoder said no", permanent=True))
    files.publish()
    assert FAILURE in {path.name for path in files.folder.iterdir()}
    files.close()
    record = settle(ledger, 0, given_up=False)
    assert record is not None
    assert (record.state, record.reason) == ("failed", "the encoder said no")
    ledger.close()


def test_a_result_that_cannot_be_read_is_made_again(config: StudyConfig, tmp_path: Path) -> None:
    ledger = Ledger.create_or_open(config, tmp_path / "runs")
    ledger.ask()
    store = TrialStore.open(str(config.resources.trial_store))
    torn = tmp_path / "torn"
    torn.write_text("{", encoding="utf-8")
    store.put(torn, f"{folder_of(ledger.name, 0)}/{RESULT_FILE}")
    assert settle(ledger, 0, given_up=False) is None
    assert store.names(folder_of(ledger.name, 0)) == []
    ledger.close()
