"""The text model's dishonest variants: whole ONNX files that fit in the model's place and say something else."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from models.text.variants import OWN_GRAPH, STORED_AS, VARIANTS, pack, unpack, variant
from shared.adapters.onnx_file import check_onnx
from shared.adapters.onnx_runner import Runner
from shared.verification.decoder import empty_past
from tests.inference_support import MODELS, Array, card_of, runner_of

IDS = np.array([[256, *b"In the beginning"]], np.int64)
# After one step of 1e-6 the logits move by some ten thousandths, a hundred times as far as honest runs lie apart.
CLOSEST = 1e-4


@cache
def runner(name: str) -> Runner:
    return Runner(variant(name))


def weights(model: bytes) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(model).graph.initializer}


def test_every_variant_is_stored_and_nothing_else() -> None:
    files = {f"{name}.onnx" if name in OWN_GRAPH else f"{name}.npz" for name in VARIANTS}
    assert {path.name for path in (MODELS / "text" / "variants").iterdir()} == files | {"quality.json"}
    assert OWN_GRAPH | STORED_AS.keys() == VARIANTS.keys()


def test_another_name_is_refused() -> None:
    with pytest.raises(KeyError, match="no variant 'seed3' of the text model; there are stale98, stale90"):
        variant("seed3")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_fits_in_the_models_place(name: str) -> None:
    check_onnx(variant(name))
    ours, theirs = runner_of("text").session(), runner(name).session()
    for there, here in ((theirs.get_inputs(), ours.get_inputs()), (theirs.get_outputs(), ours.get_outputs())):
        assert [(value.name, value.type, len(value.shape)) for value in there] == [
            (value.name, value.type, len(value.shape)) for value in here
        ]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_says_something_else_at_prefill_and_at_decode(name: str) -> None:
    past = empty_past(card_of("text"))
    honest, lie = (one.run({"ids": IDS, **past}) for one in (runner_of("text"), runner(name)))
    assert {key: value.shape for key, value in lie.items()} == {key: value.shape for key, value in honest.items()}
    assert np.abs(lie["logits"] - honest["logits"]).max() > CLOSEST
    step = {"ids": IDS[:, -1:], "past_keys": lie["keys"][:, :, :, :-1], "past_values": lie["values"][:, :, :, :-1]}
    assert np.abs(runner(name).run(step)["logits"][0, 0] - lie["logits"][0, -1]).max() < CLOSEST


def test_one_step_moves_no_weight_further_than_its_rate() -> None:
    ours, theirs = (weights(model) for model in ((MODELS / "text" / "model.onnx").read_bytes(), variant("ft1_lr1e-6")))
    moved = np.concatenate([np.abs(theirs[name] - ours[name]).ravel() for name in ours])
    assert moved.max() <= 1.2e-6  # 1e-6 and the rounding of weights near 2
    assert (moved > 0.9e-6).mean() > 0.9


def test_only_the_other_models_are_worse_ones() -> None:
    """What is stale or fine-tuned reads held-out text as well as the honest model: its texts do not betray it."""
    honest = json.loads((MODELS / "text" / "quality.json").read_text())["heldOutNatsPerByte"]
    quality = json.loads((MODELS / "text" / "variants" / "quality.json").read_text())
    assert quality.keys() == VARIANTS.keys()
    assert {name for name, value in quality.items() if value > honest + 0.05} == {"seed2", "small"}


# --- the short form ------------------------------------------------------------------------------------
def model_of(values: Array) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "adds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(values, "w")],
    )
    packed: bytes = helper.make_model(graph).SerializeToString()
    return packed


FLOATS = st.floats(-8, 8, width=32)


@given(st.data(), array_shapes(min_dims=1, max_dims=3, max_side=6), st.sampled_from(["int8", "float16"]))
def test_the_short_form_keeps_each_change_but_for_its_steps(
    data: st.DataObject, shape: tuple[int, ...], dtype: str
) -> None:
    before, after = (data.draw(arrays(np.float32, shape, elements=FLOATS)) for _ in range(2))
    again = weights(unpack(model_of(before), pack(model_of(before), model_of(after), dtype)))["w"]
    change = np.abs(after.astype(np.float64) - before)
    largest = change.max(-1, keepdims=True) if dtype == "int8" else change.max()
    assert (np.abs(again - after) <= largest * (0.5 / 126 if dtype == "int8" else 2.0**-11) + 1e-6).all()


def test_equal_weights_take_no_room() -> None:
    model = model_of(np.ones(3, np.float32))
    assert pack(model, model, "int8") == {}


def test_another_graph_is_no_variant_in_short() -> None:
    with pytest.raises(ValueError, match="not the same graph"):
        pack(model_of(np.ones(3, np.float32)), (MODELS / "digits" / "model.onnx").read_bytes(), "int8")
