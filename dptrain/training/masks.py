"""Secret generator state for dropout masks and augmentation, which draw from PyTorch's default generators."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from dptrain.contracts import ConfigError
from dptrain.privacy.noise.keys import KeyChain, Stream

DRAWN_BY = "a key a physical batch"  # changes when one state comes to mean other masks
AFTER = -1  # the block of what is drawn once a step is taken
WORDS = 624  # of a Mersenne Twister, PyTorch's default generator on the CPU


class Masks:
    """Random numbers of a training's forward passes: secret, and their own at each step.

    A mask depends on where a record stands in its batch, so that with the draws known one record more or
    less would change the masks of all the others. So the default generators' whole state is derived from
    a secret key while a batch is computed, and put back as it was afterwards: what anybody else
    does with them, in a constructor, a data class or a callback, neither reaches a mask nor notices one.
    """

    def __init__(self, key: bytes, device: torch.device) -> None:
        self._keys = KeyChain(key)
        self._device = device
        self.step_key: bytes | None = None

    @classmethod
    def of_step(cls, key: bytes, device: torch.device) -> Masks:
        """Those of a single step, by the key of it alone."""
        masks = cls(key, device)
        masks.step_key = key
        return masks

    def next_step(self) -> None:
        """Draw from another key from now on."""
        self.step_key = self._keys.next()

    @contextmanager
    def drawing(self, block: int) -> Iterator[None]:
        """Within, the default generators have the secret draws of this physical batch of the step.

        Whichever process computes it, and after whatever else, they are the same.

        Raises ConfigError where the model or the augmentation seeds a generator meanwhile, or leaves it
        with another state than its draws do: its masks would be no secret.
        """
        assert self.step_key is not None, "masks are a step's"
        address = struct.pack("<q", block)
        states, seed = secret_states(hmac.digest(self.step_key, address, hashlib.sha256), self._device)
        theirs = _states(self._device)
        _set_states(states, self._device)
        try:
            with _no_seeding():
                yield
            if torch.initial_seed() != seed:
                _refuse()
        finally:
            _set_states(theirs, self._device)

    def renew(self, key: bytes) -> None:
        """Draw from another key from now on."""
        self._keys = KeyChain(key)

    def state_dict(self) -> dict[str, Any]:
        return {**self._keys.state_dict(), "masks": DRAWN_BY}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take this state; raises DptrainError where its masks were drawn otherwise."""
        if not isinstance(state, dict) or state.get("masks") != DRAWN_BY:
            state = {}  # as it refuses draws of another version
        self._keys.load_state_dict(state)


def secret_states(key: bytes, device: torch.device) -> tuple[list[Tensor], int]:
    """States of the default generators, filled from this key in full, and the seed that they say they have.

    `manual_seed` keeps 32 bits on the CPU, few enough to try; all 624 words of the state are drawn. A
    GPU's generator (Philox) has 64.
    """
    stream = Stream(key)
    seeds = stream.words(2).bitwise_and_(2**63 - 1).tolist()
    generator = torch.Generator()
    generator.manual_seed(seeds[0])
    state = generator.get_state()
    # A seed, two counters and a position come first (24 bytes), then one 64-bit integer a word.
    state[24 : 24 + 8 * WORDS] = stream.words(WORDS).bitwise_and_(2**32 - 1).view(torch.uint8)
    if device.type == "cpu":
        return [state], seeds[0]
    return [state, torch.Generator(device).manual_seed(seeds[1]).get_state()], seeds[0]


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state()]


def _set_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state)


@contextmanager
def _no_seeding() -> Iterator[None]:
    """Within, `torch.manual_seed` and `torch.seed` are refused, be they undone afterwards."""
    places = [(module, name) for module in (torch, torch.random) for name in ("manual_seed", "seed")]
    kept = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, _refuse)
    try:
        yield
    finally:
        for (module, name), function in zip(places, kept, strict=True):
            setattr(module, name, function)


def _refuse(*_: object) -> NoReturn:
    raise ConfigError(
        "model: something seeds PyTorch's generator while a batch is computed, so that its dropout masks or "
        "augmentations would be no secret, and one record would show in those of all others; leave out "
        "torch.manual_seed, torch.seed and torch.set_rng_state in the model's forward"
    )
