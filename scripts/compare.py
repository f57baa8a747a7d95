#!/usr/bin/env python3
"""The comparison of runs, as python -m dptrain.cli.compare, from a checkout."""

from __future__ import annotations

import sys

from dptrain.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
