# Sourced by `test` and `demo`, from the repository root. `prepare_environment EXTRA` makes .venv hold minihf[EXTRA]:
# at once when it already does, from the start when an earlier run was cut short.
# MINIHF_PYTHON names the interpreter to make it with (a command or an absolute path).

suits='import sys
version = "Python " + sys.version.split()[0]
if sys.version_info < (3, 11):
    sys.exit(version + ", which is too old")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(version + " without its venv module (Debian and Ubuntu: apt install python3-venv)")
print(version)'

find_python() {  # prints the first interpreter that suits; fails naming all that were found
    local candidates=(python3 python3.14 python3.13 python3.12 python3.11) candidate answer found=""
    if [[ -n ${MINIHF_PYTHON:-} ]]; then candidates=("$MINIHF_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if ! command -v "$candidate" >/dev/null; then continue; fi
        if answer=$("$candidate" -c "$suits" 2>&1); then echo "$candidate"; return; fi
        answer=${answer%%$'\n'*}
        found+="  $candidate: ${answer:-does not run}"$'\n'
    done
    {
        echo "minihf needs Python 3.11 or newer. Looked for: ${candidates[*]}. Found:"
        echo -n "${found:-"  none of them"$'\n'}"
        echo "Install one, or name it: MINIHF_PYTHON=/path/to/python bash $0"
    } >&2
    return 1
}

usable() {  # whether .venv is whole, can be installed into, and is of the interpreter asked for
    local version='import sys; print(sys.version)'
    [[ ! -e .venv.unfinished ]] && .venv/bin/python -c "$suits; import pip" &>/dev/null &&
        [[ -z ${MINIHF_PYTHON:-} || $("$MINIHF_PYTHON" -c "$version" 2>/dev/null) == $(.venv/bin/python -c "$version") ]]
}

prepare_environment() {
    local extra=$1 python stamp=.venv/minihf-$1.stamp wanted
    unset PYTHONHOME PYTHONPATH  # packages found through them would count as installed
    # The folder belongs to it: an editable install, and every command in .venv/bin, knows where it lies.
    wanted=$({ echo "$PWD ${MINIHF_PYTHON:-} $extra"; cat pyproject.toml scripts/constraints.txt; } | cksum)
    if [[ ! -e .venv.unfinished && -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then return; fi

    if ! usable; then
        python=$(find_python)
        echo "Making .venv with $python ($("$python" --version))."
        touch .venv.unfinished
        "$python" -m venv --clear .venv
    fi
    touch .venv.unfinished
    echo "Installing minihf[$extra] into .venv: some minutes the first time."
    .venv/bin/python -m pip install --disable-pip-version-check -c scripts/constraints.txt -e ".[$extra]"
    rm .venv.unfinished
    echo "$wanted" >"$stamp"
}
