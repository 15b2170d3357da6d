#!/usr/bin/env bash
# Unpacks the Python 3.9 of Debian 11 into a folder: `debian_python39.sh FOLDER`. Nothing is installed.
#
# For Debian machines, of any release and without root, that cannot download a Python 3.9 from elsewhere. apt-get
# fetches the packages from the mirror of the machine, with lists of its own; versions and digests are in
# debian_python39.sha256.
set -euo pipefail

target=$1
pins=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/debian_python39.sha256

if ! grep -q '^ID=debian$' "${OS_RELEASE:-/etc/os-release}" 2>/dev/null || [ "$(dpkg --print-architecture)" != amd64 ]; then
  echo "the packages of Debian 11 are for Debian on x86-64" >&2
  exit 1
fi
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' | grep -v security | head -n 1) || true
if [ -z "$mirror" ]; then
  echo "apt-get has no mirror: see /etc/apt/sources.list" >&2
  exit 1
fi
for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do [ -f "$keyring" ] && break; done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,packages}
echo "deb [signed-by=$keyring] $mirror bullseye main" >"$work/sources.list"
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$work/state" \
    -o Dir::Cache="$work/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User="$(id -un)" \
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}
apt update
cd "$work/packages"
# A file is called NAME_VERSION_ARCHITECTURE.deb, with the colon of a version as %3a.
mapfile -t packages < <(sed -n 's/^[0-9a-f]*  \([^_]*\)_\([^_]*\)_.*/\1=\2/p' "$pins" | sed 's/%3a/:/')
apt download "${packages[@]}"
grep -v '^#' "$pins" | sha256sum --check --quiet -
for package in ./*.deb; do dpkg-deb -x "$package" "$work/root"; done

# Its libraries are found beside it, in any folder and on any machine.
cd "$work/root"
mv lib/x86_64-linux-gnu/* usr/lib/x86_64-linux-gnu/
usr/bin/patchelf --set-rpath '$ORIGIN/../lib/x86_64-linux-gnu' usr/bin/python3.9
find usr/lib/x86_64-linux-gnu -name '*.so.*' -type f -exec usr/bin/patchelf --set-rpath '$ORIGIN' {} +
find usr/lib/python3.9/lib-dynload -name '*.so' -exec usr/bin/patchelf --set-rpath '$ORIGIN/../../x86_64-linux-gnu' {} +
# Debian's ensurepip takes its wheels from the machine's /usr.
sed -i "s#'/usr/share/python-wheels#sys.base_prefix + '/share/python-wheels#" usr/lib/python3.9/ensurepip/__init__.py
usr/bin/python3.9 -c 'import bz2, ctypes, ensurepip, hashlib, lzma, sqlite3, ssl, venv, zlib'

rm -rf "$target"
mkdir -p "$(dirname "$target")"
cp -a usr "$target.new"
mv "$target.new" "$target"
