"""Tree ensembles with leaves of very different sizes, whose sums in float32 depend on the order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

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
        ensemble = helper.make_node(
            "TreeEnsembleRegressor",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            n_targets=1,
            target_treeids=[tree for tree in range(self.trees) for _ in range(NODES - BRANCHES)],
            target_nodeids=list(range(BRANCHES, NODES)) * self.trees,
            target_ids=[0] * self.leaves.size,
            target_weights=self.leaves.ravel().tolist(),
            **nodes,
        )
        graph = helper.make_graph(
            [ensemble],
            "forest",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", self.features])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        )
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
