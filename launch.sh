#!/usr/bin/env bash
# ./launch.sh [options of app.py]      open the app on http://127.0.0.1:7860
# ./launch.sh cli generate ...         the command line: python -m streamline generate ...
# ./launch.sh test [options of pytest] check the style and run every test
#
# Each of them first makes .venv and installs the pinned requirements, again only when those changed.
# PYTHON=/path/to/python chooses the interpreter of a new .venv.
set -euo pipefail
readonly CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly CPU_TORCH=https://download.pytorch.org/whl/cpu
readonly VENV_PYTHON=.venv/bin/python

fail() {
    echo "launch.sh: $*" >&2
    exit 1
}

fits() { # the Python versions that every pinned requirement is built for
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11, 3.12, 3.13 or 3.14 is needed; install one, or name it: PYTHON=/path/to/python ./launch.sh"
}

has_gpu() {
    [[ $(nvidia-smi -L 2>/dev/null) == *GPU* ]]
}

reachable() {
    "$VENV_PYTHON" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null
}

# On Linux the default torch carries gigabytes of CUDA. Without a GPU, PyTorch's own CPU builds are offered
# beside it (pip prefers 2.13.0+cpu to 2.13.0), unless the user has told pip where packages come from.
torch_source() {
    if [[ $(uname -s) != Linux ]] || has_gpu; then
        return
    fi
    if [[ $("$VENV_PYTHON" -m pip config list) =~ index|find-links ]]; then
        return
    fi
    if reachable "$CPU_TORCH/torch/"; then
        echo "--extra-index-url $CPU_TORCH"
    else
        echo "launch.sh: $CPU_TORCH cannot be reached, so the larger default torch is installed." >&2
    fi
}

has_pip() { # asking pip itself takes a second
    "$VENV_PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pip") is None)'
}

make_venv() {
    if fits "$VENV_PYTHON" && has_pip; then
        return
    fi
    local python
    python=$(find_python)
    "$python" -m venv --clear .venv \
        || fail "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv."
}

install() { # install requirements file $1 unless it is what was installed last, for the same kind of machine
    local stamp now
    stamp=.venv/$(echo "$1" | tr / -).installed
    now="$(cksum <"$1") $(has_gpu && echo gpu || echo cpu)"
    if [[ -f $stamp && $(<"$stamp") == "$now" ]]; then
        return
    fi
    echo "Installing $1 ..." >&2
    # shellcheck disable=SC2046  # no source, no argument
    "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check $(torch_source) -r "$1" \
        || fail "the packages of $1 could not be installed; the lines above say why."
    echo "$now" >"$stamp"
}

make_venv
install requirements.txt

# Threads that wait by spinning make a small model thirty times slower as soon as another program uses the cores; those
# that sleep at once make it twice as slow when none does. These spin for some microseconds, and sleep then.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000}

case "${1:-}" in
    test)
        shift
        install tests/requirements.txt
        status=0
        "$VENV_PYTHON" -m ruff check . || status=1
        # One thread a process: the tests run side by side, and contending threads are far slower than none.
        OMP_NUM_THREADS=1 "$VENV_PYTHON" -m pytest -n auto --maxprocesses 8 "$@" || status=1
        exit $status
        ;;
    cli)
        shift
        repository=$PWD
        export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
        cd "$CALLER" # where the caller's relative paths begin
        exec "$repository/$VENV_PYTHON" -m streamline "$@"
        ;;
    *)
        exec "$VENV_PYTHON" app.py "$@"
        ;;
esac
