# SPDX-License-Identifier: Apache-2.0
"""A folder of precomputed BEV features: what is in its files, what says so, and how it survives kills and full disks.

    manifest.json              what computed the features, on which grid, how they are stored
    SPLIT/TOKEN.safetensors    one map (or TOKEN.pt)
    SPLIT/index.jsonl          a line for each map: size, digest, stamp, ego pose, cameras
    SPLIT/failed.jsonl         a line for each sample that could not be done, with the reason
    SPLIT/timings.jsonl        seconds for each map

While a writer works, its lines are in index.WRITER.jsonl and so on; they are merged when it ends.
"""
