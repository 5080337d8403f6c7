#!/usr/bin/env bash
# Installs what the project needs: system packages, a Python environment (which brings Node.js), and
# npm packages. Each step runs once, and again when what it rests on changes. Needs Linux; system
# packages are installed with apt as root or through sudo, elsewhere a sentence says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .stamps

say() { printf '[setup] %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Command -> Debian package that brings it.
needed=(
  "ip:iproute2" "ping:iputils-ping" "nft:nftables" "wg:wireguard-tools"
  "wireguard-go:wireguard-go" "unshare:util-linux" "ps:procps" "curl:curl" "git:git"
)
# Elsewhere the end-to-end tests use the engine that is there; CI starts one of its own.
[ -z "${CI:-}" ] || needed+=(
  "dockerd:docker.io" "docker:docker.io" "docker-compose:docker-compose" "iptables:iptables"
  "debootstrap:debootstrap" "cc:gcc"
)
# So do the tests on WireGuard in the kernel: the virtual machine for them runs where this can be had.
[ -z "${CI:-}" ] || [ "$(uname -m)" != x86_64 ] || needed+=("qemu-system-x86_64:qemu-system-x86")

[ "$(uname -s)" = Linux ] || die "dstack-vpn needs Linux (network namespaces, TUN devices)"

missing=()
for pair in "${needed[@]}"; do
  # sbin is often not on a user's PATH though its programs are there.
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# The headers that a C compiler needs are no command.
[ -z "${CI:-}" ] || [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)

python=""
for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python="$candidate"
    break
  fi
done
[ -n "$python" ] || missing+=(python3 python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    say "installing ${missing[*]}"
    {
      "${sudo[@]}" apt-get update
      "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
    } >.stamps/apt.log 2>&1 || { tail -n 20 .stamps/apt.log >&2; die "apt-get failed"; }
    [ -n "$python" ] || python=python3
  else
    die "please install these packages first (Debian's names): ${missing[*]}"
  fi
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "Python 3.11 or newer is needed; $("$python" --version) was found"

# A step is due when the checksum of what it rests on is not the one in its stamp.
due() { [ "$(sum "${@:2}")" != "$(cat ".stamps/$1" 2>/dev/null)" ]; }
sum() { cat "$@" | sha256sum; }
stamp() { sum "${@:2}" >".stamps/$1"; }

if [ ! -x .venv/bin/python ] || due python requirements/dev.txt pyproject.toml; then
  say "making the Python environment (.venv)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
    -r requirements/dev.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation --editable .
  stamp python requirements/dev.txt pyproject.toml
fi

if [ ! -d contracts/node_modules ] || due npm contracts/package-lock.json; then
  say "installing npm packages for the contract and the test chain"
  PATH="$PWD/.venv/bin:$PATH" npm ci --prefix contracts --no-audit --no-fund --loglevel=error >.stamps/npm.log 2>&1 ||
    { tail -n 20 .stamps/npm.log >&2; die "npm ci failed"; }
  stamp npm contracts/package-lock.json
fi

if [ -n "${CI:-}" ] && [ "$(uname -m)" = x86_64 ] && due vm-kernel scripts/vm-kernel; then
  say "fetching a kernel that has WireGuard for the virtual machine of the tests"
  scripts/vm-kernel >.stamps/vm.log 2>&1 || { tail -n 20 .stamps/vm.log >&2; die "scripts/vm-kernel failed"; }
  stamp vm-kernel scripts/vm-kernel
fi

# Compose 2 comes in no package of Debian 12. Where it is not installed, CI builds it.
if [ -n "${CI:-}" ] && ! docker compose version >/dev/null 2>&1 &&
  { [ ! -x .stamps/compose-v2/docker-compose ] || due compose tests/e2e/compose-v2/go.sum; }; then
  say "building Compose 2 for the end-to-end tests"
  command -v go >/dev/null || die "please install Go first: it builds Compose 2 for the tests"
  (cd tests/e2e/compose-v2 && go build -o ../../../.stamps/compose-v2/docker-compose \
    -ldflags '-s -w -X github.com/docker/compose/v2/internal.Version=v2.40.3' \
    github.com/docker/compose/v2/cmd) >.stamps/compose.log 2>&1 ||
    { tail -n 20 .stamps/compose.log >&2; die "go build failed"; }
  stamp compose tests/e2e/compose-v2/go.sum
fi
