"""One backward pass against a loop of one pass a record, and against Opacus' hooks, in double precision."""

import copy
import gc
import logging
import math
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import nn
from torch.nn import functional as F

from dptrain.contracts import MadeKernels
from dptrain.privacy.bookkeeping import costs, shares
from dptrain.privacy.bookkeeping.module import BookkeepingModule
from dptrain.privacy.bookkeeping.shares import norms_from
from dptrain.privacy.bookkeeping.uses import NoRule
from dptrain.privacy.clipping import KINDS, Clipper, gradient_norms, scaled
from dptrain.privacy.dpsgd import DPSGDEngine

pytestmark = pytest.mark.run

record_loss = partial(nn.functional.cross_entropy, reduction="none")
WAYS = (costs.KEEP, costs.GRAM, costs.TWICE)
RECORDS = 5


class Mean(nn.Module):
    """Mean over all axes between the first and the last."""

    def forward(self, x):
        return x.flatten(1, -2).mean(1)


class Pool(nn.Module):
    """Mean over all axes after the second."""

    def forward(self, x):
        return x.flatten(2).mean(2)


class Apply(nn.Module):
    """Any function of named modules, to build nets that are no chain."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


class Scale(nn.Module):
    """A layer that neither we nor Opacus know."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2.0, width))

    def forward(self, x):
        return torch.sin(x * self.weight)


def engine_of(kind, model, plan):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return DPSGDEngine(kind, model, optimizer, plan, loss=record_loss, generator=torch.Generator())


def sum_of(kind, model, plan, inputs, labels, copies=1):
    model = copy.deepcopy(model)
    if kind == "hooks":  # Opacus' hooks cannot stand them
        for layer in model.modules():
            if hasattr(layer, "inplace"):
                layer.inplace = False
    engine = engine_of(kind, model, plan)
    engine.accumulate(inputs, labels, copies)
    return engine.total()


def slow_sum(model, plan, inputs, labels, copies=1):
    """The sum of clipped gradients, one backward pass a record."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [parameter for _, parameter in named]
    rows = []
    for one, label in zip(inputs.split(copies), labels.split(copies), strict=True):
        loss = record_loss(model(one), label).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)])
    gradients = [torch.stack(column) for column in zip(*rows, strict=True)]
    clipper = Clipper.by(plan, model)
    factors = clipper.factors(gradient_norms(gradients))
    return torch.cat([scaled(g, f).sum(0).flatten() for g, f in zip(gradients, factors, strict=True)])


@pytest.fixture
def agree(make_plan_of):
    """Check that a net's sums equal those of the slow loop, and of Opacus' hooks where these are right."""

    def check(model, inputs, *, opacus=True, clippings=KINDS, copies=1):
        model = model.double().train()
        labels = torch.arange(RECORDS).repeat_interleave(copies) % 2
        if inputs.is_floating_point():
            inputs = inputs.double()
        whole = slow_sum(model, make_plan_of(max_grad_norm=1e6), inputs, labels, copies)
        limit = 0.5 * float(whole.norm()) / RECORDS  # some records are clipped, some are not
        for clipping in clippings:
            plan = make_plan_of(clipping=clipping, max_grad_norm=limit)
            found = sum_of("bookkeeping", model, plan, inputs, labels, copies)
            slow = slow_sum(model, plan, inputs, labels, copies)
            close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9 * float(slow.abs().max()))
            close(found, slow)
            if opacus:
                close(found, sum_of("hooks", model, plan, inputs, labels, copies))

    return check


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Every way to a norm, whatever the shapes."""
    monkeypatch.setattr(costs, "way", lambda **_: request.param)
    return request.param


def image(*shape, copies=1):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(RECORDS * copies, *shape, generator=generator) * torch.linspace(
        0.3, 3, RECORDS * copies
    ).view(-1, *[1] * len(shape))


