#!/usr/bin/env bash
# Makes the tables and cards of a release. DATA holds the converted public traces, named as
# in configs/run/*.yaml (default: data). Hours on two cores; resumes when started again.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${DATA:-data}"
./scripts/quickstart
. scripts/environment.sh
environment ""
for name in workbench home_assistant tau_retail metatool; do
    if [ -e "$data/$name.jsonl.gz" ]; then
        distill run "configs/run/$name.yaml" "data.traces=$data/$name.jsonl.gz"
    else
        echo "$data/$name.jsonl.gz is missing: its table is left out" >&2
    fi
done
for router in majority tfidf rnn encoder decoder; do
    run="runs/quickstart/$router-s0"
    distill push "$run" "your-name/orderdesk-$router" --dry-run -o "$run/push" >/dev/null
    cp "$run/push/README.md" "model_cards/orderdesk-$router.md"
done
