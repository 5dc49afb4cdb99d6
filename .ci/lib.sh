# shellcheck shell=bash
# Shared by cluster-examples/demo and tests/run: packages and builds. Sourced by bash with ROOT set to the repository.

# Installs those Debian packages of .ci/packages that are missing: "build" for the programs alone, "tests" for everything.
install_packages() {
    local what=$1 package need missing=() sudo=()
    while read -r package need; do
        [[ -z $package || $package == \#* || ( $what == build && $need != build ) ]] && continue
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done <"$ROOT/.ci/packages"
    (( ${#missing[@]} )) || return 0
    if (( EUID )); then
        command -v sudo >/dev/null || { echo "missing packages, and neither root nor sudo to install them: ${missing[*]}" >&2; return 1; }
        sudo=(sudo)
    fi
    echo "installing from Debian: ${missing[*]}"
    "${sudo[@]}" apt-get -qq update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# configure DIR [-DNAME=VALUE...]: once; later calls only change what differs.
configure() {
    local dir=$1 generator=()
    shift
    [[ -f $dir/CMakeCache.txt ]] || ! command -v ninja >/dev/null || generator=(-G Ninja)
    command -v ccache >/dev/null && set -- -DCMAKE_C_COMPILER_LAUNCHER=ccache "$@"
    cmake -S "$ROOT" -B "$dir" "${generator[@]}" "$@"
}