def tokens(*shape, vocabulary=7):
    return torch.randint(vocabulary, (RECORDS, *shape), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield


CONVOLUTIONS = [
    {},
    {"stride": 2},
    {"padding": 2},
    {"dilation": 2, "padding": 1},
    {"groups": 2},
    {"groups": 4},
    {"stride": 3, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
    {"padding": "same"},
    {"padding": "valid"},
    {"padding": "same", "kernel_size": 4, "dilation": 3},
    {"padding": 2, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect", "stride": 2},
    {"padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 1, "stride": 2},
]


@pytest.mark.usefixtures("way")
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions(agree, dimensions, options):
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    size = ((11,), (8, 7), (4, 4, 3))[dimensions - 1]
    layer = convolution(4, 8, **{"kernel_size": 3, **options})
    known = options.get("padding_mode", "zeros") == "zeros"  # Opacus always pads by zeros
    # and for three dimensions it reads `same` wrongly where the kernel is even
    known = known and not (dimensions > 1 and options.get("kernel_size") == 4)
    agree(nn.Sequential(layer, nn.Tanh(), Pool(), nn.Linear(8, 2)), image(4, *size), opacus=known,
          clippings=("flat",))  # fmt: skip


@pytest.mark.usefixtures("way")
def test_kernels_and_strides_that_differ_by_axis(agree):
    layer = nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 3))
    agree(nn.Sequential(layer, nn.ReLU(inplace=True), Pool(), nn.Linear(4, 2)), image(2, 7, 9))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 2}, {"dilation": 2, "groups": 3}])
def test_the_channels_of_an_image(agree, options, copies):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, **options), nn.ReLU(), Pool(), nn.Linear(6, 2))
    agree(net, image(3, 8, 7, copies=copies), copies=copies, opacus=copies == 1)


class Halved(MadeKernels):
    """Kernels that are half a squashed weight, times a gain."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.gain = nn.Parameter(torch.linspace(0.5, 2, self.out_channels).view(-1, 1, 1, 1))

    def kernels(self):
        return torch.tanh(self.weight) * self.gain / 2


class Otherwise(Halved):
    """One that does something else with its kernels."""

    def forward(self, x):
        return self._conv_forward(x, self.kernels() ** 2, self.bias)


class Convolved(Halved):
    """One whose convolution is another."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight**2, bias)


@pytest.mark.parametrize("layer", [Halved, Otherwise, Convolved])
@pytest.mark.parametrize("frozen", ["", "gain", "weight", "bias"])
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("channels", [2, 8])
def test_kernels_made_of_other_parameters(agree, layer, frozen, copies, channels):
    first = layer(channels, 4, 3, stride=2, padding=1)
    if frozen:
        getattr(first, frozen).requires_grad_(False)
    net = nn.Sequential(first, nn.Tanh(), Pool(), nn.Linear(4, 2))
    agree(net, image(channels, 7, 6, copies=copies), copies=copies, opacus=copies == 1)


class Unasked(Halved):
    """One that asks nothing of its gain."""

    def kernels(self):
        return torch.tanh(self.weight)


@pytest.mark.parametrize("frozen", ["", "weight"])
def test_a_parameter_without_a_say_in_the_kernels_has_no_gradient(agree, frozen):
    first = Unasked(2, 4, 3)
    if frozen:
        getattr(first, frozen).requires_grad_(False)
    agree(nn.Sequential(first, nn.Tanh(), Pool(), nn.Linear(4, 2)), image(2, 7, 6))


def test_norms_are_of_what_is_summed_whatever_the_precision(monkeypatch):
    monkeypatch.setattr(shares, "BLOCK", 100)  # several blocks
    module = BookkeepingModule(
        nn.Sequential(Halved(2, 4, 3), nn.Tanh(), Pool(), nn.Linear(4, 2)).to(torch.bfloat16)
    )
    with module.recording(RECORDS, 1) as tape:
        tape.backward(module(image(2, 7, 6).to(torch.bfloat16)).float().square().sum())
    for share in tape.shares.values():
        assert share.norms.dtype == torch.float32
        torch.testing.assert_close(share.norms, share.rows().flatten(1).norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("layer", "known"), [(Halved, True), (Unasked, True), (Otherwise, False), (Convolved, False)]
)
def test_only_kernels_used_as_they_are_promised_have_a_rule(layer, known):
    module = BookkeepingModule(nn.Sequential(layer(2, 4, 3), Pool(), nn.Linear(4, 2)))
    assert (module.in_full == {}) is known


@pytest.mark.usefixtures("way")
def test_convolutions_in_a_row_with_activations_in_place(agree):
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=True), Pool(), nn.Linear(6, 2),
    )  # fmt: skip
    agree(net, image(1, 7, 6))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(3,), (6, 3), (2, 4, 3)], ids=len)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_at_any_number_of_positions(agree, shape, bias):
    net = nn.Sequential(nn.Linear(3, 5, bias=bias), nn.ReLU(inplace=True), nn.Linear(5, 4, bias=bias))
    agree(nn.Sequential(net, *[Mean()] * (len(shape) > 1), nn.Linear(4, 2)), image(*shape))


