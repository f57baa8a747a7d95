"""Noise is Gaussian far beyond what matters, from a cipher's key stream of which no part is used twice."""

import math
import struct

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, norm

from dptrain.contracts import DptrainError
from dptrain.privacy.noise import keys
from dptrain.privacy.noise.gaussian import (
    FINENESS,
    LARGEST,
    LEVELS,
    REACH,
    TAIL,
    gaussian,
    grid_step,
    noisy_on_grid,
)
from dptrain.privacy.noise.keys import KeyChain, Stream, words
from dptrain.privacy.noise.source import BLOCK, DeviceWords, NoiseSource, on_cpu

pytestmark = pytest.mark.run

KEY = bytes(range(32))
ADDRESS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))  # level, block


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439, section 2.3, word for word: 64 bytes of key stream."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    state = list(start)

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for target, added, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[target] = (state[target] + state[added]) & 0xFFFFFFFF
            state[mixed] = rotate(state[mixed] ^ state[target], bits)

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for column in range(4):
            a = (column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
            quarter(*a)
    mixed = (x + y & 0xFFFFFFFF for x, y in zip(state, start, strict=True))
    return struct.pack("<16I", *mixed)


def test_the_reference_agrees_with_the_standards_own_example() -> None:
    nonce = bytes.fromhex("000000090000004a00000000")
    assert chacha20_block(KEY, 1, nonce)[:16] == bytes.fromhex("10f1e7e4d13b5915500fdd1fa32071c4")


@pytest.mark.parametrize(("level", "block"), [(0, 0), (0, 5), (3, 2**40 + 7), (2**32 - 1, 2**64 - 1)])
def test_words_are_the_ciphers_key_stream(level: int, block: int) -> None:
    nonce = struct.pack("<IQ", level, block)
    stream = b"".join(chacha20_block(KEY, counter, nonce) for counter in range(40))
    drawn = words(KEY, 313, block=block, level=level)
    assert drawn.numpy().tobytes() == stream[: 8 * 313]


@given(ADDRESS, ADDRESS)
def test_no_two_addresses_share_a_part_of_the_key_stream(one, other) -> None:
    """Two nonces, and no counter runs into the next: 2^32 states of 8 words are more than a block takes."""
    (level, block), (other_level, other_block) = one, other
    assert (struct.pack("<IQ", level, block) == struct.pack("<IQ", other_level, other_block)) == (
        one == other
    )
    first, second = (
        words(KEY, 24, block=block, level=level),
        words(KEY, 24, block=other_block, level=other_level),
    )
    if one != other:
        assert not set(first.tolist()) & set(second.tolist())
    assert BLOCK <= keys.MOST_WORDS == 2**32 * 8


def test_more_than_the_counter_can_provide_is_never_asked_for() -> None:
    with pytest.raises(AssertionError):
        words(KEY, keys.MOST_WORDS + 1, block=0)


def test_a_chain_goes_on_from_its_state_and_tells_nothing_of_what_was_drawn() -> None:
    chain = KeyChain(KEY)
    drawn = [chain.next() for _ in range(3)]
    state = chain.state_dict()
    told = bytes.fromhex(state["key"])
    assert state["step"] == 3
    assert told not in (KEY, *drawn)
    assert KEY not in vars(chain).values()  # nor does it remember
    other = KeyChain(bytes(32))
    other.load_state_dict(state)
    later = [chain.next() for _ in range(4)]
    assert [other.next() for _ in range(4)] == later
    assert len({KEY, told, *drawn, *later}) == 9


def test_the_state_of_another_version_is_refused() -> None:
    old = [torch.Generator().get_state(), {"generator": 1}, {"key": "00" * 32, "step": 1, "drawn_by": "gaps"}]
    for state in old:
        with pytest.raises(DptrainError, match=r"drawn by another version of dptrain, .* start a new run"):
            KeyChain(KEY).load_state_dict(state)


def test_a_stream_asks_every_time_for_new_words() -> None:
    stream = Stream(KEY)
    drawn = torch.cat([stream.words(3), stream.uniform(2, 4).flatten().to(torch.int64), stream.words(0)])
    assert len(set(stream.words(100).tolist()) & set(drawn.tolist())) == 0
    uniform = Stream(KEY).uniform(40, 50)
    assert (uniform.shape, uniform.dtype) == ((40, 50), torch.float64)
    assert torch.equal(uniform * 2**53, (uniform * 2**53).round())
    assert kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("count", [2**15 - 1, 2**15, 2**15 + 13, 2**17])
def test_many_words_are_the_same_however_many_threads_there_are(count: int) -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(words(KEY, count, block=7, level=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    place = count // 2 // 8 * 8  # a state of the cipher near the middle
    state = chacha20_block(KEY, place // 8, struct.pack("<IQ", 1, 7))
    assert found[1][place : place + 8].numpy().tobytes() == state


class Script:
    """Hands out words that were thought out in advance."""

    def __init__(self, *levels: int) -> None:
        self.levels, self.asked = levels, 0

    def __call__(self, level: int, count: int) -> torch.Tensor:
        assert level == self.asked + 1
        self.asked = level
        given = self.levels[level - 1] if level <= len(self.levels) else 0
        return torch.full((count,), given, dtype=torch.int64)


def one(word: int, *more: int) -> tuple[float, int]:
    """The number of this word, and how many further words it took."""
    script = Script(*more)
    return float(gaussian(torch.tensor([word]), script)), script.asked


def exact(share: mpmath.mpf) -> float:
    """How many standard deviations this share of both tails lies beyond."""
    with mpmath.workprec(200):
        logarithm = mpmath.log(share)
        size = mpmath.sqrt(max(-2 * logarithm, mpmath.mpf(2) ** -60))
        for _ in range(200):
            left = mpmath.erfc(size / mpmath.sqrt(2))
            step = (
                (mpmath.log(left) - logarithm)
                * left
                / (mpmath.sqrt(2 / mpmath.pi) * mpmath.exp(-(size**2) / 2))
            )
            size += step
            if abs(step) < mpmath.mpf(2) ** -90 * size:
                break
        return float(size)


def test_the_ends_and_the_middle() -> None:
    assert one(0)[0] == 0.0
    assert one(-(2**63))[0] == -one(2**63 - 1)[0]  # as far out as the levels reach
    assert REACH < one(2**63 - 1)[0] < 40
    assert one(2**63 - 1)[1] == LEVELS
    assert one(2**62)[0] == pytest.approx(norm.isf(0.25), rel=1e-15)
    assert one(-(2**62))[0] == -one(2**62)[0]


@pytest.mark.parametrize("bits", [1, 6, 10, 17, 18, 19, 30, 52, 53, 54, 62])
def test_far_out_more_bits_are_taken(bits: int) -> None:
    word = 2**63 - 2 ** (63 - bits)
    size, asked = one(word, 2**62)
    with mpmath.workprec(300):
        left = mpmath.mpf(2) ** -bits - (mpmath.mpf(2) ** -63 - mpmath.mpf(2) ** -64 if bits > 18 else 0)
    assert size == pytest.approx(exact(left), rel=2.0**-48)
    assert asked == (1 if bits > 18 else 0)


@pytest.mark.parametrize("levels", [1, 2, 7, 13])
def test_words_that_are_all_zeros_are_followed_by_others(levels: int) -> None:
    """The share beyond is 2^-63 for each, times the next word's: exact to a double's 53 bits."""
    size, asked = one(2**63 - 1, *[0] * (levels - 1), 3 * 2**60)
    assert asked == levels
    with mpmath.workprec(1200):
        assert size == pytest.approx(exact(mpmath.mpf(2) ** (-63 * (levels + 1)) * 3 * 2**60), rel=2.0**-48)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_word_is_within_what_the_cost_assumes(word: int) -> None:
    """The perturbation that `cost` bounds: both ends of the word's interval, mapped in 200 bits."""
    other = 2**61 + 12345
    found, _ = one(word, other)
    magnitude = word + 2**63 if word < 0 else 2**63 - 1 - word
    with mpmath.workprec(300):
        if magnitude < 2**63 * TAIL / 2:
            left = (mpmath.mpf(magnitude) + mpmath.mpf(other) / 2**63) / 2**63
            true = exact(left) if left < 1 else 0.0
        else:
            true = (
                exact((mpmath.mpf(magnitude) + mpmath.mpf(1) / 2) / 2**63) if magnitude < 2**63 - 1 else 0.0
            )
    assert abs(abs(found) - true) <= 2.0**-50 * (abs(found) + 1) + 2.0**-52
    assert found == 0.0 or (found < 0) == (word < 0)


def numbers(count: int, key: bytes = KEY) -> torch.Tensor:
    source = NoiseSource(key)
    full = [source.numbers(key, BLOCK, block=block) for block in range(count // BLOCK)]
    return torch.cat(full)


def test_numbers_are_normal_in_the_middle_and_in_the_tails() -> None:
    drawn = numbers(64 * BLOCK)
    assert kstest(drawn[: 2**20].numpy(), norm.cdf).pvalue > 1e-3
    for limit in (0.5, 1.0, 2.0, 3.0, 4.0, 4.62, 5.0):
        for tail in (drawn > limit, drawn < -limit):
            assert binomtest(int(tail.sum()), len(drawn), norm.sf(limit)).pvalue > 1e-4
    assert abs(float(drawn.mean())) < 4 / len(drawn) ** 0.5
    assert float(drawn.var()) == pytest.approx(1.0, abs=4 * (2 / len(drawn)) ** 0.5)
    assert abs(float((drawn[1:] * drawn[:-1]).mean())) < 4 / len(drawn) ** 0.5


def test_a_gpus_way_is_the_same_from_another_generator() -> None:
    source = NoiseSource(KEY, words=DeviceWords(torch.device("cpu")))
    drawn = torch.cat([source.numbers(KEY, BLOCK, block=block) for block in range(8)])
    assert kstest(drawn.numpy(), norm.cdf).pvalue > 1e-3
    assert torch.equal(drawn[BLOCK : BLOCK + 9], source.numbers(KEY, 9, block=1))
    assert not torch.equal(drawn[:9], drawn[BLOCK : BLOCK + 9])


@pytest.mark.parametrize(("device", "randomness", "expected"), [
    ("cpu", "auto", True), ("cpu", "cryptographic", True), ("mps", "auto", True),
    ("cuda", "auto", False), ("cuda", "cryptographic", True),
])  # fmt: skip
def test_where_noise_is_drawn(device: str, randomness: str, expected: bool) -> None:
    assert on_cpu(torch.device(device), randomness) is expected


def test_the_same_numbers_whatever_the_threads_the_order_and_the_tensors() -> None:
    sizes = [(BLOCK - 5,), (3, 4), (1,), (BLOCK + 7,), (0,), (11,)]
    sums = [torch.zeros(size) for size in sizes]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.cat([part.flatten() for part in NoiseSource(KEY).add(sums, 1.0)]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    together = NoiseSource(KEY).add([torch.zeros(len(found[0]))], 1.0)[0]
    assert torch.equal(together, found[0])
    backwards = [NoiseSource(KEY).numbers(KeyChain(KEY).next(), BLOCK, block=block) for block in (1, 0)]
    expected = torch.cat([backwards[1], backwards[0]])
    assert torch.equal(
        together[: 2 * BLOCK], noisy_on_grid(torch.zeros(2 * BLOCK).double(), expected, 1.0).float()
    )


def test_each_step_has_its_own_noise_and_a_resumed_one_the_same() -> None:
    source, sums = NoiseSource(KEY), [torch.zeros(100)]
    first = source.add(sums, 1.0)[0]
    state = source.state_dict()
    second = source.add(sums, 1.0)[0]
    assert not (first == second).any() or (first == second).float().mean() < 0.2  # the grid is coarse
    again = NoiseSource(bytes(32))
    again.load_state_dict(state)
    assert torch.equal(again.add(sums, 1.0)[0], second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_keep_their_type_and_shape_and_are_left_alone(dtype: torch.dtype) -> None:
    sums = [
        torch.ones(2, 3, 4, 5, dtype=dtype).contiguous(memory_format=torch.channels_last),
        torch.ones((), dtype=dtype),
    ]
    noisy = NoiseSource(KEY).add(sums, 0.5)
    assert [(n.shape, n.dtype) for n in noisy] == [(s.shape, s.dtype) for s in sums]
    assert all((total == 1.0).all() for total in sums)
    assert not any((result == 1.0).all() for result in noisy)
    assert all((result == 1.0).all() for result in NoiseSource(KEY).add(sums, 0.0))


def double(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


FINITE = st.floats(-1e30, 1e30, allow_subnormal=False)


@given(FINITE, st.floats(-13.0, 13.0), st.floats(1e-6, 1e6))
def test_everything_lies_on_the_grid_and_the_sums_size_does_not_round_the_noise(total, number, std) -> None:
    step = grid_step(std)
    assert step <= std / FINENESS < 2 * step
    assert math.log2(step) == int(math.log2(step))

    def at(value: float) -> float:
        return float(noisy_on_grid(double(value), double(number), std))

    if abs(total) < 2.0**50 * step:
        assert at(total) == step * round(at(total) / step)
        assert abs(at(total) - total - std * number) <= step / 2 + 1e-9 * step + abs(total) * 2.0**-52
    whole = step * round(min(max(total / step, -(2.0**50)), 2.0**50))
    assert at(whole) - whole == at(0.0)


@pytest.mark.parametrize("total", [math.inf, -math.inf, math.nan, 1e300, -1e300, 5e-324])
def test_a_sum_that_clipping_rules_out_does_no_harm(total: float) -> None:
    found = float(noisy_on_grid(double(total), double(1.0), 1.0))
    assert math.isfinite(found)
    assert abs(found) <= (LARGEST + 100) * grid_step(1.0)
    if math.isnan(total):
        assert found == 1.0


def test_rounding_adds_no_more_than_is_said() -> None:
    drawn = numbers(16 * BLOCK)
    rounded = noisy_on_grid(torch.full_like(drawn, 0.3), drawn, 1.0) - 0.3
    assert float((rounded - drawn).var()) == pytest.approx(grid_step(1.0) ** 2 / 12, rel=0.01)
    assert grid_step(1.0) ** 2 / 12 < 2.1e-5
