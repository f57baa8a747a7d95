"""Small models, one a layer and configuration, on which per-record gradients are checked.

Every layer that Opacus' own tests of per-sample gradients go over, in the same configurations and in some
that they leave out, and parameters in unusual places. Independent of dptrain, for tests and scripts alike:

    for case in CASES:
        logits = case.make()(case.inputs(5, torch.Generator().manual_seed(0)))   # (5, 2)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention
from opacus.layers.dp_multihead_attention import SequenceBias
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

VOCABULARY = 7


@dataclass(frozen=True, kw_only=True)
class LayerModel:
    """A model of few parameters: inputs (n, *shape) to logits (n, 2)."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: bool = False  # inputs are whole numbers below VOCABULARY
    random: bool = False  # draws dropout masks in training mode

    def make(self, seed: int = 0) -> nn.Module:
        """The model, in training mode; no parameter is left at a constant such as zero or one."""
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout on a single recurrent layer, of the name weight_norm
            torch.manual_seed(seed)
            model = self.build()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model.train()

    def inputs(self, count: int, generator: torch.Generator) -> Tensor:
        """Random records (count, *shape), some brighter than others."""
        if self.tokens:
            return torch.randint(VOCABULARY, (count, *self.shape), generator=generator)
        scale = torch.linspace(0.3, 2.0, count).view(-1, *[1] * len(self.shape))
        return torch.randn(count, *self.shape, generator=generator) * scale


class Net(nn.Module):
    """Named modules and parameters, and any function of them: what is no chain."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


class Pool(nn.Module):
    """Mean over all axes after the second: (n, channels, ...) to (n, channels)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(2).mean(2)


class Mean(nn.Module):
    """Mean over all axes between the first and the last."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1, -2).mean(1)


class Scale(nn.Module):
    """A layer that no library knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2.0, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(inputs * self.weight)


def _chain(*makers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*[make() for make in makers])


def _named(name: str, shape: tuple[int, ...], *makers: Callable[[], nn.Module], **options: Any) -> LayerModel:
    return LayerModel(name=name, build=_chain(*makers), shape=shape, **options)


SIZES = {1: (11,), 2: (8, 7), 3: (5, 4, 4)}
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "padding": {"padding": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4},
    "all at once": {"stride": 3, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
    "same": {"padding": "same"},
    "same, even kernel": {"padding": "same", "kernel_size": 2, "dilation": 3},
    "valid": {"padding": "valid"},
    "circular": {"padding": 2, "padding_mode": "circular"},
    "reflect": {"padding": 1, "padding_mode": "reflect", "stride": 2},
    "replicate": {"padding": "same", "padding_mode": "replicate"},
    "pointwise": {"kernel_size": 1, "stride": 2},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2, "output_padding": 1},
    "padding": {"padding": 1, "stride": 2},
    "dilation": {"dilation": 2},
    "groups": {"groups": 2, "bias": False},
    "all at once": {"stride": 3, "padding": 1, "dilation": 2, "groups": 4, "output_padding": 1},
}


def _convolutions() -> Iterator[LayerModel]:
    for dimensions, size in SIZES.items():
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        for name, options in CONVOLUTIONS.items():
            make = partial(layer, 4, 8, **{"kernel_size": 3, **options})
            yield _named(
                f"Conv{dimensions}d {name}", (4, *size), make, nn.Tanh, Pool, partial(nn.Linear, 8, 2)
            )
        layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
        for name, options in TRANSPOSED.items():
            make = partial(layer, 4, 8, **{"kernel_size": 3, **options})
            small = tuple(min(extent, 4) for extent in size)
            yield _named(
                f"ConvTranspose{dimensions}d {name}",
                (4, *small),
                make,
                nn.Tanh,
                Pool,
                partial(nn.Linear, 8, 2),
            )


def _linear() -> Iterator[LayerModel]:
    for shape in ((3,), (6, 3), (2, 4, 3)):
        for bias in (True, False):
            layers = [partial(nn.Linear, 3, 4, bias=bias), nn.Tanh, *[Mean] * (len(shape) > 1)]
            yield _named(f"Linear {len(shape)}d bias={bias}", shape, *layers, partial(nn.Linear, 4, 2))
    yield _named(
        "inplace", (6,), partial(nn.Linear, 6, 5), partial(nn.ReLU, inplace=True), partial(nn.Linear, 5, 2)
    )
    dropped = (partial(nn.Linear, 6, 8), nn.Tanh, partial(nn.Dropout, 0.5), partial(nn.Linear, 8, 2))
    yield _named("dropout", (6,), *dropped, random=True)
    yield LayerModel(
        name="Bilinear",
        shape=(2, 3),
        build=lambda: Net(
            lambda net, x: net.head(net.mix(x[:, 0], x[:, 1])), mix=nn.Bilinear(3, 3, 4), head=nn.Linear(4, 2)
        ),
    )
    yield _named("PReLU", (6,), partial(nn.Linear, 6, 5), partial(nn.PReLU, 5), partial(nn.Linear, 5, 2))


NORMALISATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "GroupNorm": (partial(nn.GroupNorm, 2, 4), (4, 5, 3)),
    "GroupNorm one group": (partial(nn.GroupNorm, 1, 4), (4, 5, 3)),
    "GroupNorm a group a channel": (partial(nn.GroupNorm, 4, 4), (4, 5, 3)),
    "GroupNorm of one position": (partial(nn.GroupNorm, 2, 4), (4,)),
    "InstanceNorm1d": (partial(nn.InstanceNorm1d, 4, affine=True), (4, 6)),
    "InstanceNorm2d": (partial(nn.InstanceNorm2d, 4, affine=True), (4, 3, 5)),
    "InstanceNorm3d": (partial(nn.InstanceNorm3d, 4, affine=True), (4, 2, 3, 2)),
    "LayerNorm": (partial(nn.LayerNorm, 5), (4, 5)),
    "LayerNorm of one position": (partial(nn.LayerNorm, 4), (4,)),
    "LayerNorm of two axes": (partial(nn.LayerNorm, (3, 5)), (4, 3, 5)),
    "LayerNorm of all axes": (partial(nn.LayerNorm, (4, 3, 5)), (4, 3, 5)),
    "LayerNorm without shift": (partial(nn.LayerNorm, 5, bias=False), (4, 5)),
    "RMSNorm": (partial(nn.RMSNorm, 5), (4, 5)),
    "RMSNorm of two axes, epsilon": (partial(nn.RMSNorm, (2, 5), eps=0.1), (4, 2, 5)),
}


def _normalisations() -> Iterator[LayerModel]:
    for name, (make, shape) in NORMALISATIONS.items():
        before = [partial(nn.Conv1d, 4, 4, 1)] if len(shape) == 2 else []
        head = [Pool] if len(shape) > 1 else []
        yield _named(name, shape, *before, make, nn.Tanh, *head, partial(nn.Linear, 4, 2))


def _bag(net: Any, tokens: Tensor) -> Tensor:
    """Bags as rows of equal length, or as one list with offsets; weighted where the mode allows it."""
    weights = net.weights.to(net.bag.weight) if net.weighted else None
    if net.offsets is None:
        weights = None if weights is None else weights[: tokens.shape[1]].expand(len(tokens), -1)
        found = net.bag(tokens, per_sample_weights=weights)
    else:
        starts = torch.arange(len(tokens) + net.offsets) * tokens.shape[1]
        weights = None if weights is None else weights[: tokens.shape[1]].repeat(len(tokens))
        found = net.bag(tokens.flatten(), starts, per_sample_weights=weights)
    return net.head(found)


def _embeddings() -> Iterator[LayerModel]:
    for shape in ((), (6,), (2, 3)):
        table = partial(nn.Embedding, VOCABULARY, 4)
        layers = [table, *[Mean] * bool(shape), nn.Tanh, partial(nn.Linear, 4, 2)]
        yield _named(f"Embedding {len(shape)}d", shape, *layers, tokens=True)
    for name, options in {
        "padding_idx": {"padding_idx": 2},
        "scale_grad_by_freq": {"scale_grad_by_freq": True},
    }.items():
        table = partial(nn.Embedding, VOCABULARY, 4, **options)
        yield _named(f"Embedding {name}", (9,), table, nn.Tanh, Mean, partial(nn.Linear, 4, 2), tokens=True)
    for mode, offsets, padding, weighted in product(
        ("sum", "mean", "max"), (None, 0, 1), (None, 2), (False, True)
    ):
        if weighted and mode != "sum":
            continue
        options = {"mode": mode, "padding_idx": padding, "include_last_offset": offsets == 1}
        yield LayerModel(
            name=f"EmbeddingBag {mode}, offsets={offsets}, padding_idx={padding}, weighted={weighted}",
            shape=(9,),
            tokens=True,
            build=lambda options=options, offsets=offsets, weighted=weighted: Net(
                _bag,
                bag=nn.EmbeddingBag(VOCABULARY, 4, **options),
                head=nn.Linear(4, 2),
                offsets=offsets,
                weighted=weighted,
                weights=torch.linspace(0.5, 2.0, 9),
            ),
        )