NORMALISATIONS = {
    "group": (nn.GroupNorm(2, 4), (4, 5, 3)),
    "group of one position": (nn.GroupNorm(2, 4), (4,)),
    "instance 1d": (nn.InstanceNorm1d(4, affine=True), (4, 6)),
    "instance 2d": (nn.InstanceNorm2d(4, affine=True), (4, 3, 5)),
    "instance 3d": (nn.InstanceNorm3d(4, affine=True), (4, 2, 3, 2)),
    "layer": (nn.LayerNorm(5), (4, 5)),
    "layer of one position": (nn.LayerNorm(4), (4,)),
    "layer of two axes": (nn.LayerNorm((3, 5)), (4, 3, 5)),
    "layer without shift": (nn.LayerNorm(5, bias=False), (4, 5)),
    "rms": (nn.RMSNorm(5), (4, 5)),
    "rms, epsilon": (nn.RMSNorm(5, eps=0.1), (4, 2, 5)),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation_layers(agree, name):
    layer, shape = NORMALISATIONS[name]
    layer = copy.deepcopy(layer)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    before = nn.Conv1d(4, 4, 1) if len(shape) == 2 else nn.Identity()
    head = nn.Sequential(Pool(), nn.Linear(4, 2)) if len(shape) > 1 else nn.Linear(4, 2)
    known = "without" not in name  # Opacus looks for the shift that is not there
    agree(nn.Sequential(before, layer, nn.Tanh(), head), image(*shape), opacus=known)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)], ids=len)
def test_embeddings(agree, shape):
    net = nn.Sequential(nn.Embedding(7, 4), *[Mean()] * bool(shape), nn.Tanh(), nn.Linear(4, 2))
    agree(net, tokens(*shape))


def test_the_padding_row_of_an_embedding_has_no_gradient(agree):
    net = nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Tanh(), Mean(), nn.Linear(4, 2))
    agree(net, tokens(9), opacus=False)  # Opacus gives it one


def test_a_large_vocabulary_is_never_written_out_a_record():
    net = nn.Sequential(nn.Embedding(100_000, 8), Mean(), nn.Linear(8, 2))
    module = BookkeepingModule(net)
    with module.recording(RECORDS, 1) as tape:
        tape.backward(module(tokens(6, vocabulary=100_000)).sum())
    assert tape.shares[net[0].weight].values.shape == (30, 8)


def test_bags_of_embeddings(agree):
    def forward(net, x):
        return net.head(net.bag(x.flatten(), torch.arange(len(x)) * x.shape[1]))

    # Opacus counts a row once that a bag holds twice; these hold none twice.
    inputs = torch.arange(6).expand(RECORDS, -1) + torch.arange(RECORDS).unsqueeze(1)
    agree(Apply(forward, bag=nn.EmbeddingBag(11, 4), head=nn.Linear(4, 2)), inputs)


def attention(net, x):
    """Scaled dot-product attention from linear layers."""
    query, key, value = (
        layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (net.query, net.key, net.value)
    )
    mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    return net.head(net.norm(x + net.out(mixed.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.usefixtures("way")
def test_attention_from_linear_layers(agree):
    layers = {name: nn.Linear(6, 6) for name in ("query", "key", "value", "out")}
    agree(Apply(attention, **layers, norm=nn.LayerNorm(6), head=nn.Linear(6, 2)), image(5, 6))


@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}], ids=["plain", "bias"])
def test_opacus_attention(agree, options):
    def forward(net, x):
        x = x.transpose(0, 1)
        return net.head(net.attend(x, x, x)[0].mean(0))

    net = Apply(forward, attend=DPMultiheadAttention(6, 2, **options), head=nn.Linear(6, 2))
    agree(net, image(5, 6), opacus=False)  # Opacus takes the wrong axis inside


def test_recurrent_layers(agree):
    net = Apply(lambda net, x: net.head(net.lstm(x)[0][:, -1]), lstm=DPLSTM(3, 4, batch_first=True), head=nn.Linear(4, 2))  # fmt: skip # noqa: E501
    agree(net, image(5, 3))


def test_a_layer_that_nobody_knows_is_formed_in_full(agree):
    agree(nn.Sequential(nn.Linear(3, 4), Scale(4), nn.Linear(4, 2)), image(3))
    module = BookkeepingModule(nn.Sequential(Scale(4), nn.Tanh(), Scale(4), nn.Linear(4, 2)))
    assert module.in_full == {"Scale": ["`0`", "`2`"]}


