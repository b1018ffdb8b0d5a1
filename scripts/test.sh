#!/usr/bin/env bash
# scripts/test.sh [pytest arguments]: pytest, after making .venv with the test packages where that is needed.
# Without arguments it runs the whole suite, one process a core (8 at most); with a test's id (file::test) or --pdb,
# one process. Relative paths start at the checkout. PYTHON names the interpreter for .venv, as in train.sh.
set -euo pipefail
unset CDPATH

script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do
  target=$(readlink "$script")
  case $target in
    /*) script=$target ;;
    *) script=$(dirname "$script")/$target ;;
  esac
done
root=$(cd -P "$(dirname "$script")/.." && pwd -P)

# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"
set_up test

processes=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
[ "$processes" -le 8 ] || processes=8
[ "$processes" -gt 1 ] || processes=0 # in pytest's own process
for argument in "$@"; do
  case $argument in
    *::* | --pdb | --trace | -s | --capture=no) processes=0 ;;
  esac
done

cd "$root"
# One thread a process: more would fight for the same cores. A later -n among the arguments wins.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$root/.venv/bin/python" -m pytest -n "$processes" "$@"
