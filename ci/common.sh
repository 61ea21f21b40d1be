# shellcheck shell=bash
# What the scripts in ci/ share. Sourced, never run.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV=.venv
# For cython-lint, which calls its helpers by name.
export PATH="$PWD/$VENV/bin:$PATH"

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command as root: directly where we are root, through sudo elsewhere.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=CI,LG_COORDINATOR,LG_PLACE,LG_TOKEN,MNAGENT_CACHE,MNAGENT_FUZZ_COUNT "$@"
    else
        die "this step needs root: run it as root, or install sudo"
    fi
}

# Runs a command; what it says is shown only when it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" = 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

# Installs those Debian packages of its arguments that are not there.
install_missing() {
    local package missing=""
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
            || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing Debian packages:$missing"
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing >/dev/null
}
