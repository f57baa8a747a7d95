#!/usr/bin/env bash
# scripts/run.sh [overrides]: python -m dptrain [overrides], on a machine that has nothing but Python.
here=$(pwd)
EXTRAS=""
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
python="$(pwd)/.venv/bin/python"
cd "$here"
exec "$python" -m dptrain "$@"
