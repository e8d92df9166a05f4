#!/bin/sh
# Installs PostgreSQL from the distribution when no supported major (15 to 18) is there; with the
# argument `valgrind` that, for `make counts`.
# The packaged default cluster is neither created nor left running: tests start servers of their own.
set -eu

found() {
    [ -n "${EVERYWRITE_PG_BIN:-}" ] && [ -x "$EVERYWRITE_PG_BIN/postgres" ] && return 0
    for major in 15 16 17 18; do
        [ -x "/usr/lib/postgresql/$major/bin/postgres" ] && return 0
    done
    return 1
}

say() { echo "install-postgres: $*" >&2; }

# Ends the script with the reason where apt-get cannot be used for package $1; $2 is a hint.
may_apt() {
    as_root=""
    if ! command -v apt-get >/dev/null 2>&1; then
        say "$1 is missing and this is not Debian or Ubuntu. Install it${2:+, then $2}."
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            say "$1 is missing. As root, run: apt-get install $1"
            exit 1
        fi
        as_root="sudo"
    fi
    say "installing $1 with apt-get"
    $as_root apt-get update -q >&2
}

export DEBIAN_FRONTEND=noninteractive
if [ "${1:-}" = valgrind ]; then
    command -v valgrind >/dev/null 2>&1 && exit 0
    may_apt valgrind
    # The C library's debug symbols are not needed: callgrind only counts.
    $as_root apt-get install -q -y --no-install-recommends valgrind >&2
    exit 0
fi

found && exit 0
may_apt postgresql "set EVERYWRITE_PG_BIN to the folder that holds initdb and postgres (15 to 18)"
# The setting must be there before the server's package is, so the common package goes first.
$as_root apt-get install -q -y --no-install-recommends postgresql-common >&2
conf=/etc/postgresql-common/createcluster.conf
if ! grep -qs '^create_main_cluster *= *false' "$conf"; then
    echo 'create_main_cluster = false' | $as_root tee -a "$conf" >/dev/null
fi
package=postgresql
if apt-cache show postgresql-15 >/dev/null 2>&1; then
    package=postgresql-15
fi
$as_root apt-get install -q -y --no-install-recommends "$package" >&2

if ! found; then
    say "$package is installed, and still no PostgreSQL 15 to 18 is under /usr/lib/postgresql"
    exit 1
fi
