"""What coins decide before training: which records are planted, which probes and canaries take part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from dptrain.config import Evidence, Training
from dptrain.contracts import Assignment, Clips, ConfigError, Knowledge, Plan, Splits, Streams, seed_key
from dptrain.evidence.canaries import Sowing, sow
from dptrain.evidence.probes import FEWEST, Drawing, draw_probes, known_members, public_count
from dptrain.evidence.slots import Planting, plant

MOST = 3  # training records there must be to each probe: about half of the probes stay out of the training


@dataclass(frozen=True, kw_only=True)
class Coins:
    """What coins decided before training, each None where no attack asks for it."""

    planting: Planting | None = None
    drawing: Drawing | None = None
    sowing: Sowing | None = None
    assigned: bool = False  # by hashes of each unit; else files say who was trained on
    probes_expected: int | None = None
    slots_asked: tuple[int, int] | tuple[None, None] = (None, None)  # and candidates of each
    count_public: bool = False  # chances come of the number of units, to two binary digits

    def fingerprint(self, splits: Splits) -> str:
        """A hash of the training records and the probes: an audit must find the very same ones."""
        digest = splits.train.hashed()
        if self.drawing is not None:
            for tensor in (self.drawing.probes.inputs, self.drawing.members):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def told(self) -> Assignment:
        """How much of the training a random choice decided: what one must know to read its utility.

        Of probes and slots the numbers that were asked for, since how many came to be depends on the records.
        """
        probes, (slots, candidates), sowing = self.probes_expected, self.slots_asked, self.sowing
        return Assignment(
            slots=slots,
            candidates=candidates,
            probes=probes,
            probes_trained_on=None if probes is None else probes // 2,
            canaries=None if sowing is None else len(sowing.members),
            canaries_trained_on=None if sowing is None else int(sowing.members.sum()),
            change=self._change(),
        )

    def _change(self) -> str | None:
        """How one unit more or less changes what is trained on; None where files say who was."""
        if not self.assigned:
            return None
        alone = "One unit more or less in the data changes the set that is trained on by that unit alone"
        if self.slots_asked[0] is not None:
            alone += (
                ", but for a held-out unit that is planted in a slot: another then takes its place there, "
                "and to it and to that one the guarantee is the one for two units"
            )
        if self.count_public:
            alone += (
                ". The chances of becoming a probe are computed from the numbers of units, rounded to two "
                "binary digits, which are public thereby"
            )
        return f"{alone}."


def draw(
    splits: Splits,
    needs: frozenset[Knowledge],
    evidence: Evidence,
    streams: Streams,
    units: int | None = None,
) -> tuple[Splits, Coins]:
    """The records, with probes and slots among those to train on, as far as attacks need them.

    `units` is the declared number of training units, None: nobody declared one. Whom a record is assigned
    to is decided by hashes of it under the data's key, or else one that the seed stands for.
    """
    planting = drawing = expected = None
    key = splits.key or seed_key(streams.seeded("assignment"))
    if Knowledge.ATTRIBUTES in needs and not splits.sensitive:
        raise ConfigError(
            f"attack=attribute_inference needs a sensitive column, and data `{splits.name}` declares none; "
            "give data.sensitive, or leave the attack out"
        )
    slots = evidence.slots * evidence.candidates if Knowledge.SLOTS in needs else 0
    if needs & {Knowledge.PROBES, Knowledge.ATTRIBUTES}:
        most = (public_count(len(splits.train)) if units is None else units) // MOST
        if most < min(FEWEST, evidence.probes):
            raise ConfigError(
                f"{len(splits.train)} training records are too few for membership attacks and audits of "
                f"records, which need {MOST * FEWEST}; leave those attacks out, or add records"
            )
        expected = min(evidence.probes, most)
        splits, drawing = draw_probes(
            splits,
            probes=expected,
            mislabelled=evidence.mislabelled,
            spare=2 * slots,  # held-out records, of which slots may take half
            key=key,
            units=units,
        )
    if slots:
        splits, planting = plant(splits, slots=evidence.slots, candidates=evidence.candidates, key=key)
    # Whoever held the key could tell who was assigned to what: it goes no further.
    return replace(splits, key=None), Coins(
        planting=planting,
        drawing=drawing,
        assigned=True,
        probes_expected=expected,
        slots_asked=(evidence.slots, evidence.candidates) if slots else (None, None),
        count_public=drawing is not None,
    )


def declared_units(training: Training) -> int | None:
    """The number of training units that the configuration declares by a batch's size and rate, if it does."""
    if training.sample_rate is None or training.expected_batch_size is None:
        return None
    return max(1, round(training.expected_batch_size / training.sample_rate))


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
    if plan is not None and not isinstance(plan, Clips):
        raise ConfigError(
            "attack=audit_canaries needs canaries, which are clipped gradients, and this mechanism clips "
            "none; leave the attack out, or choose mechanism=dpsgd"
        )
    sowing = sow(
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        evidence.canaries,
        norm=1e-3 if plan is None else evidence.canary_norm * plan.max_grad_norm,
        rng=streams.seeded("canaries"),
        coins=streams.seeded("coins of the canaries"),
    )
    return replace(coins, sowing=sowing)
