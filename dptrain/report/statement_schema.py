"""The JSON Schema (2020-12) of a statement: for each field its type, its limits, and what it says."""

from __future__ import annotations

from typing import Any

SCHEMA = "urn:dptrain:statement:2"
VERSION = 2

Node = dict[str, Any]


def _a(kind: str, said: str = "", **limits: Any) -> Node:
    """A value of this type; of `number?`, a number or null."""
    described = {"description": said} if said else {}
    return {"type": [kind[:-1], "null"] if kind.endswith("?") else kind, **described, **limits}


def _count(said: str = "", least: int = 0) -> Node:
    return _a("integer?", said, minimum=least)


def _texts(said: str = "") -> Node:
    return _a("array", said, items=_a("string"))


def _by_name(kind: str, said: str = "") -> Node:
    return _a("object", said, additionalProperties=_a(kind))


def _one_of(*values: str | None, said: str) -> Node:
    return {"enum": list(values), "description": said}


def _object(**fields: Node) -> Node:
    """An object that has all of these fields and no other."""
    return _a("object", required=list(fields), properties=fields, additionalProperties=False)


def _ref(part: str) -> Node:
    return {"$ref": f"#/$defs/{part}"}


def _or_null(said: str, node: Node) -> Node:
    return {"description": said, "oneOf": [_a("null"), node]}


def _where(**fields: Node) -> Node:
    return {"properties": fields}


RATE = _a("number", minimum=0, maximum=1)
PROVED = _object(
    epsilon=_a("number", minimum=0),
    delta=_a("number", minimum=0, exclusiveMaximum=1),
    delta_meaning=_a("string?", "What this delta allows for so many units, in words."),
    tpr_at_fpr=_a(
        "array",
        "The most true positives of any membership test at each false-positive rate.",
        items=_object(fpr=RATE, tpr=RATE),
        minItems=1,
    ),
    cross_checks=_by_name("number?", "The same quantities by other accountants, by name."),
)

NOISE = "Standard deviation of the noise on a sum of clipped gradients, over max_grad_norm."
DPSGD = _object(
    name=_a("string"),
    noise_multiplier=_a("number?", NOISE, minimum=0),
    max_grad_norm=_a("number?", exclusiveMinimum=0),
    clipping=_a("string?"),
    sample_rate=_a("number?", exclusiveMinimum=0, maximum=1),
    steps=_count(least=1),
    expected_batch_size=_count(least=1),
    sampling_run=_a("string?", "How batches were drawn."),
    sampling_assumed=_a("string?", "How the accountant takes them to be drawn."),
)
ANOTHER = {
    **_object(
        name=_a("string"), plan=_a("array", items=_a("array", items=_a("string"), minItems=2, maxItems=2))
    ),
    "description": "A mechanism whose constants are not DP-SGD's: name and text of each of its own.",
}

ALONE = "The largest epsilon of a single training; the selected model's is in `proved`."
DISTRIBUTIONS = ("geometric", "logarithmic", "negative_binomial", "poisson")
SELECTION = _object(
    epsilon_alone=_a("number", ALONE, minimum=0),
    distribution=_one_of(*DISTRIBUTIONS, said="Of the number of trainings, which is secret."),
    mean_runs=_a("number", exclusiveMinimum=1),
    shape=_a("number?", "Null for poisson.", minimum=0),
    candidates=_a("integer", "Settings that each training drew from.", minimum=1),
    score=_a("string", "What the best was chosen by, and on which records."),
    theorem=_a("string"),
)
CHOSEN = (
    "How hyper-parameters were chosen. not_counted: `proved` does not count it. public_data: on the data in "
    "tuned_on, which spends nothing, as is declared. private_selection: `proved` counts it, for those who "
    "see only the selected model."
)
NO_SELECTION = "The terms of a private selection; null where there was none, or nothing is proved."
SEARCH = {
    **_object(
        kind=_one_of("not_counted", "public_data", "private_selection", said=CHOSEN),
        tuned_on=_a("string?", minLength=1),
        selection=_or_null(NO_SELECTION, SELECTION),
    ),
    "oneOf": [
        _where(kind={"const": "not_counted"}, tuned_on=_a("null"), selection=_a("null")),
        _where(kind={"const": "public_data"}, tuned_on=_a("string"), selection=_a("null")),
        _where(kind={"const": "private_selection"}, tuned_on=_a("null")),
    ],
}

