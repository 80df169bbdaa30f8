#!/usr/bin/env bash
# Makes the tables and cards of a release. DATA holds the converted public traces, named as
# in configs/run/*.yaml (default: data). Hours on two cores; resumes when started again.
set -euo pipefail
cd "$(dirname "$0")/.."
data="${DATA:-data}"

# One card for each router of a job, of its seed 0 where it has one: cards JOB NAME
cards() {
    local run router
    for run in "runs/$1"/*-s0; do
        router="$(basename "${run%-s0}")"
        [ -d "$run" ] && [ "$router" != dataset ] || continue
        distill push "$run" "your-name/$2-$router" --dry-run -o "$run/push" >/dev/null
        cp "$run/push/README.md" "model_cards/$2-$router.md"
    done
}

./scripts/quickstart
. scripts/environment.sh
environment ""
cards quickstart orderdesk
for name in workbench home_assistant tau_retail metatool seal_tools traject; do
    if [ -e "$data/$name.jsonl.gz" ]; then
        distill run "configs/run/$name.yaml" "data.traces=$data/$name.jsonl.gz"
        cards "${name//_/-}" "${name//_/-}"
    else
        echo "$data/$name.jsonl.gz is missing: its table is left out" >&2
    fi
done
