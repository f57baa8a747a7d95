"""API keys of a service: python -m dptrain.cli.keys make --tenant ward_3

    python -m dptrain.cli.keys make --tenant ward_3 --days 90
    python -m dptrain.cli.keys make --tenant operators --scopes admin,metrics
    python -m dptrain.cli.keys list
    python -m dptrain.cli.keys rotate 3f9a0c11
    python -m dptrain.cli.keys revoke 3f9a0c11

A key is shown once, when it is made or rotated, and kept nowhere: the service keeps an HMAC of it under its
secret. A rotated key keeps its id, tenant and what it has spent. Keys of one tenant share budgets.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from dptrain.cli.options import parser_of
from dptrain.contracts import DptrainError
from dptrain.report.console import Console
from dptrain.serving.keys import SCOPES, Keys, Stored, server_secret
from dptrain.serving.store import Store

PROGRAM = "python -m dptrain.cli.keys"
FAILED = 2


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked for; 2 where it cannot be done."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        store = Store(options.folder, options.store)
        try:
            _carry_out(options, Keys(store, server_secret(options.folder)))
        finally:
            store.close()
    except DptrainError as error:
        Console().error(error)
        return FAILED
    return 0


def _carry_out(options: argparse.Namespace, keys: Keys) -> None:
    if options.command == "make":
        print(keys.make(tenant=options.tenant, scopes=options.scopes.split(","), days=options.days))
    elif options.command == "rotate":
        print(keys.rotate(options.id))
    elif options.command == "revoke":
        keys.revoke(options.id)
    elif options.command == "lock":
        keys.lock(options.id, "by hand")
    elif options.command == "unlock":
        keys.lock(options.id, None)
    else:
        for each in keys.all():
            print(_line(each))


def _line(key: Stored) -> str:
    state = "revoked" if key.revoked is not None else f"locked ({key.locked})" if key.locked else "valid"
    until = (
        "" if key.expires is None else f" until {datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d %H:%M} UTC"
    )
    return f"{key.id}  {key.tenant:24}  {key.scopes:24}  {state}{until}"


def parse(words: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = parser_of(PROGRAM, __doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/serving"), help="serve.folder (default runs/serving)"
    )
    parser.add_argument("--store", help="serve.store, where it is no file in that folder")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make a key, and show it once")
    make.add_argument("--tenant", required=True, help="whose key it is; keys of one tenant share budgets")
    make.add_argument("--scopes", default="predict", help=f"of {','.join(SCOPES)} (default predict)")
    make.add_argument("--days", type=float, help="until it expires (default: never)")
    for name, said in (
        ("rotate", "show a new key in place of one"),
        ("revoke", "make one invalid for good"),
        ("lock", "let one ask nothing"),
        ("unlock", "let it ask again"),
    ):
        commands.add_parser(name, help=said).add_argument("id")
    commands.add_parser("list", help="show all, but for what is secret")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
