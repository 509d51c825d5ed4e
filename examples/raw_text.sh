#!/usr/bin/env bash
# Plain texts without a chat template: find licences in a mixed pool, train on the texts, measure perplexity.
#   bash examples/raw_text.sh [FOLDER]     (about 2 minutes on 2 CPU cores)
set -euo pipefail

folder=${1:-raw_text}
python "$(dirname "$0")/raw_text_data.py" "$folder"
model=$(python -c 'from ntkcli.demo import demo_model_path; print(demo_model_path())')
store=$folder/store
on=(--model "$model" --text-as raw)

# 1. What the model sees of a document: its tokens, an end-of-text token, all of it supervised but the first token.
ntksel info --data "$folder/train.jsonl" "${on[@]}" --rows 1

# 2. Choose the pool's texts that are most like the domain's, by the embedding of their first 96 tokens.
for data in train pool; do
  ntksel featurize "$store" "${on[@]}" --data "$folder/$data.jsonl" --name "$data" --kind embed --max-length 96
done
ntksel score "$store" --pool pool --domain train --method cosine --centre --feature embed --name near
ntksel select "$store" --score near -n 12 --name picked

# 3. Train on both: long documents in pieces, several in a sequence of 256 tokens, none of which sees another.
ntksel finetune "$store" "${on[@]}" --train "$folder/train.jsonl" --train picked --name texts --epochs 1 --max-length 256 \
  --pack --batch-size 4 --lr 4e-4

# 4. Perplexity of licences that were in neither set.
ntksel eval "$store" "${on[@]}" --run base --run texts --task "$folder/test.jsonl" --name test --max-length 256
