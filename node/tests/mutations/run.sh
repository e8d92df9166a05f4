#!/bin/sh
# Shows that the simulations bite. Each patch beside this file, and in conflict/tests/mutations, breaks something in the
# crate `conflict` or in the daemon, or one thing that a site of the model does around it; some seed of the simulation
# has to fail within a minute. The first line of a patch says which invariant it breaks and how; a second one that
# begins with `test:` names the test that notices it, where that is not the simulation. Then the rules of the model's
# shells are taken away.
# ONLY=part of a name, SECONDS_EACH=60, EVERYWRITE_START=first seed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/mutations
copy=$target/source
CARGO=${CARGO:-cargo}
mkdir -p "$copy"
export CARGO_TARGET_DIR="$target"
export EVERYWRITE_N=100000000 EVERYWRITE_START="${EVERYWRITE_START:-0}" EVERYWRITE_SECONDS="${SECONDS_EACH:-60}"
# With new times, or what was built from the last mutation would be taken for what is built from this.
(cd "$root" && git ls-files --cached --others --exclude-standard) | (cd "$root" && tar cf - -T - 2>/dev/null) | (cd "$copy" && tar xmf -)
status=0
begun=$(date +%s)
printf '%-34s %-10s %-26s %8s  %s\n' mutation breaks 'seed that failed' seconds how

# What has been built is tried: `tried NAME INVARIANT TEST`, the test's words being cargo's.
tried() {
    if (cd "$copy" && $CARGO test -q --profile sim $3) >"$target/log" 2>&1; then
        printf '%-34s %-10s %s\n' "$1" "$2" NONE
        status=1
        return
    fi
    seed=$(sed -n 's/^\(seed [0-9]* of shape [0-9]*\): .*/\1/p' "$target/log" | head -n 1)
    how=$(sed -n 's/^seed [0-9]* of shape [0-9]*: //p' "$target/log" | head -n 1 | cut -c1-60)
    took=$(sed -n 's/^simulation: [0-9]* runs in \([0-9.]*\) s.*/\1/p' "$target/log" | head -n 1)
    if [ -z "$seed" ]; then
        # The tests by name, of what is no simulation of clusters.
        seed=$(sed -n 's/^    \([a-z0-9_:]*\)$/\1/p' "$target/log" | sort -u | head -n 1)
        how=$(grep -A1 ' panicked at ' "$target/log" | sed -n 2p | cut -c1-60)
    fi
    if [ -z "$seed" ]; then
        printf '%-34s %-10s fails otherwise\n' "$1" "$2"
        cat "$target/log"
        status=1
        return
    fi
    printf '%-34s %-10s %-26s %8s  %s\n' "$1" "$2" "$seed" "$took" "$how"
}

for patch in "$here"/*.patch "$root"/conflict/tests/mutations/*.patch; do
    name=$(basename "$patch" .patch)
    case $name in *"${ONLY:-}"*) ;; *) continue ;; esac
    case $patch in "$root"/conflict/*) package=everywrite-conflict shown=conflict/$name ;; *) package=everywrite-node shown=$name ;; esac
    invariant=$(sed -n '1s/:.*//p' "$patch")
    if ! (cd "$copy" && patch -p1 --dry-run -s -F0 <"$patch") >"$target/log" 2>&1; then
        printf '%-34s %-10s does not apply any more: see %s\n' "$shown" "$invariant" "$patch"
        cat "$target/log"
        status=1
        continue
    fi
    (cd "$copy" && patch -p1 -s -F0 <"$patch")
    # Merged columns have a simulation of their own.
    case $name in columns-*) test=columns ;; *) test=simulation ;; esac
    built="-p $package --test $test"
    run="$built many_seeds -- --ignored"
    named=$(sed -n '2s/^test: //p' "$patch")
    [ -n "$named" ] && built=$named run=$named
    if (cd "$copy" && $CARGO test -q --profile sim $built --no-run) >"$target/log" 2>&1; then
        tried "$shown" "$invariant" "$run"
        [ -n "${WHAT:-}" ] && sed -n '1s/^[^:]*: /    /p' "$patch"
    else
        printf '%-34s %-10s does not build\n' "$shown" "$invariant"
        cat "$target/log"
        status=1
    fi
    (cd "$copy" && patch -p1 -R -s -F0 <"$patch")
done
# Without these no run failed within a minute.
idle="Set Looked Captured"
for rule in $(sed -n 's/^    \([A-Z][a-z]*\),$/\1/p' "$root/node/tests/simulation/rules.rs"); do
    case without-$rule in *"${ONLY:-}"*) ;; *) continue ;; esac
    case " $idle " in *" $rule "*) continue ;; esac
    export EVERYWRITE_WITHOUT="$rule"
    tried "without-$rule" "a rule" "-p everywrite-node --test simulation many_seeds -- --ignored"
done
echo "in $(($(date +%s) - begun)) s"
[ "$status" -eq 0 ] || echo "some mutations are not noticed"
exit "$status"
