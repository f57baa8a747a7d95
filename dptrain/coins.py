"""What coins decide before training: which records are planted, which probes and canaries take part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from dptrain.config import Evidence
from dptrain.contracts import Assignment, ConfigError, Knowledge, Plan, Splits, Streams
from dptrain.evidence.canaries import Sowing, sow
from dptrain.evidence.probes import FEWEST, Drawing, draw_probes, known_members
from dptrain.evidence.slots import Planting, plant

MOST = 3  # training records there must be to each probe: about half of the probes stay out of the training


@dataclass(frozen=True, kw_only=True)
class Coins:
    """What coins decided before training, each None where no attack asks for it."""

    planting: Planting | None = None
    drawing: Drawing | None = None
    sowing: Sowing | None = None

    def fingerprint(self, splits: Splits) -> str:
        """A hash of the training records and the probes: an audit must find the very same ones."""
        digest = splits.train.hashed()
        if self.drawing is not None:
            for tensor in (self.drawing.probes.inputs, self.drawing.members):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def told(self) -> Assignment:
        """How much of the training coins decided: what one must know to read its utility."""
        drawing, sowing = self.drawing, self.sowing
        return Assignment(
            slots=None if self.planting is None else len(self.planting.truth),
            probes=None if drawing is None else len(drawing.members),
            probes_trained_on=None if drawing is None else int(drawing.members.sum()),
            canaries=None if sowing is None else len(sowing.members),
            canaries_trained_on=None if sowing is None else int(sowing.members.sum()),
        )


def draw(
    splits: Splits, needs: frozenset[Knowledge], evidence: Evidence, streams: Streams
) -> tuple[Splits, Coins]:
    """The records, with probes and slots among those to train on, as far as attacks need them."""
    planting = drawing = None
    if Knowledge.ATTRIBUTES in needs and not splits.sensitive:
        raise ConfigError(
            f"attack=attribute_inference needs a sensitive column, and data `{splits.name}` declares none; "
            "give data.sensitive, or leave the attack out"
        )
    probes = min(evidence.probes, len(splits.train) // MOST)
    if needs & {Knowledge.PROBES, Knowledge.ATTRIBUTES} and probes < min(FEWEST, evidence.probes):
        raise ConfigError(
            f"{len(splits.train)} training records are too few for membership attacks and audits of records, "
            f"which need {MOST * FEWEST}; leave those attacks out, or add records"
        )
    slots = evidence.slots * evidence.candidates if Knowledge.SLOTS in needs else 0
    if needs & {Knowledge.PROBES, Knowledge.ATTRIBUTES}:
        splits, drawing = draw_probes(
            splits,
            probes=probes,
            mislabelled=evidence.mislabelled,
            spare=2 * slots,  # held-out records, of which slots may take half
            rng=streams.seeded("probes"),
            coins=streams.seeded("coins of the probes"),
        )
    if slots:
        splits, planting = plant(
            splits,
            slots=evidence.slots,
            candidates=evidence.candidates,
            rng=streams.seeded("candidates"),
            coins=streams.seeded("coins"),
        )
    return splits, Coins(planting=planting, drawing=drawing)


def split_known(splits: Splits, evidence: Evidence, streams: Streams) -> tuple[Splits, Coins]:
    """Members and non-members of a model that was trained elsewhere: no coin decided, files say.

    As many of the training records as of the held-out ones become probes, and those leave the held-out.
    """
    drawing, holdout = known_members(splits, probes=evidence.probes, rng=streams.seeded("probes"))
    return replace(splits, holdout=holdout), Coins(drawing=drawing)


def sow_canaries(
    coins: Coins,
    needs: frozenset[Knowledge],
    model: nn.Module,
    plan: Plan | None,
    evidence: Evidence,
    streams: Streams,
) -> Coins:
    """The coins, and canaries where an attack needs them; faint ones where nothing hides any."""
    if Knowledge.CANARIES not in needs:
        return coins
    sowing = sow(
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        evidence.canaries,
        norm=1e-3 if plan is None else evidence.canary_norm * plan.max_grad_norm,
        rng=streams.seeded("canaries"),
        coins=streams.seeded("coins of the canaries"),
    )
    return replace(coins, sowing=sowing)