REACH = "Standard deviations up to which the noise is Gaussian as far as delta says."
GRID = "Step of the public grid that noisy sums are rounded to, in standard deviations of the noise."
COSTS = _a("number", "What generator and grid cost; counted in `proved`.", minimum=0)
RANDOMNESS = _object(
    secret=_a("boolean"),
    cryptographic=_a("boolean", "Whether noise and samples are of a cryptographic generator."),
    source=_a("string"),
    generator=_a("string?"),
    reach=_a("number?", REACH, exclusiveMinimum=0),
    draws=_count("How many numbers of noise there are: parameters times steps."),
    grid=_a("number?", GRID, exclusiveMinimum=0),
    epsilon=COSTS,
    delta=COSTS,
    assumptions=_texts("What is believed and not proved."),
)

MOST = "The most that one change of the data, as `adjacency` has it, moves a step's sum."
INDEPENDENCE = "Whether the rows of a batch are treated apart from each other: tested, not proved."
HELD = "Whether `most` held for the engine, the model and the data in use; null: not audited."
RATIO = "The largest change of a sum that was measured, over `most`, on rows that are no record."
SENSITIVITY = _object(
    most=_a("number?", MOST, minimum=0),
    records=_count("How many records of one unit a step can use; null: as many as it has.", least=1),
    independence=_a("string", INDEPENDENCE),
    audit=_one_of("held", "BROKEN", None, said=HELD),
    ratio=_a("number?", RATIO, minimum=0),
)

ASSIGNMENT = _object(
    slots=_count("Places, at most, in which one of several candidates was trained on."),
    candidates=_count("Of each slot."),
    probes=_count(
        "Records, as many as were expected, of which a secret random choice decided if they are used."
    ),
    probes_trained_on=_count(),
    canaries=_count("Made gradients of which a secret random choice decided if they are used."),
    canaries_trained_on=_count(),
    change=_a("string?", "How one unit more or less changes the set that is trained on."),
)

COUNTS = _object(
    unit=_a("string", minLength=1),
    files=_count("Records in all files; null where their number is not public."),
    trained_on=_count("Records; null where their number is not public."),
    units=_count("To whom those records belong; null where their number is not public."),
    holdout=_count("Records, which are not protected; null where they tell a number that is not public."),
    test=_count("Records, which are not protected; null where they tell a number that is not public."),
    set_aside=_by_name("integer", "Records that attacks need, as many as were expected, by what for."),
)

CONSTANTS = _object(
    declared=_texts("Constants of `mechanism` that the configuration gives, whatever the records are."),
    from_units=_texts("Constants of `mechanism` computed from the number of units, which is public thereby."),
    class_prior=_a("array?", items=_a("number")),
    mean=_a("array?", "That inputs are normalised by.", items=_a("number")),
    std=_a("array?", items=_a("number")),
    bounds=_a("array?", "Of every input.", items=_a("number"), minItems=2, maxItems=2),
)

HASHES = _object(
    weights=_a("string?", "SHA-256 of the tensors: names, types, shapes and bytes."),
    code=_a("string?", "SHA-256 of the model's class and of the modules that it comes from."),
    config=_a("string?", "SHA-256 of the digests in `sections`, as JSON with sorted keys."),
    model=_a("string?", "The model's class."),
    modules=_by_name("string", "SHA-256 of each module of the user's and of dptrain.models, by name."),
    sections=_by_name(
        "string", "SHA-256 of each section of the configuration that has a say in the training."
    ),
)

