#!/bin/sh
# Pin what a fresh environment resolves to: requirements.lock for the demo, requirements-dev.lock for the tests and benchmarks,
# which have the same pins and more. The pin of torch stays by hand: its default build brings several GB of GPU libraries,
# 2.13.0 has a small one for processors.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --upgrade pip
"$work/venv/bin/pip" install --quiet "setuptools>=77" wheel torch==2.13.0

pin() { # FILE EXTRA TARGET...
    file=$1 extra=$2
    shift 2
    "$work/venv/bin/pip" install --quiet ".[$extra]"
    {
        echo "# Written by 'make lock': every package that 'make $*' install, pinned."
        "$work/venv/bin/pip" freeze --all | grep -v -i -e '^trunkline' -e '^pip==' | sed -e 's/ @ .*//' -e 's/+cpu$//'
    } > "$file"
}

# The larger set first decides, so that the smaller one can be a part of it.
pin requirements-dev.lock dev "test' and 'make bench"
rm -rf "$work/venv"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --upgrade pip
"$work/venv/bin/pip" install --quiet --constraint requirements-dev.lock "setuptools>=77" wheel torch==2.13.0
PIP_CONSTRAINT="$PWD/requirements-dev.lock" pin requirements.lock demo demo
