# Sourced by the other scripts: makes .venv if it is missing and installs the project, again only when
# pyproject.toml has changed. EXTRAS, such as "[test]", is set by the script that sources it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error  ${PYTHON:-python3} is older than Python 3.11; set PYTHON to a newer one" >&2
        exit 2
    }
    "${PYTHON:-python3}" -m venv .venv
fi
stamp=".venv/installed${EXTRAS:-}"
if ! cmp --silent pyproject.toml "$stamp"; then
    echo "installing dptrain${EXTRAS:-} into .venv (some minutes the first time)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:-}"
    cp pyproject.toml "$stamp"
fi