def _recur(net: Any, sequences: Tensor) -> Tensor:
    found, _ = net.layer(sequences if net.layer.batch_first else sequences.transpose(0, 1))
    return net.head(found[:, -1] if net.layer.batch_first else found[-1])


def _recur_from_state(net: Any, sequences: Tensor) -> Tensor:
    """Starts from a state that depends on the record, and answers by the state that it ends in."""
    layers = net.layer.num_layers * (2 if net.layer.bidirectional else 1)
    start = torch.tanh(net.start(sequences[:, 0])).expand(layers, -1, -1)
    state = (start, start) if isinstance(net.layer, nn.LSTM) else start
    _, last = net.layer(sequences, state)
    return net.head(last[1][-1] if isinstance(net.layer, nn.LSTM) else last[-1])


RECURRENT: dict[str, dict[str, Any]] = {
    "plain": {"batch_first": True},
    "time first": {},
    "no bias": {"batch_first": True, "bias": False},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True, "batch_first": True},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.4, "batch_first": True},
}


def _recurrent() -> Iterator[LayerModel]:
    for layer in (nn.RNN, nn.GRU, nn.LSTM, DPRNN, DPGRU, DPLSTM):
        for name, options in RECURRENT.items():
            width = 8 if options.get("bidirectional") else 4
            yield LayerModel(
                name=f"{layer.__name__} {name}",
                shape=(5, 3),
                random="dropout" in options,
                build=lambda layer=layer, options=options, width=width: Net(
                    _recur, layer=layer(3, 4, **options), head=nn.Linear(width, 2)
                ),
            )
    more = {
        "LSTM proj_size": (nn.LSTM, {"proj_size": 4}, 6),
        "RNN relu": (nn.RNN, {"nonlinearity": "relu"}, 4),
    }
    for name, (layer, options, hidden) in more.items():
        yield LayerModel(
            name=name,
            shape=(5, 3),
            build=lambda layer=layer, options=options, hidden=hidden: Net(
                _recur, layer=layer(3, hidden, batch_first=True, **options), head=nn.Linear(4, 2)
            ),
        )
    for layer in (nn.RNN, nn.GRU, nn.LSTM):
        yield LayerModel(
            name=f"{layer.__name__} from a state",
            shape=(5, 3),
            build=lambda layer=layer: Net(
                _recur_from_state,
                layer=layer(3, 4, batch_first=True, bidirectional=True),
                start=nn.Linear(3, 4),
                head=nn.Linear(4, 2),
            ),
        )
    yield LayerModel(
        name="packed LSTM",
        shape=(5, 3),
        build=lambda: Net(_packed, layer=nn.LSTM(3, 4, batch_first=True), head=nn.Linear(4, 2)),
    )
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        yield LayerModel(
            name=cell.__name__,
            shape=(5, 3),
            build=lambda cell=cell: Net(_stepwise, cell=cell(3, 4), head=nn.Linear(4, 2)),
        )


def _packed(net: Any, sequences: Tensor) -> Tensor:
    lengths = torch.where(sequences[:, 0, 0] > 0, 5, 3)
    packed = nn.utils.rnn.pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
    _, (last, _) = net.layer(packed)
    return net.head(last[-1])


def _stepwise(net: Any, sequences: Tensor) -> Tensor:
    state: Any = None
    for step in sequences.unbind(1):
        state = net.cell(step, state)
    return net.head(state[0] if isinstance(state, tuple) else state)


def _attend(net: Any, sequences: Tensor) -> Tensor:
    """Attention of a sequence to itself, or of one made from it to another, with or without masks."""
    query = key = value = sequences if net.attend.batch_first else sequences.transpose(0, 1)
    if net.cross:
        key, value = net.key(query), net.value(query)
    masks: dict[str, Any] = {}
    if net.masked:
        length = sequences.shape[1]
        masks["attn_mask"] = torch.ones(length, length, dtype=torch.bool).triu(1)
        masks["key_padding_mask"] = (torch.arange(length) == length - 1).expand(len(sequences), -1)
    found, _ = net.attend(query, key, value, need_weights=net.weights, **masks)
    return net.head(found.mean(1 if net.attend.batch_first else 0))


