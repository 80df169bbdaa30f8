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
# A …_gpu comes after its set's own job, so that its decoder's card is the one that stays.
for name in orderdesk orderdesk_gpu; do
    distill run "configs/run/$name.yaml"
    cards "${name//_/-}" orderdesk
done
for name in workbench home_assistant tau_retail metatool seal_tools traject home_assistant_gpu; do
    set="${name%_gpu}"
    if [ -e "$data/$set.jsonl.gz" ]; then
        distill run "configs/run/$name.yaml" "data.traces=$data/$set.jsonl.gz"
        cards "${name//_/-}" "${set//_/-}"
    else
        echo "$data/$set.jsonl.gz is missing: its table is left out" >&2
    fi
done
