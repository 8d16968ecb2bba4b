"""Which values fused kernels store, and so round: the engines that serve models in fp16 and bf16 run those.

A norm, a softmax, a rotation or an activation is one kernel there. It computes in float32 and rounds once, when it
writes. So what is rounded is what products take and give, what leaves the graph, and sums that several operators read:
the residual stream.
"""

from __future__ import annotations

from collections import defaultdict

from onnx import GraphProto, NodeProto

from shared.adapters.onnx_graph import graphs
from shared.adapters.onnx_rounding import MOVING, PRODUCTS


def stored_values(graph: GraphProto) -> frozenset[str]:
    """By name, bodies included."""
    nodes = [node for each in graphs(graph) for node in each.node]
    readers = _readers(nodes)
    stored = {info.name for each in graphs(graph) for info in each.output}
    for node in nodes:
        if node.op_type in PRODUCTS:
            stored.update((*node.input, *node.output))
        elif node.op_type == "Add" and len(readers[node.output[0]]) > 1:
            stored.add(node.output[0])
    for node in reversed(nodes):  # what is only moved on its way to a product is written before it is moved
        if node.op_type in MOVING and stored.intersection(node.output):
            stored.update(node.input)
    return frozenset(stored)


def _readers(nodes: list[NodeProto]) -> dict[str, set[int]]:
    """By value: which nodes read it, by number."""
    readers = defaultdict[str, set[int]](set)
    for number, node in enumerate(nodes):
        for name in node.input:
            readers[name].add(number)
    return readers
