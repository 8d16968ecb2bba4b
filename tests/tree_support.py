"""Tree ensembles with leaves of very different sizes, whose sums in float32 depend on the order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

DEPTH = 3
BRANCHES, NODES = 2**DEPTH - 1, 2 ** (DEPTH + 1) - 1  # of one tree; node i has the children 2i + 1 and 2i + 2

Features = npt.NDArray[np.float32]


class Forest:
    """`trees` complete trees over `features` features, drawn from `seed`."""

    def __init__(self, trees: int, features: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.trees, self.features = trees, features
        self.thresholds = rng.normal(size=(trees, BRANCHES)).astype(np.float32)
        self.tested = rng.integers(features, size=(trees, BRANCHES))
        size = 10.0 ** rng.integers(-4, 4, (trees, NODES - BRANCHES))
        self.leaves = (rng.normal(size=size.shape) * size).astype(np.float32)

    def model(self) -> bytes:
        """x (n, features) float32 to y (n, 1) float32."""
        ensemble = helper.make_node(
            "TreeEnsembleRegressor",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            n_targets=1,
            target_treeids=self._leaf_trees(),
            target_nodeids=self._leaf_nodes(),
            target_ids=[0] * self.leaves.size,
            target_weights=self.leaves.ravel().tolist(),
            **self._nodes(),
        )
        return self._written(ensemble, helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1]))

    def classifier(self, transform: str) -> bytes:
        """x to label (n) int64 and scores (n, 3) float32; every leaf counts for one class."""
        ensemble = helper.make_node(
            "TreeEnsembleClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_int64s=[10, 11, 12],
            post_transform=transform,
            class_treeids=self._leaf_trees(),
            class_nodeids=self._leaf_nodes(),
            class_ids=[index % 3 for index in range(self.leaves.size)],
            class_weights=self.leaves.ravel().tolist(),
            **self._nodes(),
        )
        label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
        return self._written(ensemble, label, helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]))

    def _leaf_trees(self) -> list[int]:
        return [tree for tree in range(self.trees) for _ in range(NODES - BRANCHES)]

    def _leaf_nodes(self) -> list[int]:
        return list(range(BRANCHES, NODES)) * self.trees

    def _nodes(self) -> dict[str, list[Any]]:
        nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in ("treeids", "nodeids", "featureids", "values")}
        nodes |= {f"nodes_{name}": [] for name in ("modes", "truenodeids", "falsenodeids")}
        for tree in range(self.trees):
            for index in range(NODES):
                is_leaf = index >= BRANCHES
                nodes["nodes_treeids"].append(tree)
                nodes["nodes_nodeids"].append(index)
                nodes["nodes_featureids"].append(0 if is_leaf else int(self.tested[tree, index]))
                nodes["nodes_values"].append(0.0 if is_leaf else float(self.thresholds[tree, index]))
                nodes["nodes_modes"].append("LEAF" if is_leaf else "BRANCH_LEQ")
                nodes["nodes_truenodeids"].append(0 if is_leaf else 2 * index + 1)
                nodes["nodes_falsenodeids"].append(0 if is_leaf else 2 * index + 2)
        return nodes

    def _written(self, ensemble: NodeProto, *outputs: ValueInfoProto) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", self.features])
        graph = helper.make_graph([ensemble], "forest", [x], outputs)
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()

    def exact(self, x: Features) -> Features:
        """The sum of the leaves without any rounding, then rounded once."""
        return np.array([[math.fsum(self._leaves_of(row))] for row in x], np.float32)

    def _leaves_of(self, row: Features) -> list[float]:
        found = []
        for tree in range(self.trees):
            at = 0
            while at < BRANCHES:
                at = 2 * at + (1 if row[self.tested[tree, at]] <= self.thresholds[tree, at] else 2)
            found.append(float(self.leaves[tree, at - BRANCHES]))
        return found
