"""A bundle is whole and unaltered, or refused; what it edits is what its trial scored."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ude_core.bundle import (
    MAX_BYTES,
    Bundle,
    check_made_for,
    load_bundle,
    verify_bundle,
    write_bundle,
)
from ude_core.bundle_manifest import BundleFacts, open_seal, seal, sha256
from ude_core.edit_files import edit_path
from ude_core.editing import edit_image, edit_images, edit_pixels
from ude_core.errors import BundleError
from ude_core.figures import gray_ramp, noise_map, png_bytes, preview
from ude_core.noise import apply_noise, to_pixels
from ude_core.types import Interval, Undefined

SIZE = 8
TINY_PNG = png_bytes(Image.new("L", (2, 2)))


def make_noise(size: int = SIZE, scale: float = 0.1) -> torch.Tensor:
    return torch.randn(1, size, size, generator=torch.Generator().manual_seed(3)) * scale


def make_facts(**changes: object) -> BundleFacts:
    facts = BundleFacts(
        study="demo",
        trial=7,
        disease="edema",
        policy="knee",
        stage="search",
        label="beats noise",
        parameters={"step_size": 0.03, "samples": 10, "max_norm": None},
        encoder="phantom_vit",
        encoder_fingerprint="e" * 64,
        pixels="deploy",
        image_size=SIZE,
        cohort="phantom",
        data_fingerprint="d" * 64,
        metrics={"edema/eo_gap": Interval(10.5, 5.0, 16.0), "edema/auroc": Undefined("no cell")},
        packages={"torch": "2.15.0"},
        commit="0" * 40,
    )
    return replace(facts, **changes)


def write(folder: Path, noise: torch.Tensor | None = None, **changes: object) -> Path:
    noise = make_noise() if noise is None else noise
    facts = make_facts(image_size=noise.shape[-1], **changes)
    write_bundle(folder, noise, facts, preview=TINY_PNG, card="# Card\n", edit=b"a graph")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_loaded(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.facts == make_facts()
    assert verify_bundle(bundle) == make_facts()
    assert torch.equal(loaded.noise, make_noise())
    assert set(contents(bundle)) == set(MAX_BYTES)


def test_the_manifest_hashes_every_other_file(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert manifest["files"] == {
        name: sha256(raw) for name, raw in contents(bundle).items() if name != "manifest.json"
    }


def test_the_graph_may_be_left_out_and_then_may_not_be_slipped_in(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    write_bundle(folder, make_noise(), make_facts(), preview=TINY_PNG, card="")
    assert set(contents(folder)) == set(MAX_BYTES) - {"edit.onnx"}
    verify_bundle(folder)
    (folder / "edit.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match=r"edit\.onnx, which its manifest does not list"):
        verify_bundle(folder)


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_behind(bundle: Path) -> None:
    before = contents(bundle)
    write(bundle)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", sorted(MAX_BYTES))
def test_every_flipped_byte_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    raw = path.read_bytes()
    masks = (0x01, 0x20) if name == "manifest.json" else (0x01,)
    for mask in masks:
        for index in range(len(raw)):
            path.write_bytes(raw[:index] + bytes([raw[index] ^ mask]) + raw[index + 1 :])
            with pytest.raises(BundleError):
                verify_bundle(bundle)
    path.write_bytes(raw)
    verify_bundle(bundle)


@pytest.mark.parametrize("name", sorted(MAX_BYTES))
@pytest.mark.parametrize("change", ["truncate", "append", "empty", "remove", "link", "folder"])
def test_every_changed_file_is_refused(bundle: Path, name: str, change: str) -> None:
    path = bundle / name
    raw = path.read_bytes()
    path.unlink()
    match change:
        case "truncate":
            path.write_bytes(raw[:-1])
        case "append":
            path.write_bytes(raw + b"\n")
        case "empty":
            path.write_bytes(b"")
        case "link":
            elsewhere = bundle.parent / "elsewhere"
            elsewhere.write_bytes(raw)
            path.symlink_to(elsewhere)
        case "folder":
            path.mkdir()
    with pytest.raises(BundleError, match=name):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["extra.txt", "noise.pkl", ".hidden", "..\\..\\evil", "NOISE"])
def test_an_extra_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    with pytest.raises(BundleError, match="no part of a bundle"):
        verify_bundle(bundle)


def test_a_sub_folder_is_refused(bundle: Path) -> None:
    (bundle / "more").mkdir()
    with pytest.raises(BundleError, match="no part of a bundle"):
        verify_bundle(bundle)


def reseal(folder: Path, change: dict[str, object], *, drop: str | None = None) -> None:
    """Forge a manifest whose own sha256 is right."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes()) | change
    manifest.pop("sha256")
    manifest.pop(drop or "sha256", None)

    def text(value: dict[str, object]) -> bytes:
        return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()

    path.write_bytes(text(manifest | {"sha256": sha256(text(manifest))}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 1}, "schema version 1; this release reads 2"),
        ({"schema_version": "1"}, "schema version"),
        ({"schema_version": True}, "schema version"),
        ({"files": {"../../etc/passwd": "0" * 64, "edit.onnx": "0" * 64}}, "files must be"),
        ({"files": []}, "files must give"),
        ({"trial": "7"}, "trial has a value of the wrong kind"),
        ({"trial": True}, "trial has a value of the wrong kind"),
        ({"pixels": "png"}, "pixels has a value of the wrong kind"),
        ({"image_size": 16}, "expected float32"),
        ({"image_size": 0}, "image_size has a value"),
        ({"metrics": {"eo_gap": {"mean": 1.0}}}, "not a mean with its interval"),
        ({"metrics": {"eo_gap": 3}}, "not a mean with its interval"),
        ({"parameters": {"a": [1]}}, "parameters has a value"),
        ({"pickle": "gASV"}, "missing or unknown keys: pickle"),
    ],
)
def test_a_resealed_manifest_that_makes_no_sense_is_refused(
    bundle: Path, change: dict[str, object], says: str
) -> None:
    reseal(bundle, change)
    with pytest.raises(BundleError, match=says):
        verify_bundle(bundle)


