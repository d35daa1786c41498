#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every precision of VGGT as one kind of artifact, then one table.
#
# Environment, or arguments NAME=value (default): PYTHON (python3), NUM_CAMS (8), HEIGHT (518), WIDTH (518), MODEL_NAME
# (a model.safetensors or model.pt; "random" for random weights), FORMAT (engine), WORKSPACE_GB, EXPORT (1: export and
# build; 0: measure what is in ENGINE_DIR), ONNX_IN (build from this fp32 ONNX artifact instead of the network),
# NO_SIMPLIFY (0), FORCE_SIMPLIFY (the default here), CALIB_DATA, CALIB_BATCHES (32), ENGINE_DIR (onnx_exports),
# LOG_DIR (ENGINE_DIR/logs), OUT_TXT (LOG_DIR/precisions.txt), ITERS (100), WARMUP (20), EXTRA_ARGS. EXPORTER and INFER
# name other programs for exporting and measuring. IMAGES_DIR, VERBOSE_INFER and CUDA_EVENTS are read and change
# nothing: no time depends on what pictures show, and times always include the end of all work on the GPU.
set -euo pipefail

known=" PYTHON NUM_CAMS HEIGHT WIDTH MODEL_NAME FORMAT WORKSPACE_GB EXPORT ONNX_IN NO_SIMPLIFY FORCE_SIMPLIFY CALIB_DATA \
CALIB_BATCHES ENGINE_DIR LOG_DIR OUT_TXT ITERS WARMUP EXTRA_ARGS EXPORTER INFER IMAGES_DIR VERBOSE_INFER CUDA_EVENTS "
for argument in "$@"; do
  name=${argument%%=*}
  if [[ $argument != *=* || $known != *" $name "* ]]; then
    echo "error: expected NAME=value of one of:$known, found $argument" >&2
    exit 2
  fi
  export "$name=${argument#*=}"
done
for name in IMAGES_DIR VERBOSE_INFER CUDA_EVENTS; do
  if [[ -n ${!name:-} ]]; then echo "note: $name is set and changes nothing, see $0" >&2; fi
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
model=${MODEL_NAME:-random}
folder=${ENGINE_DIR:-onnx_exports}
logs=${LOG_DIR:-$folder/logs}
report=${OUT_TXT:-$logs/precisions.txt}
format=${FORMAT:-engine}
cams=${NUM_CAMS:-8} height=${HEIGHT:-518} width=${WIDTH:-518}
read -ra exporter <<<"${EXPORTER:-$python -m vggt_ros.export_vggt}"
read -ra infer <<<"${INFER:-$python -m aot_runtime.benchmark}"
read -ra extra <<<"${EXTRA_ARGS:-}"
mkdir -p "$folder" "$logs"

engine=()
if [[ $format == engine ]]; then
  if [[ -n ${WORKSPACE_GB:-} ]]; then engine+=(--workspace-gb "$WORKSPACE_GB"); fi
  if [[ -n ${CALIB_DATA:-} ]]; then engine+=(--calib-data "$CALIB_DATA" --calib-batches "${CALIB_BATCHES:-32}"); fi
fi

status=0
if [[ ${EXPORT:-1} == 1 && -n ${ONNX_IN:-} ]]; then
  for precision in fp32 fp16 bf16 fp8 int8; do
    suffix=_$precision
    if [[ $precision == fp32 ]]; then suffix=; fi
    file="$folder/vggt-${cams}x3x${height}x${width}-pcd${suffix}.engine"
    "$python" -m aot_runtime.build_engine "$ONNX_IN" -o "$file" --precision "$precision" "${engine[@]}" "${extra[@]}" \
      2>&1 | tee "$logs/$precision.log" >&2 || echo "refused: $file, see $logs/$precision.log" >&2
  done
elif [[ ${EXPORT:-1} == 1 ]]; then
  arguments=(--num-cams "$cams" --height "$height" --width "$width" --pcd-only --format "$format" --all-precisions)
  if [[ $model == random ]]; then arguments+=(--random-weights); else arguments+=(--checkpoint "$model"); fi
  if [[ ${NO_SIMPLIFY:-0} == 1 && ${FORCE_SIMPLIFY:-0} != 1 ]]; then arguments+=(--no-simplify); fi
  arguments+=(--output-dir "$folder" --runs "${ITERS:-100}" --warmup-runs "${WARMUP:-20}" "${engine[@]}" "${extra[@]}")
  "${exporter[@]}" "${arguments[@]}" 2> >(tee "$logs/export.log" >&2) | tee "$report" || status=$?
  exit "$status"
fi
# Engines that were built from an ONNX file, or that were here.
"${infer[@]}" "$folder" --runs "${ITERS:-100}" --warmup-runs "${WARMUP:-20}" | tee "$report" || status=$?
exit "$status"
