#!/usr/bin/env bash
# The one door. First use makes the environment (.venv), and again whenever pyproject.toml,
# constraints.txt or Python changed; then `triptych` gets the arguments.
#
#   ./launch.sh demo               the whole pipeline on built-in scenes
#   ./launch.sh test               every check that CI runs
#   ./launch.sh test tests/launch  only pytest, with these arguments
#   ./launch.sh --help             everything else, on this machine or on many
#
# PYTHON=/path/to/python3 chooses the interpreter.
set -euo pipefail

here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
log=$here/.venv.log
oldest_minor=11

say() { printf 'triptych: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }

# What the environment depends on, in a few milliseconds. An environment is its own folder
# .venv.KEY, and .venv a link to it: a run that is going on keeps the one it started with.
environment_key() {
    local python=$1
    { cat "$here/pyproject.toml" "$here/constraints.txt"; echo "$here $(readlink -f -- "$python")"; } |
        sha256sum | cut -c1-12
}

is_ready() {
    [[ -x $here/.venv/bin/python && -f $here/.venv/ready ]] &&
        [[ $(<"$here/.venv/ready") == "$(environment_key "$here/.venv/bin/python")" ]]
}

find_python() {
    local candidate found=""
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        command -v -- "$candidate" >/dev/null || continue
        local version
        version=$("$candidate" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null) || continue
        if [[ ${version% *} -eq 3 && ${version#* } -ge $oldest_minor ]]; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
        found="${found:+$found, }$candidate is ${version/ /.}"
    done
    refuse "Python 3.$oldest_minor or newer is needed (${found:-no python3 found});" \
        "install it, or name one with PYTHON=/path/to/python3"
}

# Show the step that pip is at while it works; what it prints goes to the log.
watch_pip() {
    local pid=$1 started=$SECONDS
    while kill -0 "$pid" 2>/dev/null; do
        [[ -t 2 ]] && printf '\r\033[K  %3d s  %.60s' $((SECONDS - started)) \
            "$(grep -aE '^ *(Collecting|Downloading|Building|Installing)' "$log" | tail -n 1)" >&2
        sleep 0.5
    done
    [[ -t 2 ]] && printf '\r\033[K' >&2
    wait "$pid"
}

explain_failure() {
    if grep -qaiE 'No space left|Errno 28|quota exceeded' "$log"; then
        refuse "the disk is full: the environment needs about 3 GB in $here; free some space and try again"
    fi
    say "set-up failed while $1; the end of $log:"
    grep -avE '^(WARNING: Location|Looking in|\[notice\])' "$log" | tail -n 8 | sed 's/^/    /' >&2
    refuse "put that right and run the same command again"
}

set_up() {
    local python key environment started=$SECONDS pip
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        refuse "$python has no venv module; on Debian or Ubuntu:" \
            "sudo apt install $("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"

    # Under the lock one terminal makes the environment and the other finds it made.
    { exec 9>"$here/.venv.lock"; } 2>/dev/null || refuse "cannot write to $here; is it yours, and the disk not full?"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "another terminal is making the environment; waiting for it"
        flock 9
    fi
    is_ready && { exec 9>&-; return; }

    say "making the environment with $("$python" --version) (about a minute, once)"
    key=$(environment_key "$python")
    environment=$here/.venv.$key
    rm -rf -- "$environment"
    "$python" -m venv "$environment" >"$log" 2>&1 || explain_failure "making $environment"
    # Without compiling: half of the time goes there, for modules that are mostly never imported.
    "$environment/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile \
        -c "$here/constraints.txt" -e "${here}[dev]" >>"$log" 2>&1 &
    pip=$!
    trap 'kill "$pip" 2>/dev/null || true; say "set-up interrupted; run the same command again"; exit 75' INT TERM HUP
    watch_pip "$pip" || explain_failure "installing packages"
    trap - INT TERM HUP
    "$environment/bin/python" -c 'import stages' >>"$log" 2>&1 || explain_failure "trying what was installed"

    # `ready` comes last: an environment without it is made again.
    { environment_key "$environment/bin/python" >"$environment/ready" && touch "$environment/in-use" &&
        link_environment "$environment"; } 2>>"$log" || explain_failure "putting $environment in place"
    remove_old "$environment"
    say "environment ready after $((SECONDS - started)) s"
    exec 9>&-
}

link_environment() {
    [[ -L $here/.venv ]] || rm -rf -- "$here/.venv"
    ln -sfn -- "$(basename -- "$1")" "$here/.venv.link" && mv -Tf -- "$here/.venv.link" "$here/.venv"
}

# Environments that no running command holds.
remove_old() {
    local old
    for old in "$here"/.venv.*/; do
        [[ ${old%/} == "$1" || -L ${old%/} ]] && continue
        if [[ ! -e $old/in-use ]] || flock -n "$old/in-use" true 2>/dev/null; then
            rm -rf -- "${old%/}"
        fi
    done
}

run_tests() {
    local bin=$here/.venv/bin failed="" browser=()
    cd -- "$here"
    if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
        if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
            say "installing chromium for the browser tests"
            { apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } \
                >"$log" 2>&1 </dev/null || true
        fi
        command -v chromium >/dev/null || {
            say "no chromium: the browser tests are left out"
            browser=(-m "not browser")
        }
    fi
    if [[ $# -eq 0 ]]; then
        check() { printf '\n== %s\n' "$*" >&2; "$bin/$1" "${@:2}" || failed="$failed ${1##*/}"; }
        check ruff format --check .
        check ruff check .
        check mypy
        check lint-imports --no-logo
    fi
    printf '\n== pytest\n' >&2
    # All of it in as many processes as there are processors; files stay together for what their tests share.
    [[ $# -eq 0 ]] && set -- --numprocesses auto --dist loadfile
    "$bin/python" -m pytest ${browser[@]+"${browser[@]}"} "$@" || failed="$failed pytest"
    [[ -z $failed ]] || { say "failed:$failed"; exit 1; }
}

is_ready || set_up
export TRIPTYCH_COMMAND=${TRIPTYCH_COMMAND:-$0}
if [[ ${1-} == test ]]; then
    run_tests "${@:2}"
    exit
fi
# Held until the command ends, so that nobody removes the environment under it.
exec 8<"$here/.venv/in-use"
command -v flock >/dev/null && flock -s 8
exec "$here/.venv/bin/triptych" "$@"
