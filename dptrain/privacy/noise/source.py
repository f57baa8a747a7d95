"""Adds a step's noise to sums of gradients, from a chain of secret keys, and what a statement says of it."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from cryptography.hazmat.primitives.poly1305 import Poly1305
from torch import Tensor

from dptrain.contracts import Randomness, devices
from dptrain.privacy.noise import keys
from dptrain.privacy.noise.gaussian import REACH, gaussian, grid_step, noisy_on_grid
from dptrain.privacy.noise.keys import KeyChain

BLOCK = 2**17  # coordinates that one address under a step's key provides for


class Words(Protocol):
    """Draws 64-bit words (count,), int64 over its whole range, from an address under a step's key."""

    def __call__(self, key: bytes, count: int, *, block: int, level: int) -> Tensor: ...


class DeviceWords:
    """Words from a device's own generator (Philox on a GPU), seeded at each address by a 64-bit hash."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)

    def __call__(self, key: bytes, count: int, *, block: int, level: int) -> Tensor:
        digest = hmac.digest(key, struct.pack("<IQ", level, block), hashlib.sha256)
        self._generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        drawn = torch.empty(count, dtype=torch.int64, device=self._generator.device)
        return drawn.random_(-(2**63), None, generator=self._generator)


def on_cpu(device: torch.device, randomness: str) -> bool:
    """Whether the noise of parameters on this device comes from the CPU's cryptographic generator.

    `randomness` is `auto` or `cryptographic`. MPS knows no double precision, so its noise does too.
    """
    return randomness == "cryptographic" or not devices.fills_noise(device)


def words_on(device: torch.device, randomness: str) -> Words:
    """Where the noise of parameters on this device comes from."""
    return keys.words if on_cpu(device, randomness) else DeviceWords(device)


class NoiseSource:
    """Adds Gaussian noise to sums of gradients; each `add` is one step, with a key of its own.

    Coordinates are numbered over all tensors in their order, and each block of 2^17 of them has its own
    address under the step's key: neither threads nor processes nor the order of calls matter.
    """

    def __init__(self, key: bytes, *, words: Words = keys.words) -> None:
        self._keys = KeyChain(key)
        self._words = words

    @classmethod
    def on(cls, device: torch.device, key: bytes, *, randomness: str = "auto") -> NoiseSource:
        """A source for parameters on this device; `randomness` is `auto` or `cryptographic`."""
        return cls(key, words=words_on(device, randomness))

    @classmethod
    def of(cls, source: NoiseSource | torch.Generator) -> NoiseSource:
        """This source; for tests and benchmarks also one with a key from a generator of PyTorch's."""
        return source if isinstance(source, NoiseSource) else cls(keys.key_from(source))

    def add(self, sums: list[Tensor], std: float) -> list[Tensor]:
        """These sums with noise of this standard deviation, on its grid: contiguous, of the sums' dtype."""
        flat = torch.cat([total.reshape(-1) for total in sums])
        self._add(self.next_key(), [flat], [0], std, size=len(flat))
        parts = flat.split([total.numel() for total in sums])
        return [part.view(total.shape).to(total.dtype) for part, total in zip(parts, sums, strict=True)]

    def normal(self, count: int) -> Tensor:
        """Standard normal numbers (count,), float64, of a step of its own; on no grid, not to be released."""
        key = self.next_key()
        sizes = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
        return torch.cat([self.numbers(key, size, block=block) for block, size in enumerate(sizes)])

    def next_key(self) -> bytes:
        """The key of the next step's noise, which is drawn with it alone."""
        return self._keys.next()

    def add_to_parts(
        self, key: bytes, parts: Sequence[Tensor], starts: Sequence[int], std: float, *, size: int
    ) -> list[Tensor]:
        """Parts (n,) of a sum of `size` coordinates, each from where it starts, with this step's noise.

        They come in the order of coordinates. A coordinate's noise is the same whatever the parts are, and
        whoever adds it.
        """
        noisy = [part.clone() for part in parts]
        self._add(key, noisy, starts, std, size=size)
        return noisy

    def _add(
        self, key: bytes, parts: Sequence[Tensor], starts: Sequence[int], std: float, *, size: int
    ) -> None:
        """Add this step's noise to these parts in place; a block that several of them share is drawn once."""
        if std <= 0.0:
            return
        drawn, numbers = -1, torch.empty(0)
        for part, start in zip(parts, starts, strict=True):
            done = 0
            while done < len(part):
                block, first = divmod(start + done, BLOCK)
                if block != drawn:
                    drawn, numbers = block, self.numbers(key, min(BLOCK, size - block * BLOCK), block=block)
                some = part[done : done + BLOCK - first]
                own = numbers[first : first + len(some)]
                some.copy_(noisy_on_grid(some.to(own), own, std))
                done += len(some)

    def numbers(self, key: bytes, count: int, *, block: int) -> Tensor:
        """Standard normal numbers (count,), float64: the first of this block under this step's key."""
        return gaussian(
            self._words(key, count, block=block, level=0),
            lambda level, few: self._words(key, few, block=block, level=level),
        )

    def seal(self, content: memoryview | bytes) -> bytes:
        """A tag (Poly1305, RFC 8439) of what the next noise will be added to, under a key of that step."""
        return Poly1305.generate_tag(self._keys.sealing(), content)

    def seal_of_part(self, number: int) -> bytes:
        """A key of the next step for the tag of a part; one key is for one content alone."""
        return hmac.digest(self._keys.sealing(), struct.pack("<Q", number), hashlib.sha256)

    def renew(self, key: bytes, *, skipped: int) -> None:  # noqa: ARG002
        """Draw from another key from now on, after so many steps that are lost."""
        self._keys = KeyChain(key)

    def state_dict(self) -> dict[str, Any]:
        return self._keys.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._keys.load_state_dict(state)


