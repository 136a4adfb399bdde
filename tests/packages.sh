#!/bin/sh
# Debian packages that the tests need: installed when this runs as root, else the missing ones are named.
# Usage: tests/packages.sh PACKAGE...      exit status 1 when something is missing and cannot be installed
set -eu

command -v dpkg-query >/dev/null 2>&1 || {
    echo "This is not Debian: the tests need the programs of these packages: $*" >&2
    exit 0
}
missing=
for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | cut -c1-2)" = ii ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "The tests need these Debian packages:$missing" >&2
    echo "Install them:  sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

# Samba is wanted as a client and for comparison: its server must not start on this machine because we test ours.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || echo "apt-get update failed: trying with the lists at hand" >&2
# shellcheck disable=SC2086  # a list of names
apt-get -qq install -y --no-install-recommends $missing >/dev/null || {
    echo "apt-get could not install:$missing" >&2
    exit 1
}
