# shellcheck shell=bash
# Shared by cluster-examples/demo and tests/run: packages and builds. Sourced by bash with ROOT set to the repository.

# Installs those Debian packages of .ci/packages that are missing: "build" for the programs alone, "tests" for everything.
# What goes wrong is said in one line, with what to do; the rest of what apt-get said stays in a file.
install_packages() {
    local what=$1 package need missing=() sudo=() log
    command -v dpkg-query >/dev/null || { echo "not Debian: taking for granted that what .ci/packages names is installed"; return 0; }
    while read -r package need; do
        [[ -z $package || $package == \#* || ( $what == build && $need != build ) ]] && continue
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done <"$ROOT/.ci/packages"
    (( ${#missing[@]} )) || return 0
    if (( EUID )); then
        command -v sudo >/dev/null || {
            echo "packages are missing, and you are not root and have no sudo: as root, run apt-get update; apt-get install ${missing[*]}" >&2
            return 1
        }
        sudo=(sudo)
    fi
    log=$(mktemp "${TMPDIR:-/tmp}/starling-apt.XXXXXX") || return 1
    echo "installing from Debian (${sudo[*]:+sudo }apt-get; the first time takes a minute or two): ${missing[*]}"
    # Without a list of packages, or with an old one, the installation says so: a failed update alone is no reason to give up.
    apt_get update -qq || true
    if apt_get install -qq --yes --no-install-recommends "${missing[@]}"; then
        rm -f "$log"
        return 0
    fi
    echo "apt-get could not install them: $(grep -m 1 -E '^(E:|W: Failed)' "$log" || tail -n 1 "$log"): mend that and try again" \
        "(everything it said is in $log)" >&2
    return 1
}
# For install_packages, with its variables. A machine that has just started may be updating itself: that is waited for, five minutes.
apt_get() {
    local try
    for (( try = 0; try < 150; try++ )); do
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -o Acquire::Retries=2 "$@" >>"$log" 2>&1 </dev/null && return 0
        tail -n 3 "$log" | grep -q '^E: Could not get lock' || return 1
        (( try )) || echo "waiting for another program that installs packages: $(tail -n 3 "$log" | grep -m 1 '^E: ')"
        sleep 2
    done
    return 1
}

# configure DIR [-DNAME=VALUE...]: once; later calls only change what differs.
configure() {
    local dir=$1 generator=()
    shift
    [[ -f $dir/CMakeCache.txt ]] || ! command -v ninja >/dev/null || generator=(-G Ninja)
    command -v ccache >/dev/null && set -- -DCMAKE_C_COMPILER_LAUNCHER=ccache "$@"
    cmake -S "$ROOT" -B "$dir" "${generator[@]}" "$@"
}
