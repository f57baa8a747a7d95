#!/usr/bin/env bash
# scripts/check.sh: format, lint, types, whether tests and scripts call what there is, and who may import whom.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/mypy --config-file tests/mypy.ini
.venv/bin/python -m pytest --collect-only -qqq # all tests are found, and can be imported
exec .venv/bin/python -m pytest --quiet tests/test_layers.py
