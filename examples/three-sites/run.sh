#!/bin/sh
# Three PostgreSQL servers, three nodes, and demo.sql from site to site, all in one temporary folder;
# everything ends with the script. `run.sh --stay` waits for Enter before it ends.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
say() { printf '\n== %s\n' "$*"; }

# PostgreSQL's programs: Debian's folder unless EVERYWRITE_PG_BIN names another one.
bin=${EVERYWRITE_PG_BIN:-}
for major in 15 16 17 18; do
    [ -n "$bin" ] || [ ! -x "/usr/lib/postgresql/$major/bin/postgres" ] || bin=/usr/lib/postgresql/$major/bin
done
[ -n "$bin" ] || { echo "PostgreSQL 15 to 18 is missing: run tests/install-postgres.sh" >&2; exit 1; }

# The daemon: EVERYWRITE, or built now.
if [ -z "${EVERYWRITE:-}" ]; then
    (cd "$root" && cargo build --release -p everywrite-node)
    EVERYWRITE=${CARGO_TARGET_DIR:-$root/target}/release/everywrite
fi

work=$(mktemp -d /tmp/everywrite-three-sites.XXXXXX)
chmod 755 "$work"
pids=""
finish() {
    trap - EXIT INT TERM
    # Daemons first, then servers (fast shutdown).
    for pid in $nodes; do kill "$pid" 2>/dev/null || true; done
    for pid in $nodes; do wait "$pid" 2>/dev/null || true; done
    for pid in $pids; do kill -INT "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
nodes=""
trap finish EXIT
trap 'exit 1' INT TERM

# PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
    else
        exec "$@"
    fi
}

# One password for the servers of this run, for the nodes and for psql.
(umask 077 && head -c 18 /dev/urandom | base64 > "$work/password")
password=$(cat "$work/password")
(umask 077 && echo "127.0.0.1:*:*:postgres:$password" > "$work/pgpass")
export PGPASSFILE="$work/pgpass"

n=0
for site in a b c; do
    n=$((n + 1))
    port=1744$n
    say "site $site: server at port $port"
    mkdir "$work/$site" "$work/$site/server"
    cp "$work/password" "$work/$site/server.password"
    if [ "$(id -u)" -eq 0 ]; then
        chown postgres: "$work/$site/server" "$work/$site/server.password"
    fi
    (cd / && as_postgres "$bin/initdb" --no-sync --username=postgres --auth=scram-sha-256 \
        --pwfile="$work/$site/server.password" -D "$work/$site/server" >/dev/null)
    rm "$work/$site/server.password"
    # The settings that replication needs: logical WAL, and commit timestamps to order writes by.
    (cd / && as_postgres "$bin/postgres" -D "$work/$site/server" -c port="$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c wal_level=logical -c track_commit_timestamp=on) > "$work/$site/server.log" 2>&1 &
    pids="$pids $!"
    tries=0
    until psql -X -q -h 127.0.0.1 -p "$port" -U postgres -c 'create database shop' 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { cat "$work/$site/server.log" >&2; exit 1; }
        sleep 0.1
    done
    psql -X -q -h 127.0.0.1 -p "$port" -U postgres -d shop -f "$here/schema.sql"

    # init makes the cluster's authority (once) and the node's certificate. It writes a settings file,
    # too; the one from this folder says the same with fewer words.
    "$EVERYWRITE" init --node-id "$n" --name "$site" --cluster example --dir "$work/$site" \
        --ca-dir "$work/ca" --postgres "postgres://postgres@127.0.0.1:$port/shop" \
        --listen "127.0.0.1:1741$n" --admin "127.0.0.1:1742$n" >/dev/null
    cp "$here/$site.toml" "$work/$site.toml"
    "$EVERYWRITE" check --config "$work/$site.toml"
    "$EVERYWRITE" run --config "$work/$site.toml" > "$work/$site/node.log" 2>&1 &
    nodes="$nodes $!"
done

say "waiting until the nodes are ready"
for n in 1 2 3; do
    tries=0
    until "$EVERYWRITE" status --config "$work/$(echo abc | cut -c "$n").toml" --json 2>/dev/null \
        | grep -q '"ready": *true'; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { tail -n 20 "$work"/?/node.log >&2; exit 1; }
        sleep 0.1
    done
done

psql -X -q -h 127.0.0.1 -p 17441 -U postgres -d shop -f "$here/demo.sql"

if [ "${1:-}" = "--stay" ]; then
    say "Everything is in $work. Try: PGPASSFILE=$PGPASSFILE psql -h 127.0.0.1 -p 17441 -U postgres shop"
    printf 'Enter ends it. '
    read -r _
fi
say "ended well"
