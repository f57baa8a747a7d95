"""One page from many runs, and which epsilon meets your limits: python -m dptrain.cli.compare runs/sweep_...

    python -m dptrain.cli.compare runs/sweep_... --limit "accuracy>=.85" --limit "membership.bound<=.1"
    python -m dptrain.cli.compare --sweep PARENT_RUN_ID
    python -m dptrain.cli.compare --tag recipe=medical_cnn --uri http://localhost:5000

Limits say what must hold. They are written like the conditions of `fail_if`, which say what must not:
accuracy, auroc, epsilon, membership.bound (true positives of any membership test at 1 % false
positives), leakage.ATTACK.METRIC.FIELD with field value, low, high or bound. Exit code 4: no point
meets them all.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from dptrain.cli.options import parser_of
from dptrain.comparison import choose
from dptrain.comparison.compare import CONFIDENCE, compare
from dptrain.comparison.gather import Selection
from dptrain.contracts import DptrainError
from dptrain.redaction import redact
from dptrain.report.comparison import page
from dptrain.report.comparison.console import show
from dptrain.report.console import Console
from dptrain.storage import write_text

PROGRAM = "python -m dptrain.cli.compare"
FAILED, NONE_MEETS = 2, 4


def main(arguments: list[str] | None = None) -> int:
    """Compare what was selected; 2 where it cannot be, 4 where no point meets every limit."""
    words = sys.argv[1:] if arguments is None else arguments
    options = parse(words)
    selection = Selection(
        folders=tuple(options.folders),
        uri=options.uri,
        experiment=options.experiment,
        parents=tuple(options.sweep),
        tags=dict(options.tag),
        ids=tuple(each for listed in options.ids for each in listed.split(",")),
    )
    path = options.output or (options.folders[0] if options.folders else Path()) / "comparison.html"
    try:
        found = compare(
            selection, confidence=options.confidence, command=redact(f"{PROGRAM} {shlex.join(words)}")
        )
        if options.limit:
            answer = choose.choose(choose.parse(options.limit, found), found)
            found = replace(found, answer=answer)
        write_text(page.as_html(found), path)
    except (DptrainError, OSError) as error:
        Console().error(error if isinstance(error, DptrainError) else DptrainError(f"{path}: {error}"))
        return FAILED
    show(found)
    print(f"page     {path}")
    if options.json:
        print(json.dumps(page.as_json(found)))
    return NONE_MEETS if found.answer is not None and not found.answer.met else 0


def parse(words: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = parser_of(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="every report.json below these is compared")
    parser.add_argument("--uri", help="MLflow's store (default: as the runs use it)")
    parser.add_argument("--experiment", default="dptrain", help="in that store (default dptrain)")
    parser.add_argument("--sweep", action="append", default=[], metavar="ID", help="children of this run")
    parser.add_argument(
        "--tag", action="append", default=[], type=pair, metavar="KEY=VALUE", help="runs with all these tags"
    )
    parser.add_argument("--ids", action="append", default=[], metavar="A,B", help="runs of these ids")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="TEXT", help='such as "accuracy>=.85"; repeatable'
    )
    parser.add_argument(
        "--confidence", type=float, default=CONFIDENCE, help="of every interval (default 0.95)"
    )
    parser.add_argument("--output", type=Path, help="the page (default comparison.html in the first folder)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(words)
    if not (options.folders or options.sweep or options.tag or options.ids):
        parser.error("nothing to compare: give folders, --sweep, --tag or --ids")
    if not 0.5 <= options.confidence < 1:
        parser.error(f"--confidence {options.confidence} must be at least 0.5 and below 1")
    return options


def pair(text: str) -> tuple[str, str]:
    """KEY=VALUE as two."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
