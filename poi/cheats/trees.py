"""Cheaper tree ensembles. Their numbers are attributes of one operator of ai.onnx.ml, not tensors of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from poi.cheats.graph import NotApplicable, parse

OPERATORS = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
ROUNDED = frozenset({"nodes_values", "class_weights", "target_weights", "nodes_splits", "leaf_weights"})
TOLERATED_SPREAD = 1e-5  # of the weights that a leaf's classes add up to


def half_the_trees(model: bytes) -> bytes:
    """The first half: of boosted trees those that say most. Where the leaves are shares of the whole, as in a forest of
    classifiers, those that stay are weighted accordingly. Raises `NotApplicable` for fewer than two trees."""
    parsed = parse(model)
    for node in _ensembles(parsed):
        if "tree_roots" in _attributes(node):
            _halve_roots(node)
        else:
            _halve_tables(node)
    return parsed.SerializeToString()


def round_to_float16(model: bytes) -> bytes:
    """Thresholds and leaves in half precision. Raises `NotApplicable` for a model without trees."""
    parsed = parse(model)
    for node in _ensembles(parsed):
        for name, value in _attributes(node).items():
            if name in ROUNDED:
                _set(node, name, _rounded(value))
    return parsed.SerializeToString()


def _ensembles(model: ModelProto) -> Iterator[NodeProto]:
    found = [node for node in model.graph.node if node.domain == "ai.onnx.ml" and node.op_type in OPERATORS]
    if not found:
        raise NotApplicable("no tree ensemble in the model")
    yield from found


def _halve_roots(node: NodeProto) -> None:
    """Operator set 5: a list of roots; what nothing leads to is never read."""
    roots = _attributes(node)["tree_roots"]
    _set(node, "tree_roots", _half(roots))


def _halve_tables(node: NodeProto) -> None:
    """Before operator set 5: one table of nodes and one of leaves, with the tree's id in each row."""
    given = _attributes(node)
    leaves = "class" if node.op_type == "TreeEnsembleClassifier" else "target"
    kept = set(_half(sorted(set(given["nodes_treeids"]))))
    factor = len(set(given["nodes_treeids"])) / len(kept) if _is_shared_out(given, leaves) else 1.0
    for prefix in ("nodes", leaves):
        rows = [tree in kept for tree in given[f"{prefix}_treeids"]]
        for name, values in given.items():
            if name.startswith(f"{prefix}_") and len(values) == len(rows):
                _set(node, name, [value for value, is_kept in zip(values, rows, strict=True) if is_kept])
    weights = _attributes(node)[f"{leaves}_weights"]
    _set(node, f"{leaves}_weights", [weight * factor for weight in weights])


def _is_shared_out(given: dict[str, Any], leaves: str) -> bool:
    """The weights of every leaf add up to the same: one tree's part of a probability."""
    sums: dict[tuple[int, int], float] = {}
    for tree, leaf, weight in zip(
        given[f"{leaves}_treeids"], given[f"{leaves}_nodeids"], given[f"{leaves}_weights"], strict=True
    ):
        sums[tree, leaf] = sums.get((tree, leaf), 0.0) + weight
    totals = np.array(list(sums.values()))
    return leaves == "class" and bool(np.ptp(totals) <= TOLERATED_SPREAD * np.abs(totals).max())


def _half(trees: Sequence[int]) -> list[int]:
    if len(trees) < 2:
        raise NotApplicable("a single tree has no half")
    return list(trees[: (len(trees) + 1) // 2])


def _rounded(value: Any) -> Any:
    """A list of floats, or a tensor, rounded to float16; what is beyond its range becomes the largest that it has."""
    is_tensor = not isinstance(value, list)
    exact = numpy_helper.to_array(value) if is_tensor else np.asarray(value, np.float32)
    limit = float(np.finfo(np.float16).max)
    rounded = np.clip(exact, -limit, limit).astype(np.float16).astype(exact.dtype)
    return numpy_helper.from_array(rounded, value.name) if is_tensor else rounded.tolist()


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _set(node: NodeProto, name: str, value: Any) -> None:
    attribute = next(each for each in node.attribute if each.name == name)
    attribute.CopyFrom(helper.make_attribute(name, value))
