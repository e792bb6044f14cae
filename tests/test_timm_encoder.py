"""Any timm model from a local checkpoint: strict, pure, folded without changing what it computes."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ude_core.encoders.execution import Execution, memory_format
from ude_core.encoders.folding import fold_batch_norms, fold_gray
from ude_core.encoders.timm_encoder import TimmEncoder, read_checkpoint
from ude_core.errors import SettingError
from ude_core.evaluator import embed_images

SMALL = "test_efficientnet"


def network(model: str = SMALL) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model(model, num_classes=0)
    for module in made.modules():
        if hasattr(module, "running_mean") and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    return made.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(network().state_dict(), path)
    return path


def test_embeddings_are_those_of_timm(checkpoint: Path) -> None:
    encoder = TimmEncoder(SMALL, checkpoint, image_size=64, mean=0.4, std=0.3)
    pixels = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network()(((pixels - 0.4) / 0.3).expand(-1, 3, -1, -1))
    got = encoder.encode(pixels)
    assert got.shape == (3, encoder.embedding_dim)
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(encoder.encode(pixels), got)


def test_pixels_outside_the_range_and_gradients_pass(checkpoint: Path) -> None:
    encoder = TimmEncoder(SMALL, checkpoint, image_size=64)
    pixels = (torch.rand(1, 1, 64, 64) * 3 - 1).requires_grad_()
    encoder.encode(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.any()


def test_folding_removes_the_norms_and_keeps_the_function() -> None:
    plain = network()
    probe = torch.rand(2, 3, 64, 64)
    folded = fold_batch_norms(plain, probe)
    norms = [m for m in folded.modules() if type(m).__name__.startswith("BatchNorm")]
    assert not norms
    other = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(folded(other), plain(other), rtol=1e-3, atol=1e-4)


def test_a_network_whose_order_is_not_its_flow_is_left_as_it_was() -> None:
    class Crossed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            from timm.layers.norm_act import BatchNormAct2d

            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.norm = BatchNormAct2d(3)
            self.norm.running_var.fill_(9.0)
            self.norm.running_mean.fill_(1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x)).mean((2, 3))

    crossed = Crossed().eval().requires_grad_(False)
    assert fold_batch_norms(crossed, torch.rand(2, 3, 8, 8)) is crossed


@pytest.mark.parametrize("model", [SMALL, "test_vit", "mobilenetv2_035"])
def test_equal_channels_are_folded_into_one(model: str) -> None:
    size = 160 if model == "test_vit" else 64
    plain, folded = network(model), network(model)
    assert fold_gray(folded, 3, torch.rand(2, 1, size, size)) == 1
    gray = torch.rand(3, 1, size, size) * 4 - 2
    with torch.inference_mode():
        expected = plain(gray.expand(-1, 3, -1, -1))
        assert torch.allclose(folded(gray), expected, rtol=1e-3, atol=1e-4)


def test_channels_that_something_else_reads_stay() -> None:
    class Weighed(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.weight.abs().mean()

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)) + x[:, 2].mean((1, 2))[:, None]

    for left in (torch.nn.Sequential(Weighed(3, 4, 1)), Twice()):
        left.eval().requires_grad_(False)
        gray = torch.rand(2, 1, 8, 8)
        before = left(gray.expand(-1, 3, -1, -1))
        assert fold_gray(left, 3, gray) == 3
        assert torch.equal(left(gray.expand(-1, 3, -1, -1)), before)
    grouped = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, groups=3))
    assert fold_gray(grouped, 3, gray) == 3


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_a_pth_is_read_with_weights_only(tmp_path: Path, wrap: str | None) -> None:
    tensors = {"a": torch.ones(2)}
    torch.save({wrap: tensors} if wrap else tensors, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(tmp_path / "w.pth")["a"], tensors["a"])


def test_the_fingerprint_follows_weights_and_preprocessing(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    changed = network().state_dict()
    changed[next(iter(changed))] += 1e-3
    save_file(changed, other)
    prints = {
        TimmEncoder(SMALL, checkpoint, image_size=64).fingerprint,
        TimmEncoder(SMALL, other, image_size=64).fingerprint,
        TimmEncoder(SMALL, checkpoint, image_size=64, mean=0.4).fingerprint,
        TimmEncoder(SMALL, checkpoint, image_size=96).fingerprint,
    }
    assert len(prints) == 4
    again = TimmEncoder(SMALL, checkpoint, image_size=64).fingerprint
    assert again in prints


def test_bfloat16_comes_close_and_has_a_fingerprint_of_its_own(checkpoint: Path) -> None:
    exact = TimmEncoder(SMALL, checkpoint, image_size=64)
    coarse = TimmEncoder(SMALL, checkpoint, image_size=64, precision="bfloat16")
    pixels = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected, got = exact.encode(pixels), coarse.encode(pixels)
    assert got.dtype == torch.float32
    assert not torch.equal(got, expected)
    assert torch.allclose(got, expected, atol=0.05 * float(expected.abs().max()))
    assert coarse.fingerprint != exact.fingerprint
    spelled = TimmEncoder(SMALL, checkpoint, image_size=64, precision="float32", batch_size=9)
    assert spelled.fingerprint == exact.fingerprint
    assert (spelled.batch_size, exact.batch_size) == (9, 16)


def test_only_convolutional_networks_run_channels_last() -> None:
    assert memory_format(network()) is torch.channels_last
    assert memory_format(timm.create_model("test_vit", num_classes=0)) is torch.contiguous_format


@pytest.mark.slow
def test_compiled_it_runs_in_passes_of_one_shape(tmp_path: Path) -> None:
    options = {"depth": 1}
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0, **options).state_dict(), path)
    eager = TimmEncoder("test_vit", path, image_size=160, model_options=options)
    quick = TimmEncoder("test_vit", path, image_size=160, model_options=options, compile=True)
    shapes = set()
    inner = quick._run._forward
    quick._run._forward = lambda pixels: (shapes.add(tuple(pixels.shape)), inner(pixels))[1]
    pixels = torch.rand(6, 1, 160, 160, generator=torch.Generator().manual_seed(1))
    got = embed_images(quick, (pixels[:, 0] * 255).byte().numpy())
    expected = embed_images(eager, (pixels[:, 0] * 255).byte().numpy())
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert shapes == {(quick.batch_size, 1, 160, 160)}

    variable = pixels[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(quick.encode(variable).sum(), variable)
    other = pixels[:1].clone().requires_grad_()
    (plain,) = torch.autograd.grad(eager.encode(other).sum(), other)
    assert torch.equal(gradient, plain)


def test_a_compiled_pass_is_padded_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        shapes.append(len(pixels))
        return pixels.mean(dim=(2, 3))

    run = Execution(forward, torch.device("cpu"), compiled=True)
    pixels = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(pixels, 4), pixels.mean(dim=(2, 3)))
    assert shapes == [4, 4]
    run(pixels.requires_grad_(), 4)
    assert shapes == [4, 4, 7], "gradients pass eagerly, and whole"


def test_what_cannot_be_loaded_is_the_users_to_mend(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such file"):
        TimmEncoder(SMALL, tmp_path / "missing.safetensors", image_size=64)
    with pytest.raises(SettingError, match="expected a timm model"):
        TimmEncoder("resnet_of_nobody", checkpoint, image_size=64)
    with pytest.raises(SettingError, match="do not fit the model"):
        TimmEncoder("test_vit", checkpoint, image_size=160)


def test_the_real_encoder_loads_strictly(shared_data: Path) -> None:
    encoder = TimmEncoder(
        "mobilenetv2_100",
        shared_data / "encoder" / "mobilenetv2_100_in1k_features.safetensors",
        model_options={"pad_type": "same"},
    )
    assert encoder.embedding_dim == 1280
    assert torch.isfinite(encoder.encode(torch.rand(1, 1, 224, 224))).all()
