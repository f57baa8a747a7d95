"""Secret generator state for dropout masks and augmentation, which draw from PyTorch's default generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from dptrain.contracts import ConfigError
from dptrain.privacy.noise.keys import KeyChain, Stream

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
        self._states: list[Tensor] = []
        self._seed = 0
        self._step_key: bytes | None = None

    def next_step(self) -> None:
        """Draw from another key from now on."""
        self._step_key = self._keys.next()
        self._states = []

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within, the default generators go on with this step's secret draws.

        Raises ConfigError where the model or the augmentation seeds a generator meanwhile, or leaves it
        with another state than its draws do: its masks would be no secret.
        """
        if not self._states:
            assert self._step_key is not None, "masks are a step's"
            self._states, self._seed = secret_states(self._step_key, self._device)
        theirs = _states(self._device)
        _set_states(self._states, self._device)
        try:
            with _no_seeding():
                yield
            if torch.initial_seed() != self._seed:
                _refuse()
            self._states = _states(self._device)
        finally:
            _set_states(theirs, self._device)

    def state_dict(self) -> dict[str, Any]:
        return self._keys.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
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
