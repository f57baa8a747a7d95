"""A network in two parts: what no training changes, and the rest."""

from __future__ import annotations

import logging
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

log = logging.getLogger(__name__)


def cut(network: nn.Module, trained: Collection[str], inputs: Tensor) -> tuple[nn.Module, nn.Module] | None:
    """Two modules whose composition the network is, the first one without any of the `trained` modules.

    They share the network's own modules. None where its forward pass cannot be traced, or nowhere before
    the trained part comes down to one tensor; `inputs` (N, ...) are tried on both.
    """
    try:
        graph = _Around(trained).trace(network)
        parts = _divided(network, graph, trained)
        if parts is None:
            return None
        front, rest = parts
        with torch.no_grad():
            for some in (inputs, inputs[:1]):
                torch.testing.assert_close(rest(front(some)), network(some))
    except Exception as error:  # whatever a forward pass does that a tracer cannot follow
        log.debug("the network cannot be cut in two: %s: %s", type(error).__name__, error)
        return None
    return None if any(each.requires_grad for each in front.parameters()) else parts


class _Around(fx.Tracer):
    """Follows the forward passes of the modules that hold a trained one; all others stay whole."""

    def __init__(self, trained: Collection[str]) -> None:
        super().__init__()
        self.followed = _owners(next(iter(trained)))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return module_qualified_name not in self.followed


def _owners(name: str) -> set[str]:
    """The names of the modules that a module is part of."""
    return {name[:end] for end, letter in enumerate(name) if letter == "."}


def _divided(
    network: nn.Module, graph: fx.Graph, trained: Collection[str]
) -> tuple[nn.Module, nn.Module] | None:
    """The last place before the trained part that all it is made of passes through as one tensor."""
    nodes = list(graph.nodes)
    holding = {holder for name in trained for holder in (name, *_owners(name))}
    start = next(at for at, node in enumerate(nodes) if node.op == "call_module" and node.target in holding)
    constants = {node for node in nodes if node.op == "get_attr"}
    for at in range(start - 1, 0, -1):
        before = set(nodes[: at + 1]) - constants
        crossing = {each for node in nodes[at + 1 :] for each in node.all_input_nodes if each in before}
        if crossing == {nodes[at]}:
            return _part(network, nodes, end=nodes[at]), _part(network, nodes, begin=nodes[at])
    return None


def _part(
    network: nn.Module, nodes: list[fx.Node], *, begin: fx.Node | None = None, end: fx.Node | None = None
) -> nn.Module:
    """The nodes up to `end`, or those after `begin`, which takes the place of the input."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copied:  # a constant of the network, such as a position embedding
            copied[node] = graph.node_copy(node)
        return copied[node]

    begun = begin is None
    for node in nodes:
        if node is begin:
            copied[node] = graph.placeholder("features")
            begun = True
        elif begun and node.op != "get_attr":
            copied[node] = graph.node_copy(node, copy_of)
        if node is end:
            graph.output(copied[node])
            break
    return fx.GraphModule(network, graph)
