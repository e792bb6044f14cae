"""The batch an encoder is fastest at: measured on a machine once, kept, and read by all others."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_study import QUICK

from study import materials
from study.config import load_space
from toy import ToyEncoder
from ude_core import batch_choice
from ude_core.batch_choice import choose_batch, fastest, machine_kind, measure_speeds
from ude_core.encoders.timm_encoder import TimmEncoder
from ude_core.storage import write_once


class Timed(ToyEncoder):
    """Keeps its own time: a pass of n images takes `cost(n)` seconds and fits up to `room` images."""

    def __init__(self, best: int = 8, room: int = 10**6, fingerprint: str = "timed") -> None:
        super().__init__(fingerprint=fingerprint)
        for name, value in {"best": best, "room": room, "now": 0.0, "sizes": []}.items():
            object.__setattr__(self, name, value)

    execution = "float32"

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        size = len(pixels)
        self.sizes.append(size)
        if size > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.now += 1.0 + 0.1 * size if size <= self.best else 0.5 * size
        return super().encode(pixels)

    def clock(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _three_passes_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_choice, "SECONDS", 0.0)


def test_the_search_ends_where_larger_batches_gain_nothing() -> None:
    encoder = Timed(best=8)
    speeds = measure_speeds(encoder, encoder.clock)
    assert list(speeds) == [1, 2, 4, 8, 16, 32]
    assert speeds[8] == pytest.approx(8 / 1.8)
    assert fastest(speeds) == 8
    assert encoder.batch_size == 64, "as it was"


def test_the_search_ends_where_memory_does() -> None:
    encoder = Timed(best=64, room=5)
    assert list(measure_speeds(encoder, encoder.clock)) == [1, 2, 4]
    with pytest.raises(torch.OutOfMemoryError):
        measure_speeds(Timed(room=0))


def test_of_equally_fast_batches_the_smallest_is_taken() -> None:
    assert fastest({1: 10.0, 2: 99.0, 4: 100.0, 8: 100.5}) == 2
    assert fastest({1: 10.0, 2: 90.0, 4: 100.0}) == 4


def test_a_choice_is_made_once_and_kept(tmp_path: Path) -> None:
    first = Timed()
    chosen = choose_batch(first, tmp_path / "batch_sizes")
    assert first.batch_size == chosen
    (path,) = (tmp_path / "batch_sizes").iterdir()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["batch_size"] == chosen
    assert content["machine"] == machine_kind(torch.device("cpu"))

    content["batch_size"] = 7
    path.write_text(json.dumps(content), encoding="utf-8")
    second = Timed()
    assert choose_batch(second, tmp_path / "batch_sizes") == 7
    assert second.batch_size == 7
    assert not second.sizes, "nothing was measured again"

    choose_batch(Timed(fingerprint="another"), tmp_path / "batch_sizes")
    assert len(list((tmp_path / "batch_sizes").iterdir())) == 2


def test_another_machine_kind_chooses_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_batch(Timed(), tmp_path)
    monkeypatch.setattr(batch_choice, "machine_kind", lambda _: {"device": "another"})
    other = Timed()
    choose_batch(other, tmp_path)
    assert other.sizes
    assert len(list(tmp_path.iterdir())) == 2


def test_of_two_writers_the_first_decides(tmp_path: Path) -> None:
    write_once(tmp_path / "choice.json", b"first")
    write_once(tmp_path / "choice.json", b"second")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"first"]


@pytest.mark.parametrize(("setting", "expected"), [("null", 16), ("3", 3), ("measured", 8)])
def test_a_study_s_encoder_takes_its_batch_from_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, expected: int
) -> None:
    folders = []

    def chosen(encoder: TimmEncoder, folder: Path) -> None:
        folders.append(folder)
        encoder.batch_size = 8

    monkeypatch.setattr(materials, "choose_batch", chosen)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    space = QUICK.replace("{kind: phantom, patients: 160}", "{kind: phantom, image_size: 160}")
    space = space.replace(
        "{kind: phantom_vit}",
        "{kind: timm, model: test_vit, image_size: 160, checkpoint: w.safetensors}",
    )
    (tmp_path / "quick.yaml").write_text(space, encoding="utf-8")
    config = load_space(tmp_path / "quick.yaml", [f"encoder.batch_size={setting}"])
    encoder = materials.load_encoder(config, tmp_path / "cache")
    assert encoder.batch_size == expected
    assert folders == ([tmp_path / "cache" / "batch_sizes"] if setting == "measured" else [])
    assert materials.load_encoder(config).batch_size == (3 if setting == "3" else 16)
