#!/usr/bin/env python3
"""The table of what guards buy, of the lines that bench_probing.py has printed.

    python scripts/bench_probing.py --data mnist pneumoniamnist > probing.jsonl
    python scripts/probing_table.py probing.jsonl --write README.md

Files are read one after the other; a line that stands in several of them counts once, the last.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from measured import show

BEGIN, END = "<!-- probing: python scripts/probing_table.py -->", "<!-- /probing -->"
CHANCE = {"mnist": 0.1, "pneumoniamnist": 0.5}  # of an image's class
NAMES = {"mnist": "MNIST", "pneumoniamnist": "PneumoniaMNIST"}

Row = dict[str, Any]
Rows = dict[tuple[str, str, int], dict[int, Row]]  # by data, attacker, queries; then by keys


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, help="of lines of JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its markers there")
    asked = parser.parse_args(words)
    found = read(asked.files)
    keys = sorted({many for each in found.values() for many in each if many})
    header = (
        "data, chance", "attacker", "queries", "success without guards",
        *(f"behind them, {many} key{'s' * (many > 1)}" for many in keys),
        "first alarm after", "AUC of sessions", "TPR at 1 %, 10 %",
    )  # fmt: skip
    lines = [line(*named, each, keys) for named, each in found.items()]
    show(header, lines, asked.write, BEGIN, END)
    return 0


def read(files: list[Path]) -> Rows:
    """The lines about attackers, by data, attacker and queries, and then by keys; 0: without guards."""
    found: Rows = {}
    for file in files:
        data = ""
        for text in file.read_text().splitlines():
            row = json.loads(text)
            data = row.get("data", data)
            if "attacker" in row:
                found.setdefault((data, row["attacker"], row["queries"]), {})[row["keys"]] = row
    order = list(dict.fromkeys((data, attacker) for data, attacker, _ in found))
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][:2]), item[0][2])))


def line(data: str, attacker: str, queries: int, by_keys: dict[int, Row], keys: list[int]) -> tuple[str, ...]:
    """The cells of one line."""
    bare, guarded = by_keys.get(0, {}), [by_keys[many] for many in keys if many in by_keys]
    chance = 0.5 if attacker.startswith("membership") else CHANCE[data]
    alarms = [each for row in guarded for each in row["first_alarm_after"]]
    noticed = sorted(each for each in alarms if each is not None)
    never = f", never in {len(alarms) - len(noticed)} of {len(alarms)}" if len(noticed) < len(alarms) else ""
    ends = list(dict.fromkeys(f"{each:,}" for each in (noticed[:1] + noticed[-1:])))
    seen = " to ".join(ends)
    sessions = bare.get("sessions", 0)
    return (
        f"{NAMES[data]}, {chance:g}",
        attacker,
        f"{queries:,}",
        success(bare),
        *(success(by_keys.get(many, {})) for many in keys),
        f"{seen}{never}".removeprefix(", ") or "not tried",
        f"{bare['auc']:.3f} of {sessions}" if sessions else "too few",
        f"{bare['tpr_at_0.01']:.2f}, {bare['tpr_at_0.1']:.2f}" if sessions else "too few",
    )


def success(row: Row) -> str:
    """The mean over the seeds, and in brackets the lowest and the highest."""
    if not row:
        return "not tried"
    return f"{row['success']:.2f} [{min(row['each']):.2f}, {max(row['each']):.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
