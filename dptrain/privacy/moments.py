"""The plan of a release of second moments: Gaussian mechanisms on one set of records, composed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dptrain.privacy.noise.gaussian import grid_step
from dptrain.privacy.one_release import GaussianRelease


@dataclass(frozen=True, kw_only=True)
class MomentsPlan(GaussianRelease):
    """Three queries with Gaussian noise: a smallest eigenvalue, second moments, cross moments.

    Rows are features and a constant, of length 1 at most for a unit; labels have length `label_norm` at most.
    A unit more or less moves the eigenvalue of the sum of z z' by 1 at most (Weyl's inequality), that sum
    itself, as a symmetric matrix, by 1, and the sum of z y' by `label_norm`. The shares, which add up to 1,
    are what each query takes of the squared mu of Gaussian differential privacy (Dong et al. 2022,
    Corollary 2): with one unit more or less, the mu of all together is 1 / noise_multiplier.
    """

    eigenvalue_share: float
    second_share: float
    cross_share: float
    feature_norm: float  # to which features are clipped
    label_norm: float

    @property
    def second_std(self) -> float:
        """Standard deviation of the noise on the diagonal; beside it, where each entry stands twice, less.

        Of a symmetric matrix the numbers on the diagonal, and those above it times the root of 2, are as
        long as the whole: noise of one standard deviation on these is what the mechanism adds.
        """
        return self.noise_multiplier / math.sqrt(self.second_share)

    @property
    def fresh_std(self) -> float:
        """That of second moments, of which there are most."""
        return self.second_std

    @property
    def beside_std(self) -> float:
        """Standard deviation of the noise on each number above the diagonal."""
        return self.second_std / math.sqrt(2.0)

    @property
    def cross_std(self) -> float:
        """Standard deviation of the noise on each number of the cross moments."""
        return self.noise_multiplier * self.label_norm / math.sqrt(self.cross_share)

    @property
    def eigenvalue_std(self) -> float | None:
        """Standard deviation of the noise on the smallest eigenvalue; None: it is not asked for."""
        return (
            None if self.eigenvalue_share == 0 else self.noise_multiplier / math.sqrt(self.eigenvalue_share)
        )

    @property
    def grid(self) -> float:
        """The coarsest of the grids that noisy sums are rounded to, in standard deviations of their noise."""
        stds = (self.second_std, self.beside_std, self.cross_std, self.eigenvalue_std or self.second_std)
        return max(grid_step(std) / std for std in stds)

    @property
    def mu(self) -> float:
        """The mu of all queries together.

        To replace a unit moves an eigenvalue by 1, as both neighbours have one unit more than what they
        share; second moments by the root of 2, as two positive semidefinite matrices are at most at a right
        angle; and cross moments by twice their length.
        """
        factors = (1.0, 1.0, 1.0) if self.adjacency == "add_remove" else (1.0, 2.0, 4.0)
        shares = (self.eigenvalue_share, self.second_share, self.cross_share)
        return math.sqrt(sum(map(math.prod, zip(factors, shares, strict=True)))) / self.noise_multiplier

    def describe(self) -> tuple[tuple[str, str], ...]:
        shares = (
            f"{self.eigenvalue_share:g} for the smallest eigenvalue, {self.second_share:g} for second "
            f"moments, {self.cross_share:g} for moments of features and labels"
        )
        return (
            ("noise", f"Gaussian, noise multiplier {self.noise_multiplier:.4g} of all queries together"),
            ("budget split", f"{shares} (of the squared mu)"),
            ("clipping", f"features to norm {self.feature_norm:g}; labels have norm {self.label_norm:.4g}"),
            ("queries", "each record is used once, in sums that are exact; none is sampled"),
        )