def test_a_subclass_is_not_taken_for_its_base(agree):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    agree(nn.Sequential(Doubled(3, 4), nn.Tanh(), nn.Linear(4, 2)), image(3))


@pytest.mark.usefixtures("way")
def test_layers_that_are_used_twice(agree):
    again = nn.Linear(4, 4)
    agree(nn.Sequential(nn.Linear(3, 4), again, nn.Tanh(), again, nn.Linear(4, 2)), image(3))


@pytest.mark.usefixtures("way")
def test_convolutions_that_are_used_twice(agree):
    again = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), again, nn.Tanh(), again, Pool(), nn.Linear(4, 2))
    agree(net, image(1, 6, 6))


def test_a_layer_with_two_parents_counts_once_a_use(agree):
    class Parent(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return torch.tanh(self.layer(x))

    shared = nn.Linear(6, 6)
    agree(nn.Sequential(Parent(shared), Parent(shared), nn.Linear(6, 2)), image(6), opacus=False)


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class ChannelsLast(nn.Module):
    """Pooling that leaves images in another order in memory."""

    def forward(self, x):
        return F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("norm", [nn.Identity(), nn.GroupNorm(2, 4)])
def test_images_that_lie_channels_last(agree, norm, copies):
    layers = (nn.Conv2d(2, 4, 3, padding=1), norm, ChannelsLast(), nn.Conv2d(4, 4, 3), norm, Pool())
    model = nn.Sequential(*copy.deepcopy(layers), nn.Linear(4, 2))
    agree(model, image(2, 9, 8, copies=copies), copies=copies)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("padding", [0, 1])
def test_sequences_that_lie_transposed(agree, padding):
    layers = (Transpose(), nn.Conv1d(3, 4, 3, padding=padding), nn.Tanh(), Transpose(), Mean())
    agree(nn.Sequential(*layers, nn.Linear(4, 2)), image(6, 3))


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("records", [1, 5, 64, 101])
@pytest.mark.parametrize("size", [1, 5_000, 400_000, 10**8])
def test_blocks_of_records_share_out_among_threads(monkeypatch, threads, records, size):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows = torch.arange(records)
    blocks = [block for (block,) in shares.in_blocks(size, rows)]
    assert torch.equal(torch.cat(blocks), rows)
    longest = len(blocks[0])
    assert longest * size <= max(2 * shares.BLOCK, shares.LARGEST_BLOCK, size)
    if size * threads <= shares.LARGEST_BLOCK:
        assert all(len(block) % threads == 0 for block in blocks[:-1])


def test_a_step_lets_go_of_its_graph(mlp, splits):
    module = BookkeepingModule(mlp)
    inputs, labels = splits.train.inputs[:4], splits.train.labels[:4]
    tapes = []

    def step(*images):
        with module.recording(4, 1) as tape:
            tapes.append(weakref.ref(tape))
            for each in images:
                tape.backward(record_loss(module(each), labels).sum())

    step(inputs)
    with pytest.raises(RuntimeError, match="shape"):
        step(inputs, inputs[:, :, 1:])
    gc.collect()
    assert [tape() for tape in tapes] == [None, None]


@pytest.mark.usefixtures("way")
def test_layers_that_share_a_parameter(agree):
    """As a text model does that reads and writes by the same table."""
    table, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = table.weight
    agree(
        Apply(lambda net, x: net.head(torch.tanh(net.table(x))).mean(1), table=table, head=head),
        tokens(6),
        clippings=("flat", "automatic"),
    )


def test_branches_that_end_at_the_input_and_one_that_leads_nowhere(agree):
    def forward(net, x):
        net.unused(x)
        return net.head(net.left(x) + net.right(2 * x))

    layers = {name: nn.Linear(3, 4) for name in ("left", "right", "unused")}
    agree(Apply(forward, **layers, head=nn.Linear(4, 2)), image(3), opacus=False)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "3.weight", "4.bias"])
def test_frozen_parameters(agree, frozen):
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Tanh(), nn.GroupNorm(2, 4), nn.Conv1d(4, 4, 3), nn.LayerNorm(4), Pool(),
        nn.Linear(4, 2),
    )  # fmt: skip
    net.get_parameter(frozen).requires_grad_(False)
    agree(net, image(2, 8))


