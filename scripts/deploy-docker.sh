#!/usr/bin/env bash
# `dstack-vpn deploy` from a checkout: scripts/deploy-docker.sh [COMMAND] [OPTIONS], with the commands
# setup, build, deploy (the default), status, logs, start, stop, restart, update, cleanup; --help tells
# of all. Needs Docker, Compose and Python 3.11. What the command line rests on is installed into .venv,
# once and when its lock changes; the command line itself is that of this checkout.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '[deploy] %s\n' "$*" >&2; }

lock=$(cat "$root"/requirements/{build,runtime}.txt "$root/pyproject.toml" | sha256sum)
if [ ! -x "$root/.venv/bin/dstack-vpn" ] || [ "$lock" != "$(cat "$root/.venv/deploy-lock" 2>/dev/null)" ]; then
  python=""
  for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [ -n "$python" ] || { say "please install Python 3.11 or newer with venv (Debian: python3-venv)"; exit 2; }
  say "installing what the command line needs into $root/.venv"
  [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
  pip=("$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --require-hashes --no-deps \
    -r "$root/requirements/build.txt" -r "$root/requirements/runtime.txt"
  "${pip[@]}" --no-deps --no-build-isolation --editable "$root"
  printf '%s' "$lock" >"$root/.venv/deploy-lock"
fi
export DSTACK_VPN_DIRECTORY=${DSTACK_VPN_DIRECTORY:-$root}
exec "$root/.venv/bin/dstack-vpn" deploy "$@"
