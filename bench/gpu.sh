#!/usr/bin/env bash
# Every check that wants a GPU, in one command of at most 8 minutes, with nothing but this repository and torch:
#
#   bench/gpu.sh                        a table, and one JSON line at the end
#   bench/gpu.sh --minutes 4            what fits; what does not is said
#   bench/gpu.sh --only training,codec  some of the checks
#   bench/gpu.sh --device cpu --quick   the same code on a CPU, tiny: a test of the bench itself
#
# Exit status: 0 all right, or no GPU here (said in words and in the JSON line); 1 a check failed; 2 wrong usage.
# PYTHON names the interpreter; .venv's by default where there is one, else python3.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/../src:$here${PYTHONPATH:+:$PYTHONPATH}"
own="$here/../.venv/bin/python"
if [ -z "${PYTHON:-}" ] && [ -x "$own" ]; then PYTHON=$own; fi
exec "${PYTHON:-python3}" -m gpu "$@"
