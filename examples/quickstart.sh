#!/usr/bin/env bash
# NTK-Selector by hand: the chain of README.md on the demo's files. Every command can be killed and given again.
#   bash examples/quickstart.sh [FOLDER]     (about 4 minutes on 2 CPU cores)
set -euo pipefail

folder=${1:-quickstart}
python "$(dirname "$0")/demo_data.py" "$folder"
model=$(python -c 'from ntkcli.demo import demo_model_path; print(demo_model_path())')
store=$folder/store
on=(--model "$model" --text-as raw --max-length 65)

# 1. Warm up on the domain.
ntksel finetune "$store" "${on[@]}" --train "$folder/train.jsonl" --name warmup --epochs 1 --batch-size 4

# 2. Pre-select: each domain row votes for its nearest pool rows by embedding.
for data in train pool; do
  ntksel featurize "$store" "${on[@]}" --data "$folder/$data.jsonl" --name "$data" --kind embed --adapter warmup
done
ntksel score "$store" --pool pool --domain train --method votes --feature embed --name stage1
ntksel select "$store" --score stage1 -n 192 --name coarse

# 3. Score what is left by the neural tangent kernel and take the best.
ntksel featurize "$store" "${on[@]}" --data "$folder/train.jsonl" --name train --kind ntk --probe centred --adapter warmup
ntksel featurize "$store" "${on[@]}" --data "$folder/pool.jsonl" --name pool --kind ntk --probe centred --adapter warmup \
  --rows coarse
ntksel score "$store" --pool pool --domain train --method cosine --centre --feature ntk --rows coarse --name stage2
ntksel select "$store" --score stage2 -n 48 --name picked --export "$folder/picked.jsonl"

# 4. Train on domain and selection, and measure the perplexity of licences that were in neither.
ntksel finetune "$store" "${on[@]}" --train "$folder/train.jsonl=3" --train picked --name mixed --epochs 1 --batch-size 4
ntksel eval "$store" "${on[@]}" --run base --run warmup --run mixed --task "$folder/test.jsonl" --name test
ntksel info "$store"
