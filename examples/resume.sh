#!/usr/bin/env bash
# Start, kill -9, start again, and compare with a run that nobody broke: the digests and the bytes are the same.
#   bash examples/resume.sh [FOLDER]     (about 2 minutes on 2 CPU cores)
set -euo pipefail

folder=${1:-resume}
python "$(dirname "$0")/demo_data.py" "$folder"
model=$(python -c 'from ntkcli.demo import demo_model_path; print(demo_model_path())')
features=(--data "$folder/test.jsonl" --name licences --kind ntk --model "$model" --text-as raw --part-rows 8)

echo "== a run that nobody breaks"
ntksel featurize "$folder/unbroken" "${features[@]}"

echo "== the same, killed three times"
for parts in 1 2 4; do
  ntksel featurize "$folder/killed" "${features[@]}" >"$folder/killed.log" 2>&1 &
  victim=$!
  while kill -0 "$victim" 2>/dev/null; do
    done_parts=$({ find "$folder/killed/arrays.zarr/features/licences/ntk/part/c" -type f 2>/dev/null || true; } | wc -l)
    if [ "$done_parts" -ge "$parts" ]; then kill -9 "$victim" 2>/dev/null || true; fi
    sleep 0.05
  done
  wait "$victim" || echo "killed with $done_parts of 8 parts done"
done

echo "== the same command once more continues from there"
ntksel featurize "$folder/killed" "${features[@]}"

digest() { ntksel info "$1" --json | python -c 'import json, sys
print(next(a["digest"] for a in json.load(sys.stdin)["artefacts"] if a["name"] == "features/licences/ntk"))'; }
test "$(digest "$folder/unbroken")" = "$(digest "$folder/killed")"
diff -r "$folder/unbroken/arrays.zarr/features" "$folder/killed/arrays.zarr/features"
echo "same digest, same bytes: $(digest "$folder/killed")"
