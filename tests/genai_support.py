"""A tiny LLaMA-style decoder in the layout that onnxruntime-genai reads, with weights drawn from a seed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

LAYERS, HEADS, HEAD_WIDTH, VOCABULARY, CONTEXT = 2, 2, 8, 50, 64
TOKEN_VOCABULARY, TOKEN_CONTEXT = 20, 64  # of the models of one operator
WIDTH, HIDDEN = HEADS * HEAD_WIDTH, 48

Array = npt.NDArray[Any]


class _Graph:
    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self._rng = np.random.default_rng(seed)

    def add(self, kind: str, *inputs: str | Array, name: str = "", **attributes: Any) -> str:
        output = name or f"{kind}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, array: Array) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def linear(self, x: str, inside: int, outside: int) -> str:
        return self.add("MatMul", x, self._rng.normal(size=(inside, outside)).astype(np.float32) / math.sqrt(inside))

    def norm(self, x: str) -> str:
        """RMSNorm."""
        square = self.add("ReduceMean", self.add("Mul", x, x), axes=[-1])
        root = self.add("Sqrt", self.add("Add", square, np.array(1e-6, np.float32)))
        scale = 1 + self._rng.normal(size=WIDTH).astype(np.float32) / 8
        return self.add("Mul", self.add("Div", x, root), scale)

    def heads(self, x: str) -> str:
        """(1, T, WIDTH) to (1, HEADS, T, HEAD_WIDTH)."""
        return self.add("Transpose", self.add("Reshape", x, np.array([0, 0, HEADS, HEAD_WIDTH])), perm=[0, 2, 1, 3])


def tiny_llama(seed: int = 0) -> bytes:
    """input_ids, attention_mask and caches to logits of every position and the grown caches."""
    g = _Graph(seed)
    table = np.random.default_rng(seed + 1).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    x = g.add("Gather", table, "input_ids")
    time = g.add("Slice", g.add("Shape", "input_ids"), np.array([1]), np.array([2]))
    total = g.add("Slice", g.add("Shape", "attention_mask"), np.array([1]), np.array([2]))
    past = g.add("Sub", total, time)
    scalars = [g.add("Squeeze", each, np.array([0])) for each in (past, total)]
    places = g.add("Range", scalars[0], scalars[1], np.array(1))
    rates = (1 / 10000 ** (np.arange(HEAD_WIDTH // 2) * 2 / HEAD_WIDTH)).astype(np.float64)
    angles = np.outer(np.arange(CONTEXT), rates)  # tables, so that no engine computes a sine
    cosine, sine = (g.add("Gather", f(angles).astype(np.float32), places) for f in (np.cos, np.sin))
    columns = g.add("Range", np.array(0), scalars[1], np.array(1))
    is_seen = g.add("LessOrEqual", columns, g.add("Unsqueeze", places, np.array([1])))
    mask = g.add("Where", is_seen, np.array(0, np.float32), np.array(-1e9, np.float32))

    def rotated(value: str) -> str:
        half = HEAD_WIDTH // 2
        first = g.add("Slice", value, np.array([0]), np.array([half]), np.array([3]))
        second = g.add("Slice", value, np.array([half]), np.array([HEAD_WIDTH]), np.array([3]))
        left = g.add("Sub", g.add("Mul", first, cosine), g.add("Mul", second, sine))
        right = g.add("Add", g.add("Mul", second, cosine), g.add("Mul", first, sine))
        return g.add("Concat", left, right, axis=3)

    for layer in range(LAYERS):
        y = g.norm(x)
        query, key = (rotated(g.heads(g.linear(y, WIDTH, WIDTH))) for _ in range(2))
        value = g.heads(g.linear(y, WIDTH, WIDTH))
        keys = g.add("Concat", f"past_key_values.{layer}.key", key, axis=2, name=f"present.{layer}.key")
        values = g.add("Concat", f"past_key_values.{layer}.value", value, axis=2, name=f"present.{layer}.value")
        product = g.add("MatMul", query, g.add("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = g.add("Add", g.add("Mul", product, np.array(HEAD_WIDTH**-0.5, np.float32)), mask)
        mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), values)
        flat = g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]), np.array([0, 0, WIDTH]))
        x = g.add("Add", x, g.linear(flat, WIDTH, WIDTH))
        y = g.norm(x)
        gate = g.linear(y, WIDTH, HIDDEN)
        opened = g.add("Mul", g.add("Mul", gate, g.add("Sigmoid", gate)), g.linear(y, WIDTH, HIDDEN))
        x = g.add("Add", x, g.linear(opened, HIDDEN, WIDTH))
    g.nodes.append(helper.make_node("MatMul", [g.norm(x), g.constant(table.T * 0.5)], ["logits"]))
    return _model(g)


def _model(
    g: _Graph,
    *,
    layers: int = LAYERS,
    heads: int = HEADS,
    head_width: int = HEAD_WIDTH,
    vocabulary: int = VOCABULARY,
) -> bytes:
    def value(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    caches = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    shape = ("batch", heads)
    graph = helper.make_graph(
        g.nodes,
        "llama",
        [
            value("input_ids", TensorProto.INT64, "batch", "time"),
            value("attention_mask", TensorProto.INT64, "batch", "total"),
            *(value(f"past_key_values.{each}", TensorProto.FLOAT, *shape, "past", head_width) for each in caches),
        ],
        [
            value("logits", TensorProto.FLOAT, "batch", "time", vocabulary),
            *(value(f"present.{each}", TensorProto.FLOAT, *shape, "total", head_width) for each in caches),
        ],
        [numpy_helper.from_array(array, name) for name, array in g.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def genai_config() -> bytes:
    """genai_config.json."""
    decoder = {
        "session_options": {},
        "filename": "model.onnx",
        "head_size": HEAD_WIDTH,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "decoder": decoder,
    }
    return json.dumps({"model": model, "search": {"max_length": CONTEXT, "past_present_share_buffer": False}}).encode()


def write_folder(folder: Path, model: bytes, config: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "genai_config.json").write_bytes(config or genai_config())
    return folder


def empty_caches() -> dict[str, Array]:
    """For running the graph by hand."""
    names = [f"past_key_values.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    return {name: np.zeros((1, HEADS, 0, HEAD_WIDTH), np.float32) for name in names}


# --- for the conformance suite -----------------------------------------------------------------------
_ROUNDS, _START = np.array(1 << 40), np.array(True)


def token_model(operator: str, *, fails: bool = False, is_endless: bool = False) -> bytes:
    """In the same layout: the logits of a position are an operator of its own id, all alike.

    `fails` makes rows of seven of it, which three numbers are not; `is_endless` adds it to itself 2**40 times.
    """
    g = _Graph(0)
    number = g.add("Cast", "input_ids", to=TensorProto.FLOAT)
    result = g.add(operator, *([number] if operator == "Neg" else [number, number]))
    column = g.add("Unsqueeze", result, np.array([2]))
    wide = _endlessly(g, column) if is_endless else column
    if fails:
        sevens = g.add("Reshape", column, np.array([1, -1, 7]))
        wide = g.add("Slice", sevens, np.array([0]), np.array([1]), np.array([2]))
    g.add("Expand", wide, np.array([1, 1, TOKEN_VOCABULARY]), name="logits")
    cache = g.add("Unsqueeze", g.add("Unsqueeze", number, np.array([1])), np.array([3]))
    for part in ("key", "value"):
        g.add("Concat", f"past_key_values.0.{part}", cache, axis=2, name=f"present.0.{part}")
    return _model(g, layers=1, heads=1, head_width=1, vocabulary=TOKEN_VOCABULARY)


def _endlessly(g: _Graph, value: str) -> str:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "sum"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    return g.add("Loop", _ROUNDS, _START, value, body=body)


def token_config() -> bytes:
    """genai_config.json of a `token_model`."""
    config = json.loads(genai_config())
    config["model"] |= {"vocab_size": TOKEN_VOCABULARY, "context_length": TOKEN_CONTEXT}
    config["model"]["decoder"] |= {"head_size": 1, "hidden_size": 1, "num_hidden_layers": 1}
    config["model"]["decoder"] |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    config["search"]["max_length"] = TOKEN_CONTEXT
    return json.dumps(config).encode()
