#!/usr/bin/env bash
# Training steps and decoding beside PyTorch's, and a whole training beside its bare steps. Sets up
# its own Python. The machine should have nothing else to do.
#
#   benches/compare.sh
#
#   ONLY="engine train dropout decode"   parts to run [default: all]; results of the others are kept
#   SHAPES="s m l"       shapes to run
#   TRAIN_VARIANTS="fused compile"   PyTorch's in training, of which the fastest counts
#   DECODE_VARIANTS="eager compile"  the same in decoding
#   PAIRS=5              alternating runs of each
#   OUT=FILE             results [default: benches/results/torch.json]
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/emberlm"
python="$cache/torch-venv/bin/python"

if [ ! -x "$python" ]; then python3 -m venv "$cache/torch-venv"; fi
"$python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy

cargo build --release --locked
target="$(cargo metadata --format-version 1 --no-deps | "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"

"$python" benches/compare_torch.py \
  --emberlm "$target/release/emberlm" \
  --only ${ONLY:-engine train dropout decode} \
  --shapes ${SHAPES:-s m l} \
  --train-variants ${TRAIN_VARIANTS:-fused compile} \
  --decode-variants ${DECODE_VARIANTS:-eager compile} \
  --pairs "${PAIRS:-5}" \
  --out "${OUT:-benches/results/torch.json}"
