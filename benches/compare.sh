#!/usr/bin/env bash
# Training steps and decoding beside PyTorch's, a whole training beside its bare steps, and its loss
# beside PyTorch's from the same weights. Sets up its own Python. The machine should have nothing else
# to do.
#
#   benches/compare.sh
#   DEVICE=cuda benches/compare.sh
#
#   ONLY="engine train dropout decode curves"   parts to run; results of the others are kept
#                        [default: all but curves; on a GPU train, decode and curves]
#   SHAPES="s m l"       shapes to run [default: these; xl on a GPU]
#   TRAIN_VARIANTS="fused compile"   PyTorch's in training, of which the fastest counts
#   DECODE_VARIANTS="eager compile"  the same in decoding
#   PAIRS=5              alternating runs of each
#   OUT=FILE             results [default: benches/results/torch.json; torch-cuda.json on a GPU]
#   DEVICE=cuda          on an NVIDIA GPU [default: cpu]
#   PRECISION=bf16       of training [default: f32; bf16 on a GPU]
#   BATCHES="8 16"       of training [default: the shapes'; 8 16 32 64 on a GPU]
#   DECODE_BATCHES="1"   sequences that are continued together [default: 1; 1 32 on a GPU]
#   PEAK_TFLOPS=990      what the GPU can do at most, by its maker [default: not told]
#   CONFIG=gpt2          what `curves` trains, like GPT-2 but for its sizes [default: gpt2], for STEPS=1000
#   EMBERLM=FILE         the program, and PYTHON=FILE a Python with torch, numpy and safetensors
#                        [default: both are made here]
set -euo pipefail
cd "$(dirname "$0")/.."
device="${DEVICE:-cpu}"

if [ "$device" = cuda ]; then
  features=(--features cuda)
  : "${ONLY:=train decode curves}" "${SHAPES:=xl}" "${PRECISION:=bf16}" "${BATCHES:=8 16 32 64}"
  : "${DECODE_BATCHES:=1 32}" "${OUT:=benches/results/torch-cuda.json}"
else
  features=()
  : "${ONLY:=engine train dropout decode}" "${SHAPES:=s m l}" "${PRECISION:=f32}"
  : "${DECODE_BATCHES:=1}" "${OUT:=benches/results/torch.json}"
fi

if [ -z "${PYTHON:-}" ]; then
  environment="${XDG_CACHE_HOME:-$HOME/.cache}/emberlm/torch-venv"
  PYTHON="$environment/bin/python"
  if [ ! -x "$PYTHON" ]; then python3 -m venv "$environment"; fi
  "$PYTHON" -m pip install --quiet --disable-pip-version-check torch==2.15.0 numpy safetensors
fi
if [ -z "${EMBERLM:-}" ]; then
  cargo build --release --locked "${features[@]}"
  target="$(cargo metadata --format-version 1 --no-deps | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"
  EMBERLM="$target/release/emberlm"
fi

speed=()
for part in $ONLY; do if [ "$part" != curves ]; then speed+=("$part"); fi; done
if [ ${#speed[@]} -gt 0 ]; then
  "$PYTHON" benches/compare_torch.py \
    --emberlm "$EMBERLM" \
    --device "$device" \
    --precision "$PRECISION" \
    --only "${speed[@]}" \
    --shapes $SHAPES \
    ${BATCHES:+--batches $BATCHES} \
    --decode-batches $DECODE_BATCHES \
    ${PEAK_TFLOPS:+--peak-tflops "$PEAK_TFLOPS"} \
    --train-variants ${TRAIN_VARIANTS:-fused compile} \
    --decode-variants ${DECODE_VARIANTS:-eager compile} \
    --pairs "${PAIRS:-5}" \
    --out "$OUT"
fi
case " $ONLY " in *" curves "*)
  "$PYTHON" benches/compare_curves.py --emberlm "$EMBERLM" --device "$device" \
    --precision "$PRECISION" --config "${CONFIG:-gpt2}" --steps "${STEPS:-1000}" --out "${OUT%.json}-curves.json" ;;
esac
