#!/bin/bash
# deploy/fetch_weights.sh DIR [flags of `plan`; without any: --preset flux]: fetch what is missing of the models that a run
# with these flags uses into DIR. Afterwards, wherever it works: HF_HOME=DIR/hf REFLECTIONFLOW_WEIGHTS=DIR.
# Some models are gated: accept their licence on the model's page, and set HF_TOKEN.
set -euo pipefail
weights=${1:?deploy/fetch_weights.sh DIR [flags of plan]}
shift
code=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$weights"
cd "$weights"
export HF_HOME=$PWD/hf REFLECTIONFLOW_WEIGHTS=$PWD PYTHONPATH=$code

(($#)) || set -- --preset flux
commands=$(python -m pipelines plan "$@" --fetch)  # a usage error ends it here
bash -euxo pipefail -c "$commands"
