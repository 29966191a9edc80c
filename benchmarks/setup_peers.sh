#!/usr/bin/env bash
# A virtual environment for the peers, which sees the project's own but cannot change it: what is pinned there is
# pinned here, and a peer that does not fit with it is left out. The benchmark reports which are missing.
# Usage: benchmarks/setup_peers.sh PROJECT_PYTHON VENV
set -euo pipefail
cd "$(dirname "$0")/.."
project=$1 venv=$2
"$project" -m venv "$venv"
site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$project" -c 'import site; print(site.getsitepackages()[0])' >"$site/project.pth"
pwd >>"$site/project.pth"
while read -r requirement; do
    "$venv/bin/python" -m pip install -q -c constraints.txt $requirement || echo "left out: $requirement"
done < <(grep -v '^#' benchmarks/requirements.txt)
touch "$venv/.installed"
