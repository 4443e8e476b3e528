#!/usr/bin/env bash
# The first eight minutes on a machine with a GPU: everything that can only be learnt there, each step with a limit of its
# own, so that one that fails or hangs costs the others nothing. Needs the package with its test extra, and NAS_OPTUNA_DATA
# for MNIST and CIFAR-10 (else the built-in digits are used).
#
#     bash benchmarks/gpu_day.sh [FOLDER]     →  FOLDER/gpu_day.json and FOLDER/gpu_day.md (FOLDER is gpu-day if left out)
#
# Where there is no CUDA device every step says so, and the exit code is 0.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-day}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"
step() { # NAME SECONDS
    timeout --kill-after=5 "$2" python "$here/gpu_day.py" step "$1" --out "$out" >"$out/$1.log" 2>&1
    code=$?
    [ $code -eq 0 ] || python "$here/gpu_day.py" failed "$1" --out "$out" --code $code --limit "$2"
}
step tests 60
step roofline 45
step graphs 40
step workers 90
step supernet 40
step fit 145
step latency 40
python "$here/gpu_day.py" page --out "$out"
