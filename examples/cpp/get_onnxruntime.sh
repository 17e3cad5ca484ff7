#!/bin/sh
# Put together what generate_ort is built with, on Debian and its kin where there is no libonnxruntime-dev:
# FOLDER/lib from the Python package onnxruntime, FOLDER/include from Debian's package in a newer release.
# An older header (1.21) goes with a newer library: the C API keeps its versions.
set -eu
if [ $# -ne 1 ]; then
    echo "usage: [PYTHON=python3] $0 FOLDER" >&2
    exit 2
fi
mkdir -p "$1"
cd "$1"
fail() {
    echo "get_onnxruntime.sh: $1; or give cmake -DONNXRUNTIME_ROOT=FOLDER of an onnxruntime release" >&2
    exit 1
}

library=$("${PYTHON:-python3}" -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("onnxruntime")
print(*(pathlib.Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*") if spec else [])
')
[ -f "$library" ] || fail "no onnxruntime with its own library in ${PYTHON:-python3}: pip install 'onnxruntime>=1.21'"
mkdir -p lib
ln -sf "$library" lib/libonnxruntime.so
ln -sf "$library" lib/libonnxruntime.so.1

if [ ! -f include/onnxruntime_cxx_api.h ]; then
    site=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Created-By: Packages' 2>/dev/null | head -n 1)
    [ -n "$site" ] || fail "apt-get knows no mirror of Debian: run apt-get update"
    # Lists and cache of its own: the machine's packages stay as they are.
    mkdir -p apt/lists/partial apt/cache/archives/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" >apt/sources.list
    apt() {
        apt-get -qq -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User= \
            -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" "$@"
    }
    apt update && apt download libonnxruntime-dev || fail "apt-get could not download libonnxruntime-dev of trixie"
    dpkg-deb -x libonnxruntime-dev_*.deb apt/package
    mkdir -p include
    cp apt/package/usr/include/onnxruntime/*.h include/
    rm -r apt libonnxruntime-dev_*.deb
fi
