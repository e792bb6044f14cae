"""The edit as an ONNX graph, for runtimes without Python: add, clamp, quantise; 8 bits in and out.

Built by hand from seven operators, so that its bytes follow from the noise alone.
"""

from __future__ import annotations

import numpy as np

from ude_core.errors import UserError
from ude_core.noise import LEVELS
from ude_core.types import Noise

OPSET, IR_VERSION = 17, 8
"""Pinned: ONNX Runtime 1.12 (2022) and later, and the same bytes from any release of `onnx`."""


def edit_graph(noise: Noise) -> bytes:
    """Return the graph `images` → `edited`, both uint8 [images, channels, height, width].

    It computes `ude_core.editing.edit_images` of each channel, bit for bit. Raises UserError where
    the package `onnx` is not installed.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError:
        raise UserError(
            "edit.onnx needs the package onnx, which is not installed; "
            "pip install 'ude-study[onnx]', or leave --onnx out"
        ) from None
    height, width = noise.shape[-2:]
    shape: list[str | int | None] = ["images", "channels", height, width]
    constants = {
        "levels": np.float32(LEVELS),
        "black": np.float32(0.0),
        "white": np.float32(1.0),
        "noise": np.ascontiguousarray(noise.detach().cpu().numpy()),
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            node("Div", ["floats", "levels"], ["pixels"]),
            node("Add", ["pixels", "noise"], ["shifted"]),
            node("Clip", ["shifted", "black", "white"], ["clamped"]),
            node("Mul", ["clamped", "levels"], ["scaled"]),
            node("Round", ["scaled"], ["rounded"]),
            node("Cast", ["rounded"], ["edited"], to=TensorProto.UINT8),
        ],
        "edit",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("edited", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ude-study",
    )
    graph_bytes: bytes = model.SerializeToString(deterministic=True)
    return graph_bytes
