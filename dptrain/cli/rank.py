"""python -m dptrain.cli.rank: a process that a run starts beside itself to compute with it."""

from __future__ import annotations

import sys
from pathlib import Path

from dptrain.cli.process import settle
from dptrain.training.processes import work
from dptrain.training.ranks import Place


def main(arguments: list[str]) -> int:
    """Help with the run whose folder of meeting is named, at a rank of so many, each of so many threads."""
    rank, size, seconds, folder, threads = arguments
    settle(int(threads) or None)
    Path(folder, f"{rank}.ready").touch()
    return work(
        Place(rank=int(rank), size=int(size), seconds=float(seconds), meeting=f"file://{folder}/meeting")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
