#!/bin/sh
# Pin what a fresh environment resolves to, for the core, all extras that tests use, and the tools.
# The pin of torch stays by hand: its default build brings several GB of GPU libraries, 2.13.0 has a small one for processors.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --upgrade pip
"$work/venv/bin/pip" install --quiet "setuptools>=77" wheel torch==2.13.0
"$work/venv/bin/pip" install --quiet ".[dev]"
{
    echo "# Written by 'make lock': every package that 'make demo' and 'make test' install, pinned."
    "$work/venv/bin/pip" freeze --all | grep -v -i -e '^trunkline' -e '^pip==' | sed -e 's/ @ .*//' -e 's/+cpu$//'
} > requirements.lock
