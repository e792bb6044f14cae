"""Folders of images are edited whole or not at all, keeping names, sub-folders and bit depth."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_bundle import SIZE, images, in_memory

from ude_core.bundle import check_encoder
from ude_core.edit_files import edit_path
from ude_core.edit_paths import plan
from ude_core.editing import edit_image, edit_images
from ude_core.errors import BundleError


def gray(path: Path, index: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images()[index]).save(path)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sub_folders_names_and_depths_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "deep" / "out"
    gray(source / "a.png")
    gray(source / "left" / "a.png", 1)
    gray(source / "left" / "deeper" / "ü b.JPG", 2)
    deep = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 999
    Image.fromarray(deep).save(source / "left" / "deep.png")
    (source / "left" / "notes.csv").write_text("=1")
    steps: list[tuple[int, int]] = []
    done = edit_path(in_memory(), source, target, progress=lambda *step: steps.append(step))
    assert names(target) == ["a.png", "left/a.png", "left/deep.png", "left/deeper/ü b.png"]
    assert [path.name for path in done.skipped] == ["notes.csv"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert np.array_equal(
        read(target / "left" / "a.png"),
        edit_images(in_memory(), images()[1:2])[0],
    )
    assert read(target / "left" / "deep.png").dtype == np.uint16
    assert edit_path(in_memory(), source, target).written == ()


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_threads_change_nothing(tmp_path: Path, workers: int) -> None:
    for index in range(9):
        array = np.roll(images()[0], index, axis=1)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "in" / f"{index}.png")
    done = edit_path(in_memory(), tmp_path / "in", tmp_path / "out", workers=workers)
    for index, path in enumerate(done.written):
        expected = edit_images(in_memory(), np.roll(images()[0], index, axis=1)[None])[0]
        assert np.array_equal(read(path), expected)


@given(st.lists(st.integers(0, 65535), min_size=SIZE * SIZE, max_size=SIZE * SIZE))
@settings(max_examples=25, deadline=None)
def test_16_bits_survive_an_edit_of_nothing_exactly(values: list[int]) -> None:
    deep = np.array(values, dtype=np.uint16).reshape(SIZE, SIZE)
    edited = edit_image(in_memory(scale=0.0), Image.fromarray(deep))
    assert np.array_equal(np.asarray(edited), deep)


def test_every_16_bit_level_survives_a_file(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "in.png")
    edit_path(in_memory(256, 0.0), tmp_path / "in.png", tmp_path / "out.png")
    assert np.array_equal(read(tmp_path / "out.png"), levels)


@pytest.mark.parametrize("workers", [1, 3])
def test_one_bad_image_among_many_leaves_nothing(tmp_path: Path, workers: int) -> None:
    source = tmp_path / "in"
    for index in range(12):
        gray(source / f"{index:02}.png")
    (source / "07.png").write_bytes((source / "07.png").read_bytes()[:-40])
    target = tmp_path / "new" / "out"
    with pytest.raises(BundleError, match=r"07\.png: truncated or damaged"):
        edit_path(in_memory(), source, target, workers=workers)
    assert not (tmp_path / "new").exists()
    gray(tmp_path / "kept" / "old.png")
    with pytest.raises(BundleError, match=r"07\.png"):
        edit_path(in_memory(), source, tmp_path / "kept", workers=workers)
    assert names(tmp_path / "kept") == ["old.png"]


def test_an_output_inside_the_input_is_not_edited_again(tmp_path: Path) -> None:
    gray(tmp_path / "a.png")
    first = edit_path(in_memory(), tmp_path, tmp_path / "edited")
    again = edit_path(in_memory(), tmp_path, tmp_path / "edited")
    assert (len(first.written), len(again.written), len(again.unchanged)) == (1, 0, 1)


def test_links_to_folders_are_not_followed_and_hard_links_not_overwritten(tmp_path: Path) -> None:
    gray(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    jobs, _ = plan(tmp_path / "in", tmp_path / "out")
    assert [job.output for job in jobs] == [tmp_path / "out" / "a.png"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").hardlink_to(tmp_path / "in" / "a.png")
    with pytest.raises(BundleError, match="is an input"):
        edit_path(in_memory(), tmp_path / "in", tmp_path / "out", overwrite=True)


_KILLED = """
import os, signal, sys
from pathlib import Path
from test_bundle import in_memory
import ude_core.edit_files as edit_files
source, target, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
count = 0
def deadly(*args, **kwargs):
    global count
    count += 1
    if count == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
real, edit_files.encode_png = edit_files.encode_png, deadly
edit_files.edit_path(in_memory(), source, target)
"""


@pytest.mark.slow
def test_a_killed_apply_leaves_no_half_written_image(tmp_path: Path) -> None:
    for index in range(4):
        gray(tmp_path / "in" / f"{index}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "in"), str(out), "3"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, env=here)
    assert done.returncode == -9, done.stderr
    assert [path for path in out.iterdir() if path.suffix == ".png"] == []
    edit_path(in_memory(), tmp_path / "in", out)
    assert len([path for path in out.iterdir() if path.suffix == ".png"]) == 4


@pytest.mark.parametrize("stated", ["phantom_vit", "e" * 64, "e" * 12, "E" * 12])
def test_the_encoder_it_was_made_for_is_taken(stated: str) -> None:
    check_encoder(in_memory().facts, stated)


@pytest.mark.parametrize("stated", ["medical_mae", "e" * 11, "f" * 64, "", "e" * 65, "phantom"])
def test_another_encoder_is_refused(stated: str) -> None:
    with pytest.raises(BundleError, match="learnt through encoder phantom_vit"):
        check_encoder(in_memory().facts, stated)