def test_a_missing_key_is_refused(bundle: Path) -> None:
    reseal(bundle, {}, drop="encoder")
    with pytest.raises(BundleError, match="missing or unknown keys: encoder"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a": NaN}', b"\xff\xfe", b'{"a":1,"a":1}']
)
def test_a_manifest_that_is_no_manifest_is_refused(bundle: Path, raw: bytes) -> None:
    (bundle / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match="altered"):
        verify_bundle(bundle)


def test_a_pickle_in_place_of_the_noise_is_never_loaded(bundle: Path) -> None:
    raw = b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."
    (bundle / "noise.safetensors").write_bytes(raw)
    files = json.loads((bundle / "manifest.json").read_bytes())["files"]
    reseal(bundle, {"files": files | {"noise.safetensors": sha256(raw)}})
    with pytest.raises(BundleError, match="not safetensors"):
        verify_bundle(bundle)


def test_a_file_above_its_limit_is_refused(bundle: Path) -> None:
    (bundle / "MODEL_CARD.md").write_bytes(b"x" * (MAX_BYTES["MODEL_CARD.md"] + 1))
    with pytest.raises(BundleError, match="more than 1048576 bytes"):
        verify_bundle(bundle)


@pytest.mark.parametrize("missing", ["folder", "file"])
def test_what_is_no_folder_is_no_bundle(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "nothing"
    if missing == "file":
        path.write_text("text")
    with pytest.raises(BundleError, match="there is no such folder"):
        verify_bundle(path)


@pytest.mark.parametrize(
    "noise",
    [
        torch.zeros(1, SIZE, SIZE + 1),
        torch.zeros(SIZE, SIZE),
        torch.zeros(1, SIZE, SIZE, dtype=torch.float64),
        torch.full((1, SIZE, SIZE), torch.nan),
        torch.full((1, SIZE, SIZE), -torch.inf),
    ],
)
def test_a_noise_of_another_kind_is_not_written(tmp_path: Path, noise: torch.Tensor) -> None:
    with pytest.raises(BundleError, match="noise"):
        write_bundle(tmp_path / "b", noise, make_facts(), preview=TINY_PNG, card="")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="holds other files"):
        write(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(BundleError, match="is a link"):
        write(link)


def test_another_encoder_is_refused_and_told_what_it_was_made_for() -> None:
    check_made_for(make_facts(), encoder_fingerprint="e" * 64)
    with pytest.raises(BundleError, match="learnt through encoder phantom_vit"):
        check_made_for(make_facts(), encoder_fingerprint="f" * 64)


@given(
    st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())),
    st.floats(allow_nan=False, allow_infinity=False),
)
@settings(max_examples=50, deadline=None)
def test_any_facts_survive_the_seal(parameters: dict[str, object], value: float) -> None:
    facts = make_facts(parameters=parameters, metrics={"m": Interval(value, value, value)})
    assert open_seal(seal(facts, {"a": "b"}), Path("manifest.json")) == (facts, {"a": "b"})


