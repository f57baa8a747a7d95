"""Noise that is correlated over steps by the inverse of a banded Toeplitz strategy.

What is private are the encoded sums C x + z on which z is independent noise: in the row of step t a unit adds
c_0 x_t + c_1 x_{t-1} + ... . What is released is decoded from them: x_t + w_t, with w_t = (z_t - c_1 w_{t-1}
- ... ) / c_0. Here what is rounded is the decoded sum, with the w that there really were, rounding and all.
Written out, with y_{t-j} = x_{t-j} + w_{t-j} released before,

    y_t = round(x_t + (z_t - c_1 w_{t-1} - ...) / c_0)
        = round((encoded sum + z_t) / c_0 - (c_1 y_{t-1} + ...) / c_0)

which anybody could make of the encoded sum with noise and of what was released: it is post-processing. So the
grid and its proof (`noise.cost`) are those of independent noise, of standard deviation std / c_0, on another
sum. That sum is computed in double precision, to 2^-53 of each of its terms: far below what clipping keeps
free.

Noise that is past is part of noise to come. The last bands - 1 of w must be kept, so that, other than with
independent noise, whoever reads a checkpoint can undo the noise of as many steps that are past. Where steps
that were paid for cannot be repeated, the training goes on from an earlier state: to go on with the w of then
too would show what they hide twice, under z of the lost steps and under other z. So `renew` forgets them: the
strategy begins anew, and no participation has rows in both. Where nothing is lost they stay, and other z only
follow those before: each row still has a z of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from cryptography.hazmat.primitives.poly1305 import Poly1305
from torch import Tensor

from dptrain.contracts import devices
from dptrain.privacy.noise import keys
from dptrain.privacy.noise.source import NoiseSource, Words


class BandedNoise(NoiseSource):
    """Adds noise w = C^-1 z to sums of gradients, z independent; each `add` is one step."""

    def __init__(self, key: bytes, *, strategy: tuple[float, ...], words: Words = keys.words) -> None:
        super().__init__(key, words=words)
        self._first = strategy[0]
        self._weights = [each / strategy[0] for each in strategy[1:]]
        self._past: deque[Tensor] = deque(
            maxlen=len(strategy) - 1
        )  # w, the last first: (parameters,) float64
        self._due: Tensor | None = None  # what they take off the next sum

    def add(self, sums: list[Tensor], std: float) -> list[Tensor]:
        """These sums with noise: `std` is that of z, each coordinate's on the encoded sum."""
        flat = torch.cat([total.reshape(-1) for total in sums])
        exact = flat.cpu().double() if devices.lacks_double(flat.device) else flat.double()
        carried = self._carried(exact.device)
        (noisy,) = super().add([exact if carried is None else exact - carried], std / self._first)
        self._past.appendleft(noisy - exact)
        self._due = None
        parts = noisy.split([total.numel() for total in sums])
        return [part.view(total.shape).to(total) for part, total in zip(parts, sums, strict=True)]

    def _carried(self, device: torch.device) -> Tensor | None:
        """c_1 w_{t-1} / c_0 + ... (parameters,), added one by one, so that threads change no bit of it."""
        if self._due is None and self._past:
            due = torch.zeros_like(self._past[0], device=device)
            for weight, past in zip(self._weights, self._past, strict=False):
                due += weight * past.to(device)
            self._due = due
        return None if self._due is None else self._due.to(device)

    def seal(self, content: memoryview | bytes) -> bytes:
        """A tag of what the next noise will be added to: the sum, and what past noise takes off it."""
        tag = Poly1305(self._keys.sealing())
        tag.update(content)
        carried = self._carried(torch.device("cpu") if not self._past else self._past[0].device)
        if carried is not None:
            tag.update(carried.cpu().numpy().data.cast("B"))
        return tag.finalize()

    def renew(self, key: bytes, *, skipped: int) -> None:
        """Draw z from another key from now on; where steps are lost, begin the strategy anew."""
        super().renew(key, skipped=skipped)
        if skipped:
            self._past.clear()
            self._due = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": [each.cpu() for each in self._past]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._past = deque(state["past"], maxlen=self._past.maxlen)
        self._due = None
