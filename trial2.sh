#!/bin/bash
name=$1; shift
cd /work/codec6/snap
export MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_MMAP_THRESHOLD_=4000000000
OMP_NUM_THREADS=1 PYTHONPATH=/work/codec6/snap/src exec nice -n -10 /work/env/v/bin/python -c "import sys; from partimento.cli.main import main; sys.exit(main(sys.argv[1:]))" train /work/codec6/t44.toml --runs /work/codec6/runs --run $name "$@" > /work/codec6/$name.log 2>&1