_CRASHES = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_bundle as t
from ude_core.bundle import verify_bundle
from ude_core.errors import BundleError
import ude_core.storage

root = Path(sys.argv[1])

def child(step, folder, trial):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0
    def deadly(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in ("fsync", "rename", "mkdir"):
        setattr(os, name, deadly(getattr(os, name)))
    t.write(folder, trial=trial)
    os._exit(0)

killed = 0
for step in range(1, 30):
    fresh, replaced = root / f"fresh{step}", root / f"replaced{step}"
    t.write(replaced, trial=1)
    status = child(step, fresh, 2)
    child(step, replaced, 2)
    killed += os.WIFSIGNALED(status)
    for folder, allowed in ((fresh, {2}), (replaced, {1, 2})):
        assert not folder.exists() or verify_bundle(folder).trial in allowed, (step, folder)
    if not os.WIFSIGNALED(status):
        assert verify_bundle(fresh).trial == 2
        break
assert killed >= 8, killed

shared = root / "shared"
pids = []
for trial in range(4):
    pid = os.fork()
    if not pid:
        for _ in range(25):
            t.write(shared, trial=trial)
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
verify_bundle(shared)
assert not list(root.glob(".shared*"))
print("whole")
"""


def test_a_killed_writer_and_two_at_once_leave_a_whole_bundle_or_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CRASHES, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "whole\n", done.stderr


def images(count: int = 3, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.mark.parametrize("pixels", ["paper", "deploy"])
def test_the_encoder_sees_what_the_trial_scored(tmp_path: Path, pixels: str) -> None:
    loaded = load_bundle(write(tmp_path / "b", pixels=pixels))
    expected = apply_noise(to_pixels(images()), make_noise(), pixels)
    assert torch.equal(edit_pixels(loaded, images()), expected)
    if pixels == "deploy":
        assert torch.equal(to_pixels(edit_images(loaded, images())), expected)


def test_a_saved_file_reads_back_as_what_the_trial_scored(tmp_path: Path) -> None:
    loaded = load_bundle(write(tmp_path / "b"))
    Image.fromarray(images()[0]).save(tmp_path / "in.png")
    edit_path(loaded, tmp_path / "in.png", tmp_path / "out.png")
    seen = to_pixels(np.asarray(Image.open(tmp_path / "out.png"))[None])
    assert torch.equal(seen, apply_noise(to_pixels(images()[:1]), make_noise(), "deploy"))


def in_memory(size: int = SIZE, scale: float = 0.1) -> Bundle:
    return Bundle(facts=make_facts(image_size=size), noise=make_noise(size, scale))


@given(st.integers(0, 255), st.floats(-2, 2, width=32))
@settings(max_examples=200, deadline=None)
def test_one_pixel_is_clamped_and_rounded(value: int, shift: float) -> None:
    bundle = Bundle(facts=make_facts(image_size=1), noise=torch.full((1, 1, 1), shift))
    edited = int(edit_images(bundle, np.full((1, 1, 1), value, dtype=np.uint8))[0, 0, 0])
    assert abs(edited - min(255.0, max(0.0, value + 255.0 * shift))) <= 0.501


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    deep = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    edit_path(in_memory(), tmp_path / "deep.png", tmp_path / "out")
    edited = Image.open(tmp_path / "out" / "deep.png")
    exact = np.clip(deep / 65535 + make_noise()[0].numpy(), 0, 1) * 65535
    assert edited.mode.startswith("I")
    assert np.abs(np.asarray(edited, dtype=float) - exact).max() <= 0.51


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_every_channel_gets_the_edit_but_alpha(mode: str) -> None:
    gray = Image.fromarray(images()[0])
    edited = edit_image(in_memory(), gray.convert(mode))
    assert edited.mode == mode
    channels = [np.asarray(channel) for channel in edited.split()]
    expected = edit_images(in_memory(), images()[:1])[0]
    for channel in channels[:-1] if mode.endswith("A") else channels:
        assert np.array_equal(channel, expected)
    if mode.endswith("A"):
        assert (channels[-1] == 255).all()


def test_a_folder_keeps_its_names_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.fromarray(images()[0]).save(source / "a.png", pnginfo=None)
    Image.fromarray(images()[1]).save(source / "b.JPG")
    (source / "notes.txt").write_text("not an image")
    done = edit_path(in_memory(), source, target)
    assert [path.name for path in done.written] == ["a.png", "b.png"]
    assert [path.name for path in done.skipped] == ["notes.txt"]
    again = edit_path(in_memory(), source, target)
    assert again.written == ()
    assert len(again.unchanged) == 2
    with pytest.raises(BundleError, match="exists and differs"):
        edit_path(in_memory(scale=0.5), source, target)
    assert len(edit_path(in_memory(scale=0.5), source, target, overwrite=True).written) == 2


def test_metadata_that_may_name_a_patient_is_dropped(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("PatientName", "Doe^Jane")
    Image.fromarray(images()[0]).save(tmp_path / "in.png", pnginfo=info)
    edit_path(in_memory(), tmp_path / "in.png", tmp_path / "out.png")
    assert b"Doe" not in (tmp_path / "out.png").read_bytes()


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(images()[0]).save(path)
    before = path.read_bytes()
    (tmp_path / "link.png").symlink_to(path)
    for source, target in ((path, path), (tmp_path, tmp_path), (path, tmp_path / "link.png")):
        with pytest.raises(BundleError, match="is an input"):
            edit_path(in_memory(), source, target, overwrite=True)
    assert path.read_bytes() == before


def save(path: Path, **how: object) -> None:
    Image.fromarray(images()[0]).save(path, **how)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, exif=exif)


BAD = {
    "size.png": lambda p: Image.new("L", (9, 8)).save(p),
    "text.png": lambda p: p.write_text("not an image"),
    "empty.png": lambda p: p.write_bytes(b""),
    "gif.png": lambda p: save(p, format="GIF"),
    "cut.png": lambda p: (save(p), p.write_bytes(p.read_bytes()[:-30])),
    "palette.png": lambda p: Image.new("P", (SIZE, SIZE)).save(p),
    "bits.png": lambda p: Image.new("1", (SIZE, SIZE)).save(p),
    "cmyk.jpg": lambda p: Image.new("CMYK", (SIZE, SIZE)).save(p),
    "rotated.jpg": rotated,
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_image_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    save(source / "a.png")
    BAD[name](source / name)
    with pytest.raises(BundleError, match=name):
        edit_path(in_memory(), source, target)
    assert not target.exists()


def test_16_bit_color_is_refused_rather_than_flattened(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\1\2" * 3 * SIZE) * SIZE)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "c.png").write_bytes(raw)
    with pytest.raises(BundleError, match="16-bit color"):
        edit_path(in_memory(), tmp_path / "c.png", tmp_path / "out.png")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(BundleError, match=r"bomb\.png"):
        edit_path(in_memory(), tmp_path / "bomb.png", tmp_path / "out.png")


@pytest.mark.parametrize(
    ("make", "target", "says"),
    [
        (["a.png", "a.jpg"], "out", "would both become a.png"),
        ([], "out", "holds no PNG or JPEG"),
        (["a.png"], "file", "is a file"),
    ],
)
def test_folders_that_cannot_be_edited(
    tmp_path: Path, make: list[str], target: str, says: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in make:
        save(source / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=says):
        edit_path(in_memory(), source, tmp_path / target)


def test_a_lossy_output_and_a_missing_input_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(BundleError, match=r"end the name in \.png"):
        edit_path(in_memory(), tmp_path / "a.png", tmp_path / "b.jpg")
    with pytest.raises(BundleError, match="no such file"):
        edit_path(in_memory(), tmp_path / "z.png", tmp_path / "b.png")


def test_wrong_size_says_what_the_noise_was_made_for() -> None:
    with pytest.raises(BundleError, match=r"9x9 pixels; this noise was made for 8x8 .*phantom_vit"):
        edit_images(in_memory(), images(size=9))


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_figures_are_drawn_the_same_twice(scale: float) -> None:
    noise, ramp = make_noise(scale=scale), gray_ramp(SIZE)
    assert png_bytes(noise_map(noise)) == png_bytes(noise_map(noise))
    edited = edit_images(in_memory(scale=scale), ramp[None])[0]
    assert preview(ramp, edited, noise).width > noise_map(noise).width


def test_the_noise_map_is_blue_below_and_red_above() -> None:
    noise = torch.zeros(1, 2, 2)
    noise[0, 0, 0], noise[0, 1, 1] = -1.0, 0.5
    picture = np.asarray(noise_map(noise)).astype(int)
    inside = picture[28 : 28 + 256, 10 : 10 + 256]
    dark, bright, none = inside[10, 10], inside[-10, -10], inside[10, -10]
    assert dark[2] > dark[0]
    assert bright[0] > bright[2]
    assert none.tolist() == [247, 247, 247]