COPIED = {
    "linear": (lambda: nn.Linear(3, 4), (3,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), Mean()), (5, 3)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 4), Pool()), (2, 6, 5)),  # noqa: E501
    "other": (lambda: nn.Sequential(Scale(3), nn.Linear(3, 4)), (3,)),
}  # fmt: skip


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", COPIED)
@pytest.mark.parametrize("copies", [2, 3])
def test_copies_of_a_record_are_averaged_before_clipping(agree, name, copies):
    build, shape = COPIED[name]
    agree(nn.Sequential(build(), nn.Tanh(), nn.Linear(4, 2)), image(*shape, copies=copies), copies=copies)


@pytest.mark.parametrize("kind", ["bookkeeping", "hooks"])
def test_equal_copies_are_as_one_record(mlp, make_plan_of, splits, kind):
    inputs, labels = splits.train.inputs[:6], splits.train.labels[:6]
    once, twice = (engine_of(kind, copy.deepcopy(mlp), make_plan_of(max_grad_norm=0.5)) for _ in range(2))
    loss = once.accumulate(inputs, labels)
    copied = twice.accumulate(inputs.repeat_interleave(2, 0), labels.repeat_interleave(2, 0), 2)
    torch.testing.assert_close(copied, loss)
    torch.testing.assert_close(twice.total(), once.total())


@st.composite
def nets(draw):
    """A small convolutional net, or one over sequences, and an input of one record."""
    width, layers = draw(st.integers(1, 3)), []
    if draw(st.booleans()):
        shape = (width, 9, 8)
        for _ in range(draw(st.integers(1, 3))):
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if width % g == 0]))
            out = groups * draw(st.integers(1, 3))
            kernel = draw(st.integers(1, 3))
            layers.append(
                nn.Conv2d(
                    width, out, kernel, stride=draw(st.integers(1, 2)), padding=draw(st.integers(1, 2)),
                    dilation=draw(st.integers(1, 2)), groups=groups, bias=draw(st.booleans()),
                )
            )  # fmt: skip
            layers.append(draw(st.sampled_from([nn.Identity(), nn.GroupNorm(1, out), nn.InstanceNorm2d(out, affine=True)])))  # fmt: skip # noqa: E501
            layers.append(draw(st.sampled_from([nn.Tanh(), nn.ELU(inplace=True)])))
            width = out
        layers.append(Pool())
    else:
        shape = (draw(st.integers(1, 6)), width)
        for _ in range(draw(st.integers(1, 3))):
            out = draw(st.integers(2, 5))
            layers.append(nn.Linear(width, out, bias=draw(st.booleans())))
            layers.append(draw(st.sampled_from([nn.Identity(), nn.LayerNorm(out), nn.RMSNorm(out)])))
            layers.append(draw(st.sampled_from([nn.Tanh(), nn.ELU(inplace=True)])))
            width = out
        layers.append(Mean())
    return nn.Sequential(*copy.deepcopy(layers), nn.Linear(width, 2)), shape


@settings(max_examples=40, deadline=None)
@given(net=nets(), clipping=st.sampled_from(KINDS), copies=st.integers(1, 2), seed=st.integers(0, 99))
def test_random_nets(make_plan_of, net, clipping, copies, seed):
    model, shape = net
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    inputs = torch.randn(4 * copies, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (4,), generator=generator).repeat_interleave(copies)
    plan = make_plan_of(clipping=clipping, max_grad_norm=0.3)
    found = sum_of("bookkeeping", model, plan, inputs, labels, copies)
    torch.testing.assert_close(found, slow_sum(model, plan, inputs, labels, copies), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        found, sum_of("hooks", model, plan, inputs, labels, copies), rtol=1e-6, atol=1e-8
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_record_that_is_not_finite_spoils_no_sum(make_plan_of, poison):
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), Pool(), nn.Linear(4, 2))
    inputs, labels = image(2, 6, 6), torch.arange(RECORDS) % 2
    kept = torch.arange(RECORDS) != 2
    expected = sum_of("bookkeeping", net, make_plan_of(), inputs[kept], labels[kept])
    inputs[2, 0, 3, 3] = poison
    engine = engine_of("bookkeeping", copy.deepcopy(net), make_plan_of())
    engine.accumulate(inputs, labels)
    torch.testing.assert_close(engine.total(), expected)
    assert engine.optimizer.dropped == 1


