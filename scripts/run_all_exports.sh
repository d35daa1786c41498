#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every quantisation mode and every precision of VGGT, then one table. What exists already is not made again; what
# cannot be made is in the table with the reason.
#
# Environment (default): PYTHON (python3), NUM_CAMS (8), HEIGHT (518), WIDTH (518), MODEL (a model.safetensors or
# model.pt; "random" for random weights), BASE_OUTPUT (onnx_exports), CALIB_DATA (folder of pictures or arrays for int8
# and fp8; examples/room/images where that exists), CALIB_BATCHES (32), CALIB_SEED (1337), PCD_ONLY (1), EXTRA_ARGS,
# BENCHMARK (1: time what can run here), BENCHMARK_ITERS (100), BENCHMARK_WARMUP (20), FORMAT (engine),
# QUANT_MODES and PRECISIONS (all). CALIB_CPU, BENCHMARK_CUDA_EVENTS and IMAGES_DIR are read and change nothing:
# ranges are always measured on the CPU, times always include the end of all work on the GPU, and no time depends on
# what the pictures show.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
model=${MODEL:-random}
output=${BASE_OUTPUT:-onnx_exports}
format=${FORMAT:-engine}
cams=${NUM_CAMS:-8} height=${HEIGHT:-518} width=${WIDTH:-518}
calibration=${CALIB_DATA:-}
if [[ -z $calibration && -d examples/room/images ]]; then calibration=examples/room/images; fi
read -ra modes <<<"${QUANT_MODES:-none torch-int8-dynamic bitsandbytes-8bit bitsandbytes-nf4 bitsandbytes-fp4 modelopt-fp8 modelopt-nvfp4}"
read -ra precisions <<<"${PRECISIONS:-fp32 fp16 bf16 fp8 int8}"
read -ra extra <<<"${EXTRA_ARGS:-}"

for name in CALIB_CPU BENCHMARK_CUDA_EVENTS IMAGES_DIR; do
  if [[ -n ${!name:-} ]]; then echo "note: $name is set and changes nothing, see $0" >&2; fi
done

common=(--num-cams "$cams" --height "$height" --width "$width" --format "$format")
if [[ $model == random ]]; then common+=(--random-weights); else common+=(--checkpoint "$model"); fi
pcd=
if [[ ${PCD_ONLY:-1} == 1 ]]; then
  common+=(--pcd-only)
  pcd=-pcd
fi
runs=0
if [[ ${BENCHMARK:-1} == 1 ]]; then runs=${BENCHMARK_ITERS:-100}; fi
common+=(--runs "$runs" --warmup-runs "${BENCHMARK_WARMUP:-20}")

mkdir -p "$output"
attempts="$output/exports.jsonl"
made=0
for mode in "${modes[@]}"; do
  for precision in "${precisions[@]}"; do
    suffix=_$precision
    if [[ $precision == fp32 ]]; then suffix=; fi
    folder=$output
    if [[ $mode != none ]]; then folder=$output/$mode; fi
    file="$folder/vggt-${cams}x3x${height}x${width}${pcd}${suffix}.${format}"
    if [[ -e $file ]]; then
      echo "note: $file exists already" >&2
      made=1
      continue
    fi
    arguments=("${common[@]}" --quant-mode "$mode" --precision "$precision" --summary "$attempts")
    if [[ $format == engine && ($precision == int8 || $precision == fp8) && -n $calibration ]]; then
      arguments+=(--calib-data "$calibration" --calib-batches "${CALIB_BATCHES:-32}" --calib-seed "${CALIB_SEED:-1337}")
    fi
    echo "== $mode $precision" >&2
    if "$python" -m vggt_ros.export_vggt "${arguments[@]}" -o "$file" "${extra[@]}" >&2; then made=1; fi
  done
done
if [[ -e $attempts ]]; then "$python" -m vggt_ros.summary "$attempts"; fi
if [[ $made == 0 ]]; then
  echo "error: expected at least one artifact, found every one refused" >&2
  exit 2
fi
