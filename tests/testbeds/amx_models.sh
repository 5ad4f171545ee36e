#!/bin/bash
# amx_models.sh SAME_TEXT R1_QUANTIZE WORK_DIR MODELS_DIR NANO_DIR [AMX_OPTION…]: golden models and r1-nano, quantized
# here, speak with AMX and without: on this machine where it may use AMX, which takes a second, else on an emulated one.
set -euo pipefail
same_text=$1 quantize=$2 work=$3 models=$4 nano=$5
shift 5
here=$(cd "$(dirname "$0")" && pwd)
if "$same_text" --has-amx; then on_amx=(); else
  "$here/amx.sh" --check
  on_amx=("$here/amx.sh" "$@")
fi
mkdir -p "$work"
directories=() options=()
add() {  # add CHECKPOINT RECIPE
  local out
  out=$(realpath "$work")/$(basename "$1")-$2
  "$quantize" "$1" "$out" --recipe "$2" --threads 1 >"$out.log" 2>&1 || { cat "$out.log" >&2; exit 1; }
  directories+=("$out") options+=(--file "$out")
}
add "$models/deepseek-v3-bf16" exact
add "$models/qwen2" exact
add "$models/deepseek-v3-bf16" r2.5
add "$models/deepseek-v3-bf16" r4.5
add "$models/deepseek-v3-bf16" r3.5
add "$models/deepseek-v3-fp8" exact
add "$models/qwen2" r2.7
add "$models/llama" r4.5
add "$nano" r2.7
# Attention takes tiles where heads are whole tiles wide, which the golden models' are not.
for shapes in mla gqa; do
  out=$(realpath "$work")/tiles-$shapes
  "$quantize" synth "$out" --config "$here/shapes/$shapes.json" --layers 2 --recipe exact >"$out.log" 2>&1 ||
    { cat "$out.log" >&2; exit 1; }
  directories+=("$out") options+=(--file "$out")
done
if ((${#on_amx[@]} == 0)); then exec "$same_text" "${directories[@]}"; fi
# A machine may be too slow to emulate all of them in time (one took 2,400 s for nine models, another takes 200 s for
# eleven): what it did is held to be right then, if it got anywhere.
status=0
"${on_amx[@]}" "${options[@]}" "$same_text" "${directories[@]}" | tee "$work/said" || status=${PIPESTATUS[0]}
n_said=$(grep -c 'q8 cache: logits off' "$work/said") || true
if ((status == 124 && n_said > 0)) && ! grep -q FAIL "$work/said"; then
  echo "SKIPPED: this machine emulates too slowly: $n_said of ${#directories[@]} models were the same when time was up"
  exit 77
fi
exit $status
