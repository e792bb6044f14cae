"""The ONNX graph of an edit gives what the bundle gives, bit for bit."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_bundle import SIZE, in_memory, make_noise

from study.onnx_edit import IR_VERSION, OPSET, edit_graph
from ude_core.editing import edit_images
from ude_core.errors import UserError


def run(graph: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (edited,) = session.run(["edited"], {"images": images})
    return edited


@pytest.mark.parametrize("scale", [0.0, 0.003, 0.1, 3.0])
def test_the_graph_is_the_edit_bit_for_bit_on_every_gray_level(scale: float) -> None:
    bundle = in_memory(scale=scale)
    levels = np.arange(256, dtype=np.uint8)
    images = np.repeat(levels, SIZE * SIZE).reshape(256, SIZE, SIZE)
    edited = run(edit_graph(bundle.noise), np.repeat(images[:, None], 3, axis=1))
    assert edited.dtype == np.uint8
    for channel in range(3):
        assert np.array_equal(edited[:, channel], edit_images(bundle, images))


def test_a_tie_rounds_to_the_even_level_in_both() -> None:
    """Where x + ε lies exactly between two levels, half away from zero would differ."""
    bundle = in_memory(scale=0.0)
    bundle.noise[:] = torch.tensor(0.5 / 255)
    images = np.arange(256, dtype=np.uint8).repeat(SIZE * SIZE).reshape(256, SIZE, SIZE)
    edited = run(edit_graph(bundle.noise), images[:, None])
    assert np.array_equal(edited[:, 0], edit_images(bundle, images))
    assert np.array_equal(
        run(edit_graph(torch.zeros(1, SIZE, SIZE)), images[:, None])[:, 0], images
    )


def test_the_graph_is_valid_pinned_and_the_same_twice() -> None:
    graph = edit_graph(make_noise())
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [one.version for one in model.opset_import] == [OPSET]
    assert model.ir_version == IR_VERSION
    assert graph == edit_graph(make_noise())


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"ude-study\[onnx\]"):
        edit_graph(make_noise())