ATTENTION: dict[str, dict[str, Any]] = {
    "batch first": {"batch_first": True},
    "time first": {},
    "no bias": {"batch_first": True, "bias": False},
    "bias_kv": {"add_bias_kv": True, "batch_first": True},
    "bias_kv, time first, zero": {"add_bias_kv": True, "add_zero_attn": True},
    "zero": {"add_zero_attn": True, "batch_first": True},
    "other widths": {"kdim": 5, "vdim": 3, "batch_first": True},
    "other widths, bias_kv": {"kdim": 5, "vdim": 3, "add_bias_kv": True},
    "dropout": {"dropout": 0.4, "batch_first": True},
}


def _attention() -> Iterator[LayerModel]:
    for name, options in ATTENTION.items():
        wide = "kdim" in options
        for cross, masked, weights in (
            (False, False, True),
            (True, False, False),
            (False, True, False),
            (True, True, True),
        ):
            if wide and not cross:
                continue
            named = f"MultiheadAttention {name}, cross={cross}, masked={masked}, weights={weights}"
            yield LayerModel(
                name=named,
                shape=(5, 6),
                random="dropout" in options,
                build=lambda options=options, cross=cross, masked=masked, weights=weights: Net(
                    _attend,
                    attend=nn.MultiheadAttention(6, 2, **options),
                    head=nn.Linear(6, 2),
                    cross=cross,
                    masked=masked,
                    weights=weights,
                    **(
                        {
                            "key": nn.Linear(6, options.get("kdim", 6)),
                            "value": nn.Linear(6, options.get("vdim", 6)),
                        }
                        if cross
                        else {}
                    ),
                ),
            )
    for bias in (False, True):
        yield LayerModel(
            name=f"DPMultiheadAttention add_bias_kv={bias}",
            shape=(5, 6),
            build=lambda bias=bias: Net(
                _attend, attend=DPMultiheadAttention(6, 2, add_bias_kv=bias), head=nn.Linear(6, 2),
                cross=False, masked=False, weights=True,
            ),
        )  # fmt: skip
    yield LayerModel(
        name="SequenceBias",
        shape=(5, 6),
        build=lambda: Net(
            lambda net, x: net.head(torch.tanh(net.bias(x)).mean(1)),
            bias=SequenceBias(6, batch_first=True),
            head=nn.Linear(6, 2),
        ),
    )
    for first, norm_first in product((True, False), (True, False)):
        for dropout in (0.0, 0.3):
            yield LayerModel(
                name=f"TransformerEncoder batch_first={first}, norm_first={norm_first}, dropout={dropout}",
                shape=(5, 6),
                random=dropout > 0,
                build=lambda first=first, norm_first=norm_first, dropout=dropout: Net(
                    _encode,
                    encoder=nn.TransformerEncoder(
                        nn.TransformerEncoderLayer(
                            6, 2, 8, dropout=dropout, batch_first=first, norm_first=norm_first
                        ),
                        2,
                        enable_nested_tensor=False,
                    ),
                    head=nn.Linear(6, 2),
                    first=first,
                ),
            )
    yield LayerModel(
        name="TransformerDecoder",
        shape=(5, 6),
        random=True,
        build=lambda: Net(
            lambda net, x: net.head(net.decoder(x, torch.tanh(net.memory(x))).mean(1)),
            decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), 1),
            memory=nn.Linear(6, 6),
            head=nn.Linear(6, 2),
        ),
    )
    yield LayerModel(
        name="Transformer",
        shape=(5, 6),
        build=lambda: Net(
            lambda net, x: net.head(net.whole(x, x.flip(1)).mean(1)),
            whole=nn.Transformer(6, 2, 1, 1, 8, dropout=0.0, batch_first=True),
            head=nn.Linear(6, 2),
        ),
    )


def _encode(net: Any, sequences: Tensor) -> Tensor:
    found = net.encoder(sequences if net.first else sequences.transpose(0, 1))
    return net.head(found.mean(1 if net.first else 0))


