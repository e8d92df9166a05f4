#!/bin/sh
# Shows that the simulations bite. Each patch beside this file, and in node/tests/mutations, breaks one core, or one
# thing that a site of the model does around the cores; some seed of that crate's simulation has to fail within a
# minute. The first line of a patch says which invariant it breaks and how. ONLY=part of a name, SECONDS_EACH=60, EVERYWRITE_START=first seed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/mutations
copy=$target/source
CARGO=${CARGO:-cargo}
mkdir -p "$copy"
# With new times, or what was built from the last mutation would be taken for what is built from this.
(cd "$root" && git ls-files --cached --others --exclude-standard) | (cd "$root" && tar cf - -T - 2>/dev/null) | (cd "$copy" && tar xmf -)
status=0
begun=$(date +%s)
printf '%-34s %-10s %-26s %8s  %s\n' mutation breaks 'seed that failed' seconds how
for patch in "$here"/*.patch "$root"/node/tests/mutations/*.patch; do
    name=$(basename "$patch" .patch)
    case $patch in "$root"/node/*) package=everywrite-node shown=node/$name ;; *) package=everywrite-conflict shown=$name ;; esac
    case $name in *"${ONLY:-}"*) ;; *) continue ;; esac
    invariant=$(sed -n '1s/:.*//p' "$patch")
    what=$(sed -n '1s/^[^:]*: //p' "$patch")
    if ! (cd "$copy" && patch -p1 --dry-run -s -F0 <"$patch") >"$target/log" 2>&1; then
        printf '%-34s %-10s does not apply any more: see %s\n' "$shown" "$invariant" "$patch"
        cat "$target/log"
        status=1
        continue
    fi
    (cd "$copy" && patch -p1 -s -F0 <"$patch")
    # Merged columns have a simulation of their own.
    case $name in columns-*) test=columns;; *) test=simulation;; esac
    started=""
    if (cd "$copy" && CARGO_TARGET_DIR="$target" $CARGO test -q --profile sim -p "$package" \
        --test "$test" --no-run) >"$target/log" 2>&1; then
        started=$(date +%s)
        (cd "$copy" && EVERYWRITE_N=100000000 EVERYWRITE_START=${EVERYWRITE_START:-0} EVERYWRITE_SECONDS=${SECONDS_EACH:-60} CARGO_TARGET_DIR="$target" \
            $CARGO test -q --profile sim -p "$package" --test "$test" many_seeds -- --ignored) \
            >"$target/log" 2>&1
    fi
    (cd "$copy" && patch -p1 -R -s -F0 <"$patch")
    if [ -z "$started" ]; then
        printf '%-34s %-10s does not build\n' "$shown" "$invariant"
        cat "$target/log"
        status=1
        continue
    fi
    seed=$(sed -n 's/^\(seed [0-9]* of shape [0-9]*\): .*/\1/p' "$target/log" | head -n 1)
    how=$(sed -n 's/^seed [0-9]* of shape [0-9]*: //p' "$target/log" | head -n 1 | cut -c1-60)
    took=$(sed -n 's/^simulation: [0-9]* runs in \([0-9.]*\) s.*/\1/p' "$target/log" | head -n 1)
    if [ -z "$seed" ]; then
        seed="NONE"
        status=1
    fi
    printf '%-34s %-10s %-26s %8s  %s\n' "$shown" "$invariant" "$seed" "$took" "$how"
    [ -n "${WHAT:-}" ] && printf '    %s\n' "$what"
done
echo "in $(($(date +%s) - begun)) s"
[ "$status" -eq 0 ] || echo "some mutations are not noticed"
exit "$status"
