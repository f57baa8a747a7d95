"""What a statement says of the generators: which, how far they reach, and what is assumed of them."""

from __future__ import annotations

from dptrain.contracts import Randomness
from dptrain.privacy.accountant import DPSGDPlan
from dptrain.privacy.noise import keys
from dptrain.privacy.noise.gaussian import REACH
from dptrain.privacy.noise.grid import grid_step

PHILOX = "the GPU's own generator (Philox), seeded at each address with 64 bits of a hash of a secret key"


def randomness(plan: DPSGDPlan, draws: int, *, on_cpu: bool, secret: bool) -> Randomness:
    """What is said of the noise of this plan, `draws` numbers in all; the guarantee adds what it costs."""
    generator = keys.GENERATOR if on_cpu else PHILOX
    return Randomness(
        secret=secret,
        cryptographic=on_cpu,
        source=f"{generator}; keyed by {'the operating system' if secret else 'the public seed'}",
        generator=f"{generator}; normal numbers by inversion, in double precision",
        reach=REACH,
        draws=draws,
        grid=grid_step(plan.noise_std) / plan.noise_std if plan.noise_std > 0 else None,
        assumptions=assumptions(on_cpu=on_cpu),
    )


def assumptions(*, on_cpu: bool) -> tuple[str, ...]:
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
    return (
        cipher,
        "Double-precision arithmetic rounds as IEEE 754 says, and the libraries' inverse error and normal "
        "functions are taken to be right to 2^-50 of their value: the noise's cost is bounded under this.",
        "Poisson sampling keeps to its rate within 2^-43 over the rate, relative: taken to be exact.",
        "Dropout masks and augmentations are part of the secret: with their draws known, one record changes "
        "those of all others. PyTorch's default generators draw them, from states that secret words fill "
        "anew at each step. Draws of a model's own from Python, NumPy or other generators are not covered.",
    )
