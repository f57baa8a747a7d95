#!/usr/bin/env bash
# scripts/test.sh [pytest arguments]: the whole test suite, in two processes. DPTRAIN_DATA names a folder of real
# data sets.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile "$@"
