#!/usr/bin/env bash
# scripts/check.sh: format, lint, types, whether tests and scripts call what there is, and who may import whom.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/mypy --config-file tests/mypy.ini
found="$(.venv/bin/python -m pytest --collect-only -qqq 2>&1)" || { # all tests are found, and can be imported
    echo "$found"
    exit 1
}
exec .venv/bin/python -m pytest --quiet tests/test_layers.py