class LowRank(nn.Module):
    """A frozen table, and two thin matrices to train beside it (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Embedding(VOCABULARY, 4).requires_grad_(False)
        self.down = nn.Embedding(VOCABULARY, 2)
        self.up = nn.Linear(2, 4, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.base(tokens) + F.linear(F.embedding(tokens, self.down.weight), self.up.weight)


def _tied() -> nn.Module:
    net = Net(
        lambda net, x: net.head(torch.tanh(net.table(x))).mean(1),
        table=nn.Embedding(VOCABULARY, 4),
        head=nn.Linear(4, VOCABULARY, bias=False),
    )
    net.head.weight = net.table.weight
    return Net(lambda outer, x: outer.net(x)[:, :2], net=net)


def _dictionary(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.tanh(x @ net.weights["first"] + net.weights["shift"]))


def _places(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.tanh(x + net.places(torch.arange(x.shape[1]))).mean(1))


def _class_token(net: Any, x: Tensor) -> Tensor:
    x = torch.cat([net.token.expand(len(x), -1, -1), net.embed(x)], dim=1) + net.places
    return net.head(net.encoder(x)[:, 0])


def _time_first(net: Any, x: Tensor) -> Tensor:
    """A time-first stretch, of a length that equals some numbers of rows."""
    return net.head(torch.tanh(net.norm(net.first(x.transpose(0, 1)))).mean(0))


def _unusual() -> Iterator[LayerModel]:
    linear = partial(nn.Linear, 8, 2)
    unusual: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "custom layer": (_chain(partial(nn.Linear, 3, 4), partial(Scale, 4), partial(nn.Linear, 4, 2)), (3,)),
        "unused layer": (
            lambda: Net(lambda net, x: net.used(x), used=linear(), unused=nn.Linear(5, 5)),
            (8,),
        ),
        "used twice": (
            lambda: Net(
                lambda net, x: net.head(net.first(torch.tanh(net.first(x)))),
                first=nn.Linear(8, 8),
                head=linear(),
            ),
            (8,),
        ),
        "child's weight through F.linear": (
            lambda: Net(
                lambda net, x: net.head(2 * F.linear(torch.tanh(net.first(x)), net.first.weight)),
                first=nn.Linear(8, 8),
                head=linear(),
            ),
            (8,),
        ),
        "ParameterDict": (
            lambda: Net(
                _dictionary,
                weights=nn.ParameterDict({"first": torch.randn(8, 8), "shift": torch.randn(8)}),
                head=linear(),
            ),
            (8,),
        ),
        "Parameter": (
            lambda: Net(
                lambda net, x: net.head(torch.tanh(x @ net.w)),
                w=nn.Parameter(torch.randn(8, 8)),
                head=linear(),
            ),
            (8,),
        ),
        "Parameter and dropout": (
            lambda: Net(
                lambda net, x: net.head(F.dropout(torch.tanh(x @ net.w), 0.5, net.training)),
                w=nn.Parameter(torch.randn(8, 8)),
                head=linear(),
            ),
            (8,),
        ),
        "weight_norm": (
            _chain(lambda: parametrizations.weight_norm(nn.Linear(8, 4)), partial(nn.Linear, 4, 2)),
            (8,),
        ),
        "weight_norm of a convolution": (
            _chain(lambda: parametrizations.weight_norm(nn.Conv1d(2, 4, 3)), Pool, partial(nn.Linear, 4, 2)),
            (2, 8),
        ),
        "old weight_norm": (
            _chain(lambda: nn.utils.weight_norm(nn.Linear(8, 4)), partial(nn.Linear, 4, 2)),
            (8,),
        ),
        "shared place embedding": (
            lambda: Net(_places, places=nn.Embedding(5, 6), head=nn.Linear(6, 2)),
            (5, 6),
        ),
        "class token": (
            lambda: Net(
                _class_token,
                token=nn.Parameter(torch.randn(1, 1, 6)),
                places=nn.Parameter(torch.randn(1, 6, 6)),
                embed=nn.Linear(6, 6),
                encoder=nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
                head=nn.Linear(6, 2),
            ),
            (5, 6),
        ),
        "time-first linear": (
            lambda: Net(_time_first, first=nn.Linear(6, 6), norm=nn.LayerNorm(6), head=nn.Linear(6, 2)),
            (5, 6),
        ),
    }
    for name, (build, shape) in unusual.items():
        yield LayerModel(name=name, build=build, shape=shape, random="dropout" in name)
    yield LayerModel(name="tied table", build=_tied, shape=(6,), tokens=True)
    yield LayerModel(
        name="tied through F.linear",
        shape=(6,),
        tokens=True,
        build=lambda: Net(
            lambda net, x: F.linear(torch.tanh(net.table(x)).mean(1), net.table.weight)[:, :2],
            table=nn.Embedding(VOCABULARY, 4),
        ),
    )
    yield _named("LoRA", (6,), LowRank, nn.Tanh, Mean, partial(nn.Linear, 4, 2), tokens=True)


CASES: tuple[LayerModel, ...] = (
    *_convolutions(),
    *_linear(),
    *_normalisations(),
    *_embeddings(),
    *_recurrent(),
    *_attention(),
    *_unusual(),
)
