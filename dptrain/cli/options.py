"""Options of the programs beside `python -m dptrain`."""

from __future__ import annotations

import argparse


def parser_of(program: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the program's module."""
    first, _, rest = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        prog=program,
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
