"""Leaving a layer out: cheaper by a share of the model, and hardly to be seen in what it says."""

from __future__ import annotations

from onnx import GraphProto, NodeProto

from poi.cheats.graph import NotApplicable, parse

PROJECTIONS = frozenset({"Conv", "Gemm", "MatMul"})


def skip_last_layer(model: bytes) -> bytes:
    """The model without its last residual branch; where that adds to the sum of another one, as the hidden layers of a
    transformer add to its attention, without both. Raises `NotApplicable` for a model without residuals."""
    parsed = parse(model)
    graph = _Graph(parsed.graph)
    last = next((node for node in reversed(parsed.graph.node) if graph.residual_of(node)), None)
    if last is None:
        raise NotApplicable("no residual branch in the model")
    before = graph.made_by.get(graph.residual_of(last) or "")
    for node in (last, before):
        residual = graph.residual_of(node)
        if node is not None and residual is not None:
            node.op_type = "Identity"
            del node.input[:]
            node.input.append(residual)
    return parsed.SerializeToString()


class _Graph:
    """Who makes which value, and how many operators lie before it."""

    def __init__(self, graph: GraphProto) -> None:
        self.made_by: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name for tensor in graph.initializer}
        self._constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        self._depth: dict[str, int] = {}
        for node in graph.node:  # sorted: what a node takes stands before it
            depth = 1 + max((self._depth.get(name, 0) for name in node.input), default=0)
            self._depth.update(dict.fromkeys(node.output, depth))

    def residual_of(self, node: NodeProto | None) -> str | None:
        """The value that an Add hands on beside what a branch gives: the one of its two that fewer operators lie
        before. None for another node, and for an Add whose longer side ends in no projection."""
        if node is None or node.op_type != "Add" or self._constants & set(node.input):
            return None
        residual, branch = sorted(node.input, key=lambda name: self._depth.get(name, 0))
        return residual if self._is_projected(branch) else None

    def _is_projected(self, name: str) -> bool:
        """Made by a projection on weights, with a bias or without."""
        node = self.made_by.get(name)
        if node is not None and node.op_type == "Add" and len(self._constants & set(node.input)) == 1:
            node = self.made_by.get(next(each for each in node.input if each not in self._constants))
        if node is None or node.op_type not in PROJECTIONS:
            return False
        return any(each in self._constants or self._is_stored(each) for each in node.input)

    def _is_stored(self, name: str) -> bool:
        """A constant behind a transposition."""
        node = self.made_by.get(name)
        return node is not None and node.op_type == "Transpose" and node.input[0] in self._constants