STATUS = (
    "holds: `proved` is an upper bound. void: a proof was attempted and does not apply to this run. none: "
    "the training was not private."
)
INTERFACE = "How the release is served, such as weights or labels_only; null where it is not stated."
UNIT = "Whose presence is hidden: a record, or what a group of them is called, such as patient."
ADJACENCY = "How two neighbouring data sets differ: by one unit more or less, or by one unit replaced."
PUBLIC = "Data besides the records that the model or its settings come of, which are taken to be public."
STATEMENT = _object(
    **{"$schema": {"const": SCHEMA}},
    version={"const": VERSION, "description": "Raised when a field changes its meaning or disappears."},
    recipe=_a("string", "The configuration that was run, by name."),
    data=_a("string", "The data set, by name."),
    status=_one_of("holds", "void", "none", said=STATUS),
    void_reason=_a("string?", "Why the proof does not apply; null unless void."),
    sentence=_a("string", "What is promised, in words."),
    released=_a("string", "What is made public of the training."),
    interface=_a("string?", INTERFACE),
    unit=_a("string", UNIT, minLength=1),
    adjacency=_one_of("add_remove", "replace_one", said=ADJACENCY),
    units_public=_a("boolean", "Whether the number of units is public: some constant was computed from it."),
    units=_count("The number of units; null where it is not public.", least=1),
    proved=_or_null("The guarantee in numbers; null unless the status is holds.", _ref("proved")),
    mechanism={"oneOf": [_ref("mechanism"), ANOTHER]},
    accountant=_or_null(
        "What computed the guarantee, and with which version; null without one.", _ref("accountant")
    ),
    search=_ref("search"),
    outside_guarantee=_texts("What touched private records and is not covered."),
    randomness=_or_null(
        "Where noise and sampling drew their numbers; null where nothing had to be secret.",
        _ref("randomness"),
    ),
    sensitivity=_or_null(
        "What one unit can add to a step's sum, and how far that was tested; null where nothing is proved.",
        _ref("sensitivity"),
    ),
    assignment=_or_null(
        "How much of the training a secret random choice decided, so that attacks can be scored; null where "
        "it is not known.",
        _ref("assignment"),
    ),
    counts=_or_null(
        "How many records there were, and what they were used for; null where it is not known.",
        _ref("counts"),
    ),
    trust=_or_null(
        "Who sees records as they are, and what is believed without proof; null where nothing is proved.",
        _ref("trust"),
    ),
    constants=_or_null(
        "Numbers that the training used as if they were public; null where it is not known.",
        _ref("constants"),
    ),
    public_data=_texts(PUBLIC),
    date=_a("string?", "When the statement was made: UTC, ISO 8601."),
    hashes=_or_null("What the statement is bound to; null where it is not known.", _ref("hashes")),
    code=_ref("code"),
)
PARTS = {
    "proved": PROVED,
    "mechanism": DPSGD,
    "accountant": _object(name=_a("string"), version=_a("string?")),
    "search": SEARCH,
    "randomness": RANDOMNESS,
    "sensitivity": SENSITIVITY,
    "assignment": ASSIGNMENT,
    "trust": _object(model=_a("string"), sees_records=_a("string"), trusted=_texts()),
    "constants": CONSTANTS,
    "counts": COUNTS,
    "hashes": HASHES,
    "code": _object(
        revision=_a("string?", "Of the source; null for an installed package."), versions=_by_name("string")
    ),
}


def schema() -> Node:
    """The JSON Schema of a statement."""
    holds, void, none = ({"const": status} for status in ("holds", "void", "none"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "Privacy statement of one trained model",
        "description": "What is proved about a release, for a public registry of deployments of differential "
        "privacy. Names and numbers only: it is made from public constants and from no record.",
        **STATEMENT,
        "oneOf": [
            _where(status=holds, void_reason=_a("null"), proved=_a("object"), randomness=_a("object")),
            _where(status=void, void_reason=_a("string"), proved=_a("null")),
            _where(status=none, void_reason=_a("null"), proved=_a("null")),
        ],
        "$defs": PARTS,
    }
