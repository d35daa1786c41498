#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Resolves requirements/requirements.in in a new environment and writes the exact versions to requirements/lock.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder"
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
"$folder/bin/pip" install --quiet "$(grep '^torch==' requirements/requirements.in)"
"$folder/bin/pip" install --quiet -r requirements/requirements.in
{
  echo "# Exact versions of everything in .venv. Made by 'make lock' from requirements.in; do not edit."
  "$folder/bin/python" scripts/list_installed.py
} >requirements/lock.txt
