#!/bin/sh
# Says what is missing before a build says it in other words.
#
#   toolchain.sh build   what the libraries need
#   toolchain.sh test    what `make test` and `make demo` need as well
set -eu
cd "$(dirname "$0")/.."

missing=
need() { # need COMMAND WHAT SOURCE
  command -v "$1" >/dev/null 2>&1 || missing="$missing
  $2 ('$1'; $3)"
}

rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
need "${CARGO:-cargo}" "Rust $rust or newer" "from rustup"
need "${CC:-cc}" "a C compiler" "Debian: gcc"
if [ "${1:-build}" = test ]; then
  need "${CXX:-c++}" "a C++17 compiler" "Debian: g++"
  need bash "bash" "Debian: bash"
  need cmake "CMake 3.14 or newer" "Debian: cmake"
  need python3 "Python 3.9 or newer" "Debian: python3"
  if command -v python3 >/dev/null 2>&1; then
    python3 -m pip --version >/dev/null 2>&1 || missing="$missing
  Python's pip (Debian: python3-pip)"
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing
  Python's venv (Debian: python3-venv)"
  fi
fi

# rustc 1.95.0 (…) -> 1 95
have=$("${RUSTC:-rustc}" --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
if [ -n "$have" ] && [ "${have%% *}" -eq "${rust%%.*}" ] && [ "${have##* }" -lt "${rust##*.}" ]; then
  missing="$missing
  Rust $rust or newer (this one is $("${RUSTC:-rustc}" --version))"
fi

if [ -n "$missing" ]; then
  printf 'TokenJoule needs:%s\n' "$missing" >&2
  exit 1
fi
