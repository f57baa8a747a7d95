"""Where every random number comes from."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import torch

KEY_BYTES = 32


@dataclass(frozen=True)
class Streams:
    """Where every random number comes from.

    Model initialisation, data generation and attacks draw from `seeded` streams, one a
    purpose, reproducible from the public seed. Sampling, noise, masks and augmentation draw from
    generators with a `secret` key from the operating system; a `deterministic` run (for tests) derives
    those from the public seed too, and its guarantee is void.
    """

    seed: int
    deterministic: bool = False
    randomness: str = "auto"  # of noise on a GPU: its own generator, or `cryptographic`: the CPU's

    def seeded(self, purpose: str) -> torch.Generator:
        """A CPU generator that depends on the public seed and the purpose alone."""
        generator = torch.Generator()
        generator.manual_seed(_mix(self.seed, purpose))
        return generator

    def secret(self, purpose: str) -> bytes:
        """256 bits that nobody knows, new at each call, unless the run is deterministic."""
        if self.deterministic:
            return hashlib.sha256(f"secret/{self.seed}/{purpose}".encode()).digest()
        return secrets.token_bytes(KEY_BYTES)


def _mix(seed: int, purpose: str) -> int:
    """Derive a 63-bit seed from a seed and a word."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
