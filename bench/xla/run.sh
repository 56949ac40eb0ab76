#!/usr/bin/env bash
# bench/xla/run.sh FOLDER [arguments]: runs check.py in an environment of its own, made in FOLDER if it is not there.
set -euo pipefail

folder=${1:?"usage: bench/xla/run.sh FOLDER [--family rvq|dia]"}
shift
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
    # This package asks for a newer torch than the last torch_xla has, so it is not installed, only found.
    "$folder/bin/pip" install --disable-pip-version-check torch==2.9.0 torch_xla==2.9.0 numpy pyarrow pydantic \
        soundfile soxr
fi
PJRT_DEVICE=CPU PYTHONPATH="$here/../../src" exec "$folder/bin/python" "$here/check.py" "$@"
