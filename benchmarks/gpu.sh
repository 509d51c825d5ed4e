#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most ten minutes: installs what is missing, runs tests/cuda,
# and measures features against a plain LoRA step and the bound. The table is for docs/results.md.
#   benchmarks/gpu.sh                    on a machine with CUDA, torch and transformers
#   benchmarks/gpu.sh cpu                the same with tiny shapes on a CPU, in under three minutes; names what it leaves out
#   WHEELS=folder benchmarks/gpu.sh      missing packages from a folder of wheels, without a network
#   PYTHON=python3.12 MINUTES=10 benchmarks/gpu.sh
# The copies of torch and transformers that are there stay: every package that is installed is held at its version.
set -euo pipefail
cd "$(dirname "$0")/.."

where=${1:-cuda}
case $where in
  cuda | cpu) ;;
  *)
    echo "benchmarks/gpu.sh $where: give nothing, or cpu." >&2
    exit 2
    ;;
esac
python=${PYTHON:-python3}
minutes=${MINUTES:-10}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

echo "== Packages"
held=$(mktemp)
trap 'rm -f "$held"' EXIT
missing=$("$python" benchmarks/missing_packages.py "$held")
if [ -n "$missing" ]; then
  from=()
  [ -z "${WHEELS:-}" ] || from=(--no-index --find-links "$WHEELS")
  echo "installing $missing"
  # shellcheck disable=SC2086  # names, one word each
  "$python" -m pip install --quiet --constraint "$held" ${from[@]+"${from[@]}"} $missing
fi
"$python" benchmarks/missing_packages.py --check "$where"

echo "== Tests"
status=0
"$python" -m pytest -q -p no:cacheprovider -m cuda tests/cuda || status=$?

echo "== Speed"
left=$((minutes * 60 - SECONDS - 75)) # the last contenders and the imports take up to 75 s more
"$python" -W ignore benchmarks/gpu.py "$where" --minutes "$(((left > 60 ? left : 60) / 60))"
echo "== ${SECONDS} s in all"
exit "$status"
