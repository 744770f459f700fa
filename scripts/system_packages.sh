#!/usr/bin/env bash
# Install the Debian packages that some tests need (tests/cluster/REQUIRED says which), where this may be done: as root, with apt.
# Elsewhere it says what is missing and continues; those tests are then skipped, and `.ci/run` says so and fails.
set -euo pipefail
declare -A needs=([prometheus]=prometheus [chromium]=chromium [/usr/sbin/sshd]=openssh-server [rsync]=rsync [ip]=iproute2 [bwrap]=bubblewrap [setpriv]=util-linux)
missing=()
for program in "${!needs[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("${needs[$program]}")
done
[ -n "$(find /lib /usr/lib -name 'libseccomp.so.2' -print -quit 2>/dev/null)" ] || missing+=(libseccomp2)
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "system packages: cannot install ${missing[*]} (needs root and apt-get)" >&2
  exit 0
fi
echo "system packages: installing ${missing[*]}"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
  { tail -n 5 "$log" >&2; echo "system packages: ${missing[*]} could not be installed, see $log" >&2; }
