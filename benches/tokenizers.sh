#!/usr/bin/env bash
# Tokenizers and data at their real size, beside the Python packages tokenizers and tiktoken.
#
#   benches/tokenizers.sh [TEXT]
#
# TEXT is a UTF-8 file, by default about 100 MB of English and of code that compare_tokenizers.py
# gathers from Debian's packages and from cargo's registry. The machine should have nothing else to
# do.
#
#   ONLY="train encode prepare loader"   parts to run [default: all]
#   PAIRS=5                              alternating runs of each
#   VOCAB_SIZE=16000                     tokens of the tokenizer that is trained
#   PREPARE_BYTES=1000000000             text that is prepared: TEXT over and over
#   OUT=FILE                             results [default: benches/results/tokenizers.json]
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/emberlm"
python="$cache/bench-venv/bin/python"

if [ ! -x "$python" ]; then python3 -m venv "$cache/bench-venv"; fi
"$python" -m pip install --quiet --disable-pip-version-check tokenizers==0.23.3 tiktoken==0.14.0

cargo build --release --locked
target="$(cargo metadata --format-version 1 --no-deps | "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"

text="${1:-$cache/bench-text/text.txt}"
if [ $# = 0 ] && [ ! -f "$text" ]; then
  "$python" benches/compare_tokenizers.py text "$text"
fi
"$python" benches/compare_tokenizers.py compare "$text" \
  --emberlm "$target/release/emberlm" \
  --only ${ONLY:-train encode prepare loader} \
  --pairs "${PAIRS:-5}" \
  --vocab-size "${VOCAB_SIZE:-16000}" \
  --prepare-bytes "${PREPARE_BYTES:-1000000000}" \
  --out "${OUT:-benches/results/tokenizers.json}"
