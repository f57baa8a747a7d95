"""Where every random number comes from."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """Where every random number comes from.

    Model initialisation, data generation and attacks draw from `seeded` streams, one a
    purpose, reproducible from the public seed. Sampling and noise draw from `secret`
    streams, seeded by the operating system; a `deterministic` run (for tests) derives those
    from the public seed too, and its guarantee is void.
    """

    seed: int
    deterministic: bool = False

    def seeded(self, purpose: str) -> torch.Generator:
        """A CPU generator that depends on the public seed and the purpose alone."""
        generator = torch.Generator()
        generator.manual_seed(_mix(self.seed, purpose))
        return generator

    def secret(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator whose seed nobody knows, unless the run is deterministic."""
        generator = torch.Generator(device=device)
        if self.deterministic:
            generator.manual_seed(_mix(self.seed, purpose))
            return generator
        generator.manual_seed(secrets.randbits(63))
        if generator.device.type == "cpu":
            _fill_mersenne_twister(generator)
        return generator


def _fill_mersenne_twister(generator: torch.Generator) -> None:
    """Fill all 624 words from the operating system: `manual_seed` keeps 32 bits, few enough to try."""
    words = 624
    state = generator.get_state()
    drawn = torch.frombuffer(bytearray(secrets.token_bytes(4 * words)), dtype=torch.uint32)
    # A seed, two counters and a position come first (24 bytes), then one 64-bit integer a word.
    state[24 : 24 + 8 * words] = drawn.to(torch.int64).view(torch.uint8)
    generator.set_state(state)


def _mix(seed: int, purpose: str) -> int:
    """Derive a 63-bit seed from a seed and a word."""
    import hashlib

    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
