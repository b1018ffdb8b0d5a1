# shellcheck shell=bash
# Sourced by train.sh, test.sh and .ci/run, which set $root to the checkout. `set_up base` or `set_up test` makes
# $root/.venv fit pyproject.toml, or stops the script with one sentence: exit 2 for Python, 1 for all else.
# Writes nothing outside the checkout, and all its messages go to stderr. Runs on bash 3.2 (macOS).
#
# Its files in .venv: setup.base and setup.test (what was installed, written last), setup.log (output of venv and pip),
# setup.lock and setup.pid (who works on it), setup.creating and setup.installing (present after an interrupted
# set-up), setup.tmp (temporary files).

: "${root:?set root to the checkout before sourcing setup.sh}"
venv=$root/.venv
checkout_line="checkout $root"
python=    # the interpreter that makes .venv
minor=     # its version, such as 3.11
child=     # the venv or pip process that runs now

say() { printf '%s\n' "$*" >&2; }

fail() { # STATUS SENTENCE
  [ -t 2 ] && printf '\r\033[K' >&2
  say "$2"
  exit "$1"
}

# ---------------------------------------------------------------- what is wanted, and whether it is there

# The lines of pyproject.toml that decide what pip installs: no comments, no tool settings, no description.
dependency_lines() {
  LC_ALL=C awk '
    { sub(/\r$/, ""); sub(/[ \t]+#[^"\047]*$/, "") }
    /^[ \t]*(#|$)/ { next }
    /^\[/ {
      keep = /^\[(build-system|project\.(optional-dependencies|scripts|entry-points.*)|tool\.hatch\.build.*)\]/
      project = /^\[project\]/
      if (keep) print
      next
    }
    project && /^[A-Za-z]/ { keep = /^(name|requires-python|dependencies)[ \t]*=/ }
    keep { gsub(/[ \t]+/, " "); print }
  ' "$root/pyproject.toml"
}

# The inode changes when the interpreter is upgraded in place; asking it costs no start of Python.
interpreter_line() {
  local inode
  inode=$(ls -Li "$venv/bin/python" 2>/dev/null) || return 1
  inode=${inode#"${inode%%[! ]*}"}
  printf 'interpreter %s\n' "${inode%% *}"
}

wanted() { printf '%s\n%s\n%s\n' "$checkout_line" "$1" "$dependencies"; }

is_current() { # base|test
  local interpreter
  [ -x "$venv/bin/python" ] && [ -f "$venv/setup.$1" ] && [ ! -e "$venv/setup.installing" ] &&
    { [ -z "$minor" ] || [ -d "$venv/lib/python$minor" ]; } &&
    interpreter=$(interpreter_line) && [ "$(<"$venv/setup.$1")" = "$(wanted "$interpreter")" ]
}

# ---------------------------------------------------------------- choice of Python

probe='
import sys
try:
    import ensurepip, venv
    print("%d.%d ok" % sys.version_info[:2])
except ImportError:
    print("%d.%d no-venv" % sys.version_info[:2])
'

choose_python() {
  local candidates name path answer found='' without_venv='' search_path
  # An activated .venv must not be built from itself.
  search_path=$(printf '%s\n' "$PATH" | tr : '\n' | grep -vxF "$venv/bin" | tr '\n' :) || search_path=$PATH
  case ${PYTHON:-} in
    "$venv"/*) candidates='' ;;
    *) candidates=${PYTHON:-} ;;
  esac
  if [ -n "$candidates" ]; then
    set -- "$candidates"
  else
    set -- python3 python3.12 python3.11 python3.13 python3.10
  fi
  for name in "$@"; do
    path=$(PATH=$search_path; command -v -- "$name" 2>/dev/null) || continue
    case $path in
      /*) ;;
      */*) path=$PWD/$path ;;
    esac
    answer=$("$path" -E -s -c "$probe" </dev/null 2>/dev/null) || continue
    case $answer in
      '3.10 ok' | '3.11 ok' | '3.12 ok' | '3.13 ok')
        python=$path minor=${answer% ok}
        return
        ;;
      '3.10 no-venv' | '3.11 no-venv' | '3.12 no-venv' | '3.13 no-venv')
        without_venv=${without_venv:-${answer% *}}
        ;;
    esac
    found="$found${found:+, }$name is ${answer% *}"
  done
  if [ -n "$without_venv" ]; then
    fail 2 "Python $without_venv is here without its venv and ensurepip modules: install them (on Debian and Ubuntu the package python$without_venv-venv), then run this again."
  elif [ -n "$candidates" ]; then
    fail 2 "PYTHON=$candidates is no Python 3.10 to 3.13 (${found:-it does not run}): set PYTHON to one that is, or unset it."
  fi
  fail 2 "No Python 3.10 to 3.13 found (${found:-no python3 on PATH}): install one, for example 3.12 with its venv module, or set PYTHON to where it is."
}

# ---------------------------------------------------------------- one set-up at a time

# The lock is a symbolic link because its creation is atomic and its target can name the owner: PID@HOST.
runs() { kill -0 "$1" 2>/dev/null || ps -p "$1" >/dev/null 2>&1; }

is_abandoned() { # OWNER
  [ "${1#*@}" = "${HOSTNAME:-}" ] || return 1
  runs "${1%%@*}" && return 1
  # A killed script can leave its pip behind, still writing to .venv.
  local pid
  pid=$(cat "$venv/setup.pid" 2>/dev/null) || return 0
  [ -z "$pid" ] || ! runs "$pid"
}

lock() {
  local me="$$@${HOSTNAME:-}" link=$venv/setup.lock owner told='' misses=0
  until ln -s "$me" "$link" 2>/dev/null; do
    if ! owner=$(readlink "$link" 2>/dev/null); then
      misses=$((misses + 1))
      [ "$misses" -lt 10 ] || fail_to_write "$venv"
    elif is_abandoned "$owner"; then
      if ln -s "$me" "$link.break" 2>/dev/null; then
        [ "$(readlink "$link" 2>/dev/null)" != "$owner" ] || rm -f "$link" "$venv/setup.pid"
        rm -f "$link.break"
        continue
      fi
      owner=$(readlink "$link.break" 2>/dev/null) && ! runs "${owner%%@*}" && rm -f "$link.break"
    elif [ -z "$told" ]; then
      told=1
      say "Waiting for another set-up of .venv (process ${owner%%@*} on ${owner#*@}; if it is gone, remove $link)."
    fi
    sleep 0.2
  done
  trap 'clean_up' EXIT
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM
  trap 'interrupted 129' HUP
}

unlock() {
  trap - EXIT INT TERM HUP
  clean_up
}

clean_up() {
  rm -rf "$venv/setup.tmp"
  [ "$(readlink "$venv/setup.lock" 2>/dev/null)" != "$$@${HOSTNAME:-}" ] || rm -f "$venv/setup.pid" "$venv/setup.lock"
}

interrupted() { # STATUS
  local tries=0
  trap '' INT TERM HUP
  if [ -n "$child" ]; then
    kill -TERM -- "-$child" 2>/dev/null || true
    while kill -0 -- "-$child" 2>/dev/null && [ "$tries" -lt 25 ]; do
      sleep 0.2
      tries=$((tries + 1))
    done
    kill -KILL -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    keep_if_untouched
  fi
  fail "$1" "Set-up interrupted: the next call repairs it."
}

# ---------------------------------------------------------------- running venv and pip

# Runs a command in a process group of its own, output to the log, a sign of life on a terminal; returns its status.
logged() {
  local status=0
  set -m
  (
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
    export TMPDIR="$venv/setup.tmp" PIP_USER=0 PYTHONNOUSERSITE=1
    cd "$root" && exec "$@"
  ) </dev/null >>"$venv/setup.log" 2>&1 &
  child=$!
  set +m
  printf '%s\n' "$child" >"$venv/setup.pid" || true
  if [ -t 2 ]; then
    while kill -0 "$child" 2>/dev/null; do
      show_life
      sleep 0.2
    done
  fi
  wait "$child" 2>/dev/null || status=$?
  child=
  [ -t 2 ] && printf '\r\033[K' >&2
  return "$status"
}

show_life() {
  local line
  line=$(tail -n 40 "$venv/setup.log" 2>/dev/null | LC_ALL=C grep -E '^ *(Collecting|Downloading|Building|Installing) ' |
    tail -n 1 | awk '{ print $1, ($1 == "Installing" && $2 == "collected") ? "the packages" : $2 }' | cut -c 1-60) || line=''
  printf '\r\033[K  %3d s  %s' "$((SECONDS - started))" "${line:-Making the environment}" >&2
}

free_megabytes() { # free space of the checkout; nothing where df does not tell
  df -Pk "$root" 2>/dev/null | awk 'NR == 2 && $4 ~ /^[0-9]+$/ { print int($4 / 1024) }'
}

readable() { # MEGABYTES
  awk -v megabytes="$1" 'BEGIN { if (megabytes < 1024) print megabytes " MB"; else printf "%.1f GB\n", megabytes / 1024 }'
}

fail_to_write() { # PATH
  local free
  free=$(free_megabytes)
  [ "${free:-1000}" -ge 10 ] || fail_full
  fail 1 "Cannot write to $1: the checkout is read-only or belongs to another user; copy it to a place of your own and run this again."
}

fail_full() {
  local free
  free=$(free_megabytes)
  fail 1 "The disk of $root is full or nearly full (${free:+$(readable "$free") free; }set-up needs about $needed_gigabytes GB): free some space and run this again."
}

network='name resolution|Name or service not known|nodename nor servname|getaddrinfo failed|No address associated|establish a new connection|Connection refused|Connection reset|Connection aborted|Network is unreachable|No route to host|timed out|TimeoutError|ProxyError|RemoteDisconnected|IncompleteRead|Max retries exceeded'

# Says what went wrong in one sentence, judged by the log, and stops.
explain() { # STATUS DOING
  local log=$venv/setup.log error free
  logs() { LC_ALL=C grep -qE "$1" "$log" 2>/dev/null; }
  error=$(LC_ALL=C grep -E '^ *ERROR: ' "$log" 2>/dev/null | tail -n 1) || true
  [ -n "$error" ] || error=$(LC_ALL=C grep -E '[Ee]rror' "$log" 2>/dev/null | tail -n 1) || true
  [ -n "$error" ] || error=$(tail -n 1 "$log" 2>/dev/null) || true
  error=${error#"${error%%[! ]*}"}
  free=$(free_megabytes)
  if logs 'No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]' || [ "${free:-1000}" -lt 10 ]; then
    fail_full
  elif logs 'CERTIFICATE_VERIFY_FAILED|SSLError'; then
    fail 1 "pip does not trust the package index's certificate, so nothing was installed: set up pip's certificates (PIP_CERT) and run this again; the full log is $log."
  # A retry that worked is in the log too: only the last error, or the last of the retries, counts.
  elif printf '%s' "$error" | LC_ALL=C grep -qE "$network" ||
    { logs "$network" && logs 'Retry\(total=0|\(from versions: none\)'; }; then
    fail 1 "No network: pip cannot reach the package index; connect (or set pip's index or proxy) and run this again; the full log is $log."
  elif logs 'Read-only file system|\[Errno 30\]|\[Errno 13\]'; then
    fail_to_write "$venv"
  elif [ "$1" -eq 137 ]; then
    fail 1 "$2 was killed, probably for lack of memory; the full log is $log."
  fi
  fail 1 "$2 failed: ${error#ERROR: } (the full log is $log)"
}

# ---------------------------------------------------------------- the steps of a set-up

# Forgets packages that an interrupted pip left incomplete, so that pip installs them again; keeps all others.
repair='
import csv, pathlib, shutil, sys
site = pathlib.Path(sys.argv[1])
for left in site.glob("~*"):  # an uninstall cut short
    shutil.rmtree(left) if left.is_dir() else left.unlink()
for info in site.glob("*.dist-info"):
    try:
        with open(info / "RECORD", newline="", encoding="utf-8") as record:
            rows = [row for row in csv.reader(record) if row and not row[0].endswith(".pyc")]
        whole = bool(rows) and all((site / row[0]).stat().st_size == int(row[2] or (site / row[0]).stat().st_size) for row in rows)
    except (OSError, ValueError, IndexError):
        whole = False
    if not whole:
        shutil.rmtree(info)
'

is_usable() { # whether .venv is an environment of this checkout that pip can work in; sets why if not, minor if so
  local answer
  why=
  [ -e "$venv/bin" ] || [ -e "$venv/setup.creating" ] || return 1
  why=" anew, as an earlier set-up was cut short"
  [ ! -e "$venv/setup.creating" ] || return 1
  why=" anew, as the checkout moved"
  [ ! -e "$venv/setup.checkout" ] || [ "$(<"$venv/setup.checkout")" = "$root" ] || return 1
  why=" anew, as its Python changed"
  answer=$("$venv/bin/python" -E -s -c "$probe" </dev/null 2>/dev/null) || return 1
  answer=${answer% *}
  [ -d "$venv/lib/python$answer" ] || return 1
  case $answer in 3.10 | 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac
  [ -z "$minor" ] || [ "$minor" = "$answer" ] || return 1
  minor=$answer
}

has_pip() {
  logged "$venv/bin/python" -m pip --version ||
    { logged "$venv/bin/python" -m ensurepip --default-pip && logged "$venv/bin/python" -m pip --version; }
}

create() {
  local status=0
  : >"$venv/setup.creating" || fail_to_write "$venv"
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name 'setup.lock*' ! -name setup.log ! -name setup.pid \
    ! -name setup.creating ! -name setup.tmp -exec rm -rf {} + || fail_to_write "$venv"
  # venv hides what its own call of ensurepip says, such as that the disk is full: so in two steps.
  { logged "$python" -m venv --without-pip "$venv" && logged "$venv/bin/python" -m ensurepip --default-pip; } || status=$?
  [ "$status" -eq 0 ] || explain "$status" "Making .venv with $python"
  printf '%s\n' "$root" >"$venv/setup.checkout" || fail_to_write "$venv"
  rm -f "$venv/setup.creating"
}

# A pip that stopped before it wrote to .venv leaves it as good as it was.
keep_if_untouched() {
  grep -qs '^Installing collected packages' "$venv/setup.log" || rm -f "$venv/setup.installing"
}

install() { # base|test
  local status=0 target=.
  [ "$1" = base ] || target=".[$1]"
  if [ -e "$venv/setup.installing" ]; then
    logged "$venv/bin/python" -c "$repair" "$venv/lib/python$minor/site-packages" || status=$?
    [ "$status" -eq 0 ] || explain "$status" "Repairing .venv"
    rm -f "$venv/setup.base" "$venv/setup.test"
  fi
  : >"$venv/setup.installing" || fail_to_write "$venv"
  logged "$venv/bin/python" -m pip install --no-cache-dir --disable-pip-version-check --no-input --progress-bar off \
    -e "$target" || status=$?
  if [ "$status" -ne 0 ]; then
    keep_if_untouched
    explain "$status" "pip"
  fi
  rm -f "$venv/setup.test"
  stamp base
  [ "$1" = base ] || stamp "$1"
  rm -f "$venv/setup.installing"
}

stamp() { # base|test
  { wanted "$(interpreter_line)" >"$venv/setup.new" && mv -f "$venv/setup.new" "$venv/setup.$1"; } || fail_to_write "$venv"
}

start_log() {
  rm -rf "$venv/setup.tmp"
  { mkdir "$venv/setup.tmp" && : >"$venv/setup.log"; } 2>/dev/null || fail_to_write "$venv"
}

check_space() {
  local free
  free=$(free_megabytes)
  [ -n "$free" ] || return 0
  if [ "$free" -lt 2048 ]; then
    fail_full
  elif [ "$free" -lt "$((needed_gigabytes * 1024))" ]; then
    say "Warning: $(readable "$free") free on the disk of $root; set-up needs about $needed_gigabytes GB on Linux (6 GB once it is done)."
  fi
}

set_up() { # base|test
  local extras=$1 started=$SECONDS needed_gigabytes=9 dependencies old why
  dependencies=$(dependency_lines)
  [ -z "${PYTHON:-}" ] || choose_python
  if is_current "$extras"; then
    return 0
  fi

  mkdir -p "$venv" 2>/dev/null || fail_to_write "$root"
  lock
  if is_usable; then
    old=$(grep -v '^interpreter ' "$venv/setup.$extras" 2>/dev/null) || old=
    if [ ! -e "$venv/setup.installing" ] && [ "$old" = "$(wanted interpreter | grep -v '^interpreter')" ]; then
      # Another call did it meanwhile, or the interpreter's file was replaced by one of the same version.
      stamp "$extras"
      unlock
      return 0
    fi
    start_log
    if [ -e "$venv/setup.installing" ]; then
      why="repairing an interrupted set-up"
    elif [ -e "$venv/setup.$extras" ]; then
      why="the dependencies in pyproject.toml changed"
    elif [ "$extras" = test ] && [ -e "$venv/setup.base" ]; then
      why="adding the packages for tests"
    else
      why="installing the project and what it lacks"
    fi
    say "Updating .venv: $why (a few seconds to 5 minutes)."
    has_pip || { choose_python && create; }
  else
    [ -n "$python" ] || choose_python
    check_space
    start_log
    say "Setting up .venv with Python $minor$why (once, about 2 to 5 minutes; $needed_gigabytes GB on Linux while it installs, 6 GB after)."
    create
  fi
  install "$extras"
  unlock
  say ".venv is ready (Python $minor, $((SECONDS - started)) s)."
}
