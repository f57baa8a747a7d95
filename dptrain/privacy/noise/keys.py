"""Secret random words from ChaCha20, addressed by step, block and level; the key moves on at each step."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

from dptrain.contracts import DptrainError
from dptrain.contracts.randomness import KEY_BYTES

GENERATOR = "ChaCha20 (RFC 8439)"
DRAWN_BY = "ChaCha20, a key a step"  # changes when one state comes to mean other draws
MOST_WORDS = 2**35  # of one block and level: 2^32 states of the cipher's counter, 64 bytes each

_zeros = memoryview(b"")


def words(key: bytes, count: int, *, block: int, level: int = 0) -> Tensor:
    """`count` 64-bit words (count,), int64 over its whole range, from this address under a step's key.

    The cipher's 96-bit nonce is the level (32 bits) and the block (64 bits), and its counter starts at 0:
    two addresses have two nonces, so that no part of the key stream is ever used twice.
    """
    global _zeros
    assert 0 <= count <= MOST_WORDS, "the cipher's counter would begin again"
    if len(_zeros) < 8 * count:
        _zeros = memoryview(bytes(8 * count))
    drawn = torch.empty(count, dtype=torch.int64)
    if count:
        cipher = Cipher(algorithms.ChaCha20(key, struct.pack("<IIQ", 0, level, block)), mode=None)
        cipher.encryptor().update_into(_zeros[: 8 * count], drawn.numpy().data.cast("B"))
    return drawn


def key_from(generator: torch.Generator) -> bytes:
    """A key from a generator of PyTorch's, for tests and benchmarks: as secret as that is."""
    drawn = torch.randint(256, (KEY_BYTES,), generator=generator, device=generator.device)
    return bytes(drawn.tolist())


class KeyChain:
    """A secret key that a one-way function (HMAC-SHA256) moves on at each step, which draws from its own.

    Its state tells all draws to come and none that was made: what is in a checkpoint does not undo
    the noise of the steps before it.
    """

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self.step = 0

    def next(self) -> bytes:
        """The key of this step's draws; the chain moves on and forgets."""
        drawing = hmac.digest(self._key, b"dptrain: draw", hashlib.sha256)
        self._key = hmac.digest(self._key, b"dptrain: next", hashlib.sha256)
        self.step += 1
        return drawing

    def sealing(self) -> bytes:
        """A key of this step for a tag, which tells nothing of its draws."""
        return hmac.digest(self._key, b"dptrain: seal", hashlib.sha256)

    def state_dict(self) -> dict[str, Any]:
        return {"key": self._key.hex(), "step": self.step, "drawn_by": DRAWN_BY}

    def load_state_dict(self, state: Any) -> None:
        """Take this state; raises DptrainError where it would foretell other draws than it once did.

        A step repeated with the same noise but other records, or the reverse, would give both away.
        """
        if not isinstance(state, dict) or state.get("drawn_by") != DRAWN_BY:
            raise DptrainError(
                "resume: this run's batches and noise were drawn by another version of dptrain, and its "
                "steps cannot be repeated with the same draws by this one; resume it with that version, or "
                "start a new run"
            )
        self._key, self.step = bytes.fromhex(state["key"]), state["step"]


class Stream:
    """One step's random numbers, in the order in which they are asked for."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._asked = 0

    def words(self, count: int) -> Tensor:
        """64-bit words (count,), int64 over its whole range."""
        drawn = words(self._key, count, block=self._asked)
        self._asked += 1
        return drawn

    def uniform(self, *shape: int) -> Tensor:
        """Multiples of 2^-53 from 0 to below 1, float64, each as likely."""
        drawn = self.words(torch.Size(shape).numel())
        # Shifting keeps the sign: the top bit goes first.
        drawn.bitwise_right_shift_(11).bitwise_and_(2**53 - 1)
        return drawn.to(torch.float64).mul_(2.0**-53).view(shape)