PHILOX = "the GPU's own generator (Philox), seeded at each address with 64 bits of a hash of a secret key"


class Noisy(Protocol):
    """A plan that adds Gaussian noise: of this standard deviation, what is drawn anew for a number."""

    @property
    def fresh_std(self) -> float: ...


def randomness(plan: Noisy, draws: int, *, on_cpu: bool, secret: bool, sampled: bool = True) -> Randomness:
    """What is said of the noise of this plan, `draws` numbers in all; the guarantee adds what it costs.

    Where nothing is `sampled`, no masks are drawn either.
    """
    generator = keys.GENERATOR if on_cpu else PHILOX
    return Randomness(
        secret=secret,
        cryptographic=on_cpu,
        source=f"{generator}; keyed by {'the operating system' if secret else 'the public seed'}",
        generator=f"{generator}; normal numbers by inversion, in double precision",
        reach=REACH,
        draws=draws,
        grid=grid_step(plan.fresh_std) / plan.fresh_std if plan.fresh_std > 0 else None,
        assumptions=assumptions(on_cpu=on_cpu, sampled=sampled),
    )


def assumptions(*, on_cpu: bool, sampled: bool = True) -> tuple[str, ...]:
    """What is taken to be true without proof, one sentence or two each."""
    cipher = (
        "ChaCha20 and HMAC-SHA256 are taken to be indistinguishable from random functions, and the operating "
        "system's random numbers to be secret: noise is then as good as truly random."
    )
    if not on_cpu:
        cipher = (
            "The GPU's generator (Philox, seeded with 64 secret bits for every 131072 numbers) is not "
            "cryptographic and is taken to be as good as random; privacy.randomness=cryptographic draws "
            "the noise on the CPU. Samples are drawn by ChaCha20, which is taken to be so too."
        )
    noise = (
        cipher,
        "Double-precision arithmetic rounds as IEEE 754 says, and the libraries' inverse error and normal "
        "functions are taken to be right to 2^-50 of their value: the noise's cost is bounded under this.",
    )
    if not sampled:
        return noise
    return (
        *noise,
        "Poisson sampling keeps to its rate within 2^-43 over the rate, relative: taken to be exact.",
        "Dropout masks and augmentations are part of the secret: with their draws known, one record changes "
        "those of all others. PyTorch's default generators draw them, from states that secret words fill "
        "anew at each step. Draws of a model's own from Python, NumPy or other generators are not covered.",
    )
