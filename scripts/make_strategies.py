"""Compute the banded Toeplitz strategies that `mechanism.noise=banded` takes its noise from.

    python scripts/make_strategies.py            # a minute; writes dptrain/privacy/noise/strategies.json

A strategy is the first column c of a lower triangular Toeplitz matrix with `bands` diagonals, of length 1.
Noise is correlated by its inverse, and c is chosen so that sums of the first t noisy gradients, for t up to
`steps`, have the least mean squared error (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix
Factorization"; McKenna 2025, "Scaling up the Banded Matrix Factorization Mechanism for Differentially Private
ML").
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.signal import fftconvolve, lfilter

from dptrain.privacy.noise.strategies import FILE, mean_squared_error

BANDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
STEPS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
DIGITS = 12


def optimal(bands: int, steps: int, start: np.ndarray | None = None) -> np.ndarray:
    """The best coefficients (bands,) of length 1, by L-BFGS on all but the first one."""
    if bands == 1:
        return np.ones(1)
    first = square_root(bands) if start is None else np.pad(start, (0, bands - len(start)))
    weights = 1.0 - np.arange(steps) / steps

    def loss(rest: np.ndarray) -> tuple[float, np.ndarray]:
        """Log of length^2 times error, and its gradient: d inverse / d c_k = -inverse * inverse, k later."""
        column = np.concatenate([[1.0], rest])
        impulse = np.zeros(steps)
        impulse[0] = 1.0
        inverse = lfilter([1.0], column, impulse)
        sums = np.cumsum(inverse)
        if not np.isfinite(sums).all() or np.abs(sums).max() > 1e6:
            return 1e3, np.zeros_like(rest)
        length, error = float(column @ column), float(weights @ sums**2)
        twice = fftconvolve(inverse, sums)[:steps]
        moved = fftconvolve((weights * sums)[::-1], twice)[:steps][::-1]  # of each lag the inner product
        slope = -2.0 * moved[1:bands] / error + 2.0 * rest / length
        return float(np.log(length) + np.log(error)), slope

    found = minimize(
        loss, first[1:] / first[0], jac=True, method="L-BFGS-B",
        options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30},
    )  # fmt: skip
    column = np.concatenate([[1.0], found.x])
    return column / np.linalg.norm(column)


def square_root(bands: int) -> np.ndarray:
    """The coefficients of (1 - x)^(-1/2), the square root of prefix sums."""
    later = 1.0 - 0.5 / np.arange(1, bands)
    return np.concatenate([[1.0], np.cumprod(later)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    strategies = {}
    for steps in STEPS:
        before = None
        for bands in BANDS:
            if bands > steps:
                continue
            candidates = [
                optimal(bands, steps, start) for start in {id(s): s for s in (None, before)}.values()
            ]
            best = min(candidates, key=lambda each: mean_squared_error(each, steps))
            before = best
            strategies[f"{bands},{steps}"] = [round(float(each), DIGITS) for each in best]
            print(
                f"{steps:6d} steps, {bands:3d} bands: {mean_squared_error(best, steps) ** 0.5:.6f}",
                flush=True,
            )
    lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in strategies.items())
    arguments.output.write_text(f"{{\n{lines}\n}}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
