"""Which parameters of a pre-trained network are trained beside its head."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from torch import nn

from dptrain.contracts import ConfigError

# Parts that several architectures are made of, and no blocks of one of them.
LIBRARIES = ("torch.", "torchvision.ops.", "timm.layers.", "transformers.activations", "dptrain.contracts.")


def last_block(network: nn.Module) -> list[str]:
    """The last of a network's repeated blocks, and all that comes after it, by name; raises ConfigError.

    Blocks are the modules of the network's own kinds that stand one after the other, such as residual
    blocks and the layers of a transformer, and hold more than one layer with weights each; of several kinds
    the most frequent is meant.
    """
    kinds = _without_parts(_repeated(network))
    counts = Counter(kinds.values())
    if not counts or counts.most_common(1)[0][1] < 2:
        raise ConfigError(
            "model.trainable=last_block: this network has no repeated blocks; use head, bias, norm or all"
        )
    kind = counts.most_common(1)[0][0]
    block = [name for name, each in kinds.items() if each is kind][-1]
    names = [name for name, _ in network.named_modules()]
    after = names[names.index(block) + 1 :]
    return [block, *(name for name in after if not name.startswith(f"{block}."))]


def _repeated(network: nn.Module) -> dict[str, type[nn.Module]]:
    """The modules of the network's own kinds that stand in its sequences, by name, and those kinds."""
    found = {}
    for owner_name, owner in network.named_modules():
        if owner is network or type(owner) in (nn.Sequential, nn.ModuleList):
            for child_name, child in owner.named_children():
                own = not type(child).__module__.startswith(LIBRARIES)
                if own and any(True for _ in child.parameters()):
                    found[f"{owner_name}.{child_name}".removeprefix(".")] = child
    several = {name: each for name, each in found.items() if _layers_with_weights(each) > 1}
    return {name: type(each) for name, each in (several or found).items()}


def _layers_with_weights(module: nn.Module) -> int:
    return sum(any(each.dim() > 1 for each in layer.parameters(recurse=False)) for layer in module.modules())


def _without_parts(kinds: Mapping[str, type[nn.Module]]) -> dict[str, type[nn.Module]]:
    """Without what is a part of a block; a stage, which has a sequence of one kind of blocks, is none."""
    sequences: dict[str, list[type[nn.Module]]] = defaultdict(list)
    for name, kind in kinds.items():
        sequences[name.rpartition(".")[0]].append(kind)
    of_one_kind = [name for name, each in sequences.items() if len(each) > 1 and len(set(each)) == 1]
    stages = {
        kind for name, kind in kinds.items() if any(each.startswith(f"{name}.") for each in of_one_kind)
    }
    blocks = [name for name, kind in kinds.items() if kind not in stages]
    return {
        name: kind
        for name, kind in kinds.items()
        if not any(name.startswith(f"{block}.") for block in blocks)
    }


def train_only(network: nn.Module, trainable: str) -> None:
    """Have the parameters that `trainable` names require gradients, and no others.

    `bias` are all shifts, `norm` scales and shifts of normalisation layers, `last_block` as above. Raises
    ConfigError where there are none.
    """
    network.requires_grad_(trainable == "all")
    if trainable == "last_block":
        for name in last_block(network):
            network.get_submodule(name).requires_grad_()
    elif trainable != "all":
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(name.endswith("bias") if trainable == "bias" else is_norm(module))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            f"model.trainable={trainable}: this network has no such parameters; use head, last_block or all"
        )


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises, by what it is called: libraries have many of their own."""
    return "norm" in type(module).__name__.lower() and not any(
        type(child).__name__ in ("Conv2d", "Linear") for child in module.children()
    )