def test_tokens_of_a_record_that_is_not_finite(make_plan_of):
    net = nn.Sequential(nn.Embedding(7, 4), Mean(), nn.Linear(4, 2))
    net[0].weight.data[6] = math.nan
    texts, labels = torch.tensor([[0, 1], [2, 6], [3, 3]]), torch.tensor([0, 1, 1])
    found = sum_of("bookkeeping", net, make_plan_of(), texts, labels)
    torch.testing.assert_close(
        found, sum_of("bookkeeping", net, make_plan_of(), texts[[0, 2]], labels[[0, 2]])
    )


@pytest.mark.usefixtures("way")
def test_in_half_precision_norms_are_not_rounded():
    """Sums of one clipped record each: as long as clipping says, to single precision."""
    net = nn.Sequential(nn.Conv1d(2, 16, 3), nn.Tanh(), nn.Conv1d(16, 8, 3), Pool(), nn.Linear(8, 2))
    net = net.bfloat16()
    module = BookkeepingModule(net)
    inputs = image(2, 20).bfloat16()
    with module.recording(RECORDS, 1) as tape:
        tape.backward(module(inputs).float().logsumexp(1).sum())
    for share in tape.shares.values():
        rows = share.rows().double()
        assert share.norms.dtype == torch.float32
        torch.testing.assert_close(share.norms.double(), rows.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-12)
        factors = torch.linspace(0.1, 1, RECORDS)
        expected = torch.einsum("i,i...", factors.double(), rows)
        torch.testing.assert_close(share.weighted(factors).double(), expected, rtol=1e-4, atol=1e-6)


def test_a_gram_norm_is_never_below_what_rounding_hides():
    """Two parts of length 1e4 that all but cancel: the square may come out as anything near zero."""
    assert float(norms_from(torch.tensor([-3.0]), torch.tensor([2e4]))) > 1.0
    torch.testing.assert_close(norms_from(torch.tensor([4.0]), torch.tensor([2.0])), torch.tensor([2.0]))


def test_cancelling_positions_are_clipped_all_the_same(monkeypatch):
    """Inputs far from zero, output gradients that sum to nearly nothing: no record may exceed the bound."""
    monkeypatch.setattr(costs, "way", lambda **_: costs.GRAM)
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    module = BookkeepingModule(layer)
    inputs = 1e4 + torch.randn(3, 32, 64)
    grads = torch.randn(3, 32, 8)
    grads -= grads.mean(1, keepdim=True)
    with module.recording(3, 1) as tape:
        tape.backward((module(inputs) * grads).sum())
    exact = torch.einsum("ntp,ntd->npd", grads.double(), inputs.double()).flatten(1).norm(dim=1)
    assert (tape.shares[layer.weight].norms.double() >= exact * (1 - 1e-6)).all()


def test_a_layer_whose_first_axis_is_not_the_records_is_found_out_and_got_right(agree, caplog, make_plan_of):
    net = Apply(lambda net, x: net.head((x + net.places(torch.arange(4))).mean(1)), places=nn.Embedding(4, 3), head=nn.Linear(3, 2))  # fmt: skip # noqa: E501
    module = BookkeepingModule(net)
    with (
        pytest.raises(NoRule, match=r"layer `places` \(Embedding\) returned \(4, 3\)"),
        module.recording(5, 1),
    ):
        module(image(4, 3))
    module.unhook()
    agree(net, image(4, 3), opacus=False)
    with caplog.at_level(logging.INFO, logger="dptrain"):
        sum_of("bookkeeping", net, make_plan_of(), image(4, 3), torch.zeros(RECORDS, dtype=torch.int64))
    assert "layer `places` returns (4, 3)" in caplog.text
    assert "of the whole model are formed in full, which is slower" in caplog.text


def test_an_input_that_is_modified_after_use_is_refused():
    module = BookkeepingModule(nn.Sequential(nn.Linear(3, 2)))
    inputs = image(3)
    with module.recording(RECORDS, 1) as tape:
        loss = module(inputs).sum()
        inputs.zero_()
        with pytest.raises(RuntimeError, match="`0`: its input was modified in place"):
            tape.backward(loss)


def test_nothing_is_noted_outside_of_a_step(mlp, make_plan_of, splits):
    engine = engine_of("bookkeeping", mlp, make_plan_of())
    engine.accumulate(splits.train.inputs[:4], splits.train.labels[:4])
    assert engine.gradients.module.tape is None
    mlp(splits.train.inputs[:7]).sum().backward()
    assert all(p.grad is not None for p in mlp.parameters())


def test_a_model_is_hooked_once(mlp):
    BookkeepingModule(mlp)
    with pytest.raises(ValueError, match="hooked already"):
        BookkeepingModule(mlp)
