#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv: torch, ROS 2 and everything else at the versions of requirements/lock.txt, the messages of interfaces/,
# and this package in editable mode. Each step leaves a stamp with the digest of what it was made from, so that
# running it again does only what has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3.11}
STAMPS=$VENV/.stamps
# The ROS wheels tell a child process through this variable that its environment is prepared, which would be wrong
# for another virtual environment than the one this script was called from.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH

die() { printf 'error: %s\n' "$1" >&2; exit 2; }
need() { command -v "$1" >/dev/null 2>&1 || die "expected the program '$1', found none; run: sudo apt-get install $2"; }
fresh() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$2" ]; }
stamp() { mkdir -p "$STAMPS"; printf '%s' "$2" >"$STAMPS/$1"; }
say() { printf '[setup] %s\n' "$1"; }

need "$PYTHON" "python3.11 python3.11-venv  (the ROS 2 wheels exist for CPython 3.11; or set PYTHON=/path/to/python3.11)"
need g++ g++
need cmake cmake
need make make
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
  die "expected CPython 3.11, found $("$PYTHON" --version); set PYTHON=/path/to/python3.11"

if [ ! -x "$VENV/bin/python" ]; then
  say "virtual environment in $VENV"
  "$PYTHON" -m venv "$VENV" || die "could not make a virtual environment; run: sudo apt-get install python3.11-venv"
fi
PIP=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)

lock=$(sha256sum <requirements/lock.txt | cut -d' ' -f1)
if ! fresh lock "$lock"; then
  # With its own dependencies, because which ones torch needs depends on the build (CPU or CUDA) that the index
  # offers. TORCH_INDEX_URL names a further index, for instance PyTorch's own one for CPU builds.
  torch=$(grep '^torch==' requirements/lock.txt)
  say "$torch"
  "${PIP[@]}" ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -c requirements/lock.txt "$torch"
  say "ROS 2 and everything else of requirements/lock.txt (about a minute)"
  grep -v '^torch==' requirements/lock.txt >"$VENV/lock-without-torch.txt"
  "${PIP[@]}" --no-deps -r "$VENV/lock-without-torch.txt"
  "$VENV/bin/python" scripts/fix_wheel_cmake.py
  stamp lock "$lock"
  rm -f "$STAMPS/interfaces" "$STAMPS/package"
fi

interfaces=$(find interfaces -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
if ! fresh interfaces "$interfaces"; then
  prefix=$(cd "$VENV" && pwd)
  mkdir -p "$prefix/build"
  for source in interfaces/*/; do
    name=$(basename "$source")
    say "$name"
    build=$prefix/build/$name
    rm -rf "$build"
    log=$prefix/build/$name.log
    if ! (
      export AMENT_PREFIX_PATH=$prefix CMAKE_PREFIX_PATH=$prefix LD_LIBRARY_PATH=$prefix/lib
      export ROS_VERSION=2 ROS_DISTRO=jazzy PATH=$prefix/bin:$PATH
      cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
        -DCMAKE_INSTALL_PREFIX="$prefix" -DPython3_EXECUTABLE="$prefix/bin/python"
      cmake --build "$build" --parallel "${BUILD_JOBS:-2}"
      cmake --install "$build"
    ) >"$log" 2>&1; then
      tail -n 30 "$log" >&2
      die "building the interface $name failed; the whole log is $log"
    fi
  done
  stamp interfaces "$interfaces"
fi

package=$(cat setup.py setup.cfg pyproject.toml | sha256sum | cut -d' ' -f1)
if ! fresh package "$package"; then
  say "aot_perception (editable)"
  "${PIP[@]}" --no-deps --no-build-isolation --editable .
  stamp package "$package"
fi
