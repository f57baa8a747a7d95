"""Secret random words from ChaCha20, addressed by step, block and level; the key moves on at each step."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

from dptrain.contracts import DptrainError
from dptrain.contracts.randomness import KEY_BYTES

GENERATOR = "ChaCha20 (RFC 8439)"
DRAWN_BY = "ChaCha20, a key a step"  # changes when one state comes to mean other draws
WORDS_A_STATE = 8
SHARED = 2**15  # so many words, and two threads share them
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
    zeros, drawn = _zeros, torch.empty(count, dtype=torch.int64)
    if count == 0:
        return drawn
    stream = drawn.numpy().data.cast("B")

    def fill(start: int, stop: int) -> None:
        """These words, the first of which begins a state of the cipher's counter."""
        nonce = struct.pack("<IIQ", start // WORDS_A_STATE, level, block)
        cipher = Cipher(algorithms.ChaCha20(key, nonce), mode=None)
        cipher.encryptor().update_into(zeros[: 8 * (stop - start)], stream[8 * start : 8 * stop])

    half = count // (2 * WORDS_A_STATE) * WORDS_A_STATE
    if count >= SHARED and torch.get_num_threads() > 1:
        other = _helper().submit(fill, half, count)
        fill(0, half)
        other.result()
    else:
        fill(0, count)
    return drawn


@cache
def _helper() -> ThreadPoolExecutor:
    """A thread that draws the second half of many words: the cipher lets go of the interpreter."""
    return ThreadPoolExecutor(1, thread_name_prefix="noise")


os.register_at_fork(after_in_child=_helper.cache_clear)  # where its thread is not


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
        return (
            drawn.bitwise_right_shift_(11)
            .bitwise_and_(2**53 - 1)
            .to(torch.float64)
            .mul_(2.0**-53)
            .view(shape)
        )

    def permutation(self, count: int) -> Tensor:
        """The numbers below `count` in random order: sorted by a random word each."""
        return torch.argsort(self.words(count), stable=True)
