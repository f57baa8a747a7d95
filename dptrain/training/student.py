"""A student of public inputs: which of them are asked about, what the others are taken to be, and the fit.

Everything here sees public inputs and noisy answers only, so that it costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans
from torch import Tensor, nn

NEIGHBOURS = 10
DIRECTIONS = 200  # principal components of the public features that likeness is measured in
POWER = 0.7  # of a component's standard deviation that it is divided by
MODES = 50  # of the graph, in which clusters are sought
STEPS = 200  # of spreading
MOST_STAY = 0.5  # share of an answer that is put back at each of them, at most
BLOCK = 1024  # inputs whose neighbours are sought at once


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Public inputs, each joined to those most like it; weights symmetrically normalised."""

    joined: Any  # (n, n) sparse

    @classmethod
    def of(cls, features: Tensor) -> Graph:
        """The graph of these features (n, ...): nearest by angle, in components made less unequal."""
        seen = _components(features.detach().cpu().double().flatten(1))
        count = min(NEIGHBOURS, len(seen) - 1)
        weights, places = [], []
        for part in torch.arange(len(seen)).split(BLOCK):
            likeness = seen[part] @ seen.T
            likeness[torch.arange(len(part)), part] = -2.0  # not itself
            most, which = likeness.topk(count, 1)
            apart = (1.0 - most).clamp(min=0.0)
            weights.append(torch.exp(-4.0 * apart / apart[:, -1:].clamp(min=1e-12)))
            places.append(which)
        rows = np.repeat(np.arange(len(seen)), count)
        columns, values = torch.cat(places).flatten().numpy(), torch.cat(weights).flatten().numpy()
        one_way = sparse.csr_matrix((values, (rows, columns)), shape=(len(seen), len(seen)))
        both = (one_way + one_way.T) / 2
        scale = sparse.diags(np.asarray(both.sum(1)).ravel() ** -0.5)
        return cls(joined=(scale @ both @ scale).tocsr())

    def choose(self, questions: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs in the middle of as many clusters, and how many are in each: two of (questions,) int64.

        Clusters of the graph's slowest modes (Ng, Jordan and Weiss 2001), so that an answer holds for what
        is joined to its input. No record has a say.
        """
        modes = self._modes(seed)
        found = KMeans(questions, n_init=1, max_iter=30, random_state=seed).fit(modes)
        middle, taken = [], np.zeros(len(modes), dtype=bool)
        for centre in found.cluster_centers_:
            apart = np.where(taken, np.inf, np.square(modes - centre).sum(1))
            middle.append(int(apart.argmin()))
            taken[middle[-1]] = True
        sizes = np.bincount(found.labels_, minlength=questions)
        return torch.tensor(middle), torch.from_numpy(sizes)

    def _modes(self, seed: int) -> NDArray[np.float64]:
        count = min(MODES, self.joined.shape[0] - 2)
        start = np.random.default_rng(seed).random(self.joined.shape[0])
        try:
            _, modes = eigsh(self.joined, k=count, which="LA", v0=start)
        except ArpackNoConvergence as found:
            modes = found.eigenvectors
        long = np.linalg.norm(modes, axis=1, keepdims=True)
        return np.asarray(modes / np.maximum(long, 1e-12))

    def spread(self, asked: Tensor, answers: Tensor, sizes: Tensor) -> Tensor:
        """What each input is taken to be: (n, classes), from the answers (questions, classes), none below 0.

        Answers go from input to input along the graph (Zhou et al. 2003, "Learning with local and global
        consistency"), about as many steps as there are inputs for each answer: farther, each reaches all of a
        small graph, and the commonest is everywhere. Classes keep the shares that clusters and answers give.
        """
        answered = int((answers.sum(1) > 0).sum())
        stay = min(MOST_STAY, max(1, answered) / self.joined.shape[0])
        start = np.zeros((self.joined.shape[0], answers.shape[1]))
        start[asked.numpy()] = answers.numpy()
        found = start.copy()
        for _ in range(STEPS):
            found = (1.0 - stay) * (self.joined @ found) + stay * start
        named = answers / answers.sum(1, keepdim=True).clamp(min=1e-12)
        shares = (named * sizes[:, None]).sum(0).numpy()
        found *= shares / np.maximum(found.sum(0), 1e-12)
        total = found.sum(1, keepdims=True)
        made = np.where(total > 0, found / np.maximum(total, 1e-300), shares / max(shares.sum(), 1e-12))
        return torch.from_numpy(made)


def trusted(noisy: Tensor) -> Tensor:
    """Answers (questions, classes) from noisy counts: the largest count's class, by its lead over the next.

    Leads are over the largest lead; inputs without an answer (NaN) are zero throughout.
    """
    answered = ~noisy.isnan().any(1)
    counts = noisy.nan_to_num()
    most = counts.topk(2, 1)
    lead = torch.where(answered, most.values[:, 0] - most.values[:, 1], 0.0)
    weight = lead / lead.max().clamp(min=1e-12)
    return nn.functional.one_hot(most.indices[:, 0], noisy.shape[1]).double() * weight[:, None]


def fit_student(
    part: nn.Module,
    features: Tensor,
    taken: Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    weight_decay: float,
    rng: torch.Generator,
) -> None:
    """Fit what is trained of a model to the classes that features (n, ...) are taken to be (n, classes).

    By Adam, its rate falling to 0, on the cross-entropy of the most likely class, weighted by how much of an
    input's share it has.
    """
    weight, target = taken.max(1)
    weight = weight.to(features)
    trained = [each for each in part.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    part.train()
    with torch.random.fork_rng():  # masks of the model's own, the same in a run that goes on
        torch.manual_seed(rng.initial_seed())
        for _ in range(steps):
            rows = torch.randint(len(features), (min(batch, len(features)),), generator=rng)
            loss = nn.functional.cross_entropy(part(features[rows]), target[rows], reduction="none")
            optimizer.zero_grad()
            (weight[rows] * loss).mean().backward()
            optimizer.step()
            schedule.step()
    part.eval()


def _components(rows: Tensor) -> Tensor:
    """The first principal components of these rows, made less unequal and each row of length 1."""
    centred = rows - rows.mean(0)
    count = min(DIRECTIONS, *rows.shape)
    if rows.shape[1] <= rows.shape[0]:
        squares, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
        squares, seen = squares[-count:], centred @ directions[:, -count:]
    else:
        squares, mixtures = torch.linalg.eigh(centred @ centred.T / len(rows))
        squares = squares[-count:].clamp(min=0.0)
        seen = mixtures[:, -count:] * (squares * len(rows)).sqrt()
    least = 1e-9 * float(squares[-1].clamp(min=1e-300))
    return nn.functional.normalize(seen * squares.clamp(min=least) ** (-POWER / 2), dim=1)
