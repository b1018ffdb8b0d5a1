#!/usr/bin/env bash
# scripts/train.sh [overrides]: gan-lab train, after making .venv in the checkout where that is needed.
# Without overrides it runs experiment=quickstart. Relative paths in overrides start at the checkout.
# PYTHON names the interpreter for .venv; the default is the first of python3, python3.12, ... that is 3.10 to 3.13.
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
set_up base

cd "$root"
[ $# -gt 0 ] || set -- experiment=quickstart
exec "$root/.venv/bin/gan-lab" train "$@"
