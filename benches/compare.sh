#!/usr/bin/env bash
# Training steps beside PyTorch's, and a whole training beside its bare steps. Sets up its own
# Python. The machine should have nothing else to do.
#
#   benches/compare.sh
#
#   SHAPES="s m l"       shapes to run
#   VARIANTS="fused compile"   PyTorch's, of which the faster one counts
#   PAIRS=5              alternating runs of each
#   OUT=FILE             results [default: benches/results/training.json]
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/emberlm"
python="$cache/torch-venv/bin/python"

if [ ! -x "$python" ]; then python3 -m venv "$cache/torch-venv"; fi
"$python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy

cargo build --release --locked
target="$(cargo metadata --format-version 1 --no-deps | "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"

"$python" benches/compare_training.py \
  --emberlm "$target/release/emberlm" \
  --shapes ${SHAPES:-s m l} \
  --variants ${VARIANTS:-fused compile} \
  --pairs "${PAIRS:-5}" \
  --out "${OUT:-benches/results/training.json}"
