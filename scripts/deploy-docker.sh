#!/usr/bin/env bash
# `dstack-vpn deploy` from a checkout: scripts/deploy-docker.sh [COMMAND] [OPTIONS], with the commands
# setup, build, deploy (the default), status, logs, start, stop, restart, update, cleanup; --help tells
# of all. Needs Docker, Compose and Python 3.11; the command itself is installed into .venv at first.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/dstack-vpn ]; then
  echo "[deploy] installing the command line into .venv" >&2
  { python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check \
      --require-hashes --no-deps -r requirements/build.txt -r requirements/runtime.txt &&
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .; } ||
    { rm -rf .venv; echo "[deploy] that needs Python 3.11 with venv (Debian: python3-venv)" >&2; exit 2; }
fi
exec .venv/bin/dstack-vpn deploy "$@"
