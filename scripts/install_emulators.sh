#!/usr/bin/env bash
# What runs code of other chips and systems here, from Debian's packages; .ci/run calls it, and so may you.
# Does nothing when everything is there. Needs root, or sudo without a password.
set -euo pipefail

packages=(
  # Arm, POWER, RISC-V and IBM Z: the emulator is qemu-user (below), these are its C libraries.
  libc6-arm64-cross
  libc6-armhf-cross
  libc6-ppc64el-cross
  libc6-riscv64-cross
  libc6-s390x-cross
  # Microcontrollers: whole boards.
  qemu-system-arm
  # WebAssembly in pages, and pictures of them.
  chromium
  # Windows libraries.
  wine
  wine64
)
# WebAssembly, and the packages that are written for it.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
# The C and C++ package of a bundle.
command -v cmake >/dev/null || packages+=(cmake)
# LoongArch's vectors need version 10 of qemu-user; Debian 12 has 7.2, and 10 in its backports.
wanted_qemu=10

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'; }
qemu_version() { qemu-aarch64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\).*/\1/p;q'; }

missing=()
for package in "${packages[@]}"; do
  installed "$package" || missing+=("$package")
done
version="$(qemu_version || true)"  # nothing when there is none
if [[ ${#missing[@]} -eq 0 && "${version:-0}" -ge $wanted_qemu ]]; then
  echo "emulators: all there (qemu-user $version)"
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "emulators: no apt-get here; install by other means: qemu-user $wanted_qemu ${missing[*]:-}" >&2
  exit 1
fi
if [[ $(id -u) -eq 0 ]]; then
  root=()
elif sudo -n true 2>/dev/null; then
  root=(sudo)
else
  echo "emulators: neither root nor sudo without a password; run as root:" >&2
  echo "  apt-get install qemu-user ${missing[*]:-}" >&2
  exit 1
fi

apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@"; }

# The backports come from wherever the release itself comes from: same address, another suite.
add_backports() {
  local release sources=/etc/apt/sources.list.d/debian.sources uri key
  release="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
  [[ -n $release && -r $sources ]] || return 1
  uri="$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' "$sources" | head -n 1)"
  key="$(sed -n 's/^Signed-By: *//p' "$sources" | head -n 1)"
  [[ -n $uri ]] || return 1
  printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n%s' \
    "$uri" "$release" "${key:+Signed-By: $key
}" | "${root[@]}" tee "/etc/apt/sources.list.d/$release-backports.sources" >/dev/null
}

if [[ "${version:-0}" -lt $wanted_qemu ]]; then
  add_backports || echo "emulators: no Debian source to take backports from" >&2
fi
apt update
if [[ ${#missing[@]} -gt 0 ]]; then
  apt install "${missing[@]}"
fi
if [[ "${version:-0}" -lt $wanted_qemu ]]; then
  newest="$(apt-cache madison qemu-user | awk '{ sub(/^[0-9]+:/, "", $3); print $3 }' | sort -V | tail -n 1)"
  if [[ "${newest%%.*}" -ge $wanted_qemu ]]; then
    full="$(apt-cache madison qemu-user | awk -v v="$newest" 'index($3, v) { print $3; exit }')"
    apt install "qemu-user=$full"
  else
    echo "emulators: no qemu-user $wanted_qemu to be had; what needs it will be reported as not run" >&2
    apt install qemu-user
  fi
fi
echo "emulators: ready (qemu-user $(qemu_version))"
