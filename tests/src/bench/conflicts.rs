//! Scenarios x10, x100: A and B update the same rows while they cannot hear each other, then B is let go.
//!
//! ```text
//!  B's daemon    ─┤ stopped                                          ├─ started ──────────►
//!  A                 even places        odd places, last marker
//!  B                              some or all places, last marker
//!                                  └ beats A at even places, loses at odd ones
//! ```
//!
//! So half of the conflicts are won by either side, and B's transactions hold both. Every conflict is decided
//! twice, at A and at B, and both must come to the same row. The clock runs until both have the other's
//! last marker; the tables are compared after that, and if they were not equal at once the clock runs until
//! they are.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::load::Range;
use super::pair::{Hold, Pair};
use super::record::Record;
use super::server::Server;

const LIMIT: Duration = Duration::from_secs(300);

/// How long the tables may differ once all has been replayed.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Updates of one side: places in the order of `upd_t`, in transactions of 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Updates {
    first: i64,
    step: i64,
    count: i64,
    /// Every other place is one further, so that places far apart are even and odd in turn.
    wobble: bool,
}

impl Updates {
    /// A's, half of them before B's.
    fn of_a(count: i64) -> [Self; 2] {
        [0, 1].map(|first| Self {
            first,
            step: 2,
            count: count / 2,
            wobble: false,
        })
    }

    /// B's: one of `every` places of A's.
    fn of_b(count: i64, every: i64) -> Self {
        Self {
            first: 0,
            step: every,
            count: count / every,
            wobble: every > 1,
        }
    }

    fn call(self, range: Range, text: &str) -> String {
        let Self {
            first,
            step,
            count,
            wobble,
        } = self;
        format!(
            "call both_t({}, {first}, {step}, {count}, {wobble}, {}, '{text}')",
            range.base, range.rows
        )
    }
}

/// Measures `count` updates of A's, one of `every` of them in conflict with one of B's.
pub(crate) async fn measure(pair: &mut Pair, count: i64, every: i64, rows: i64) -> Result<Record> {
    let range = pair.range_to_conflict(rows).await?;
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    let history = [history(&pair.a).await?, history(&pair.b).await?];
    pair.stop_apply(Hold::Cut).await?;

    let first = pair.mark().await?;
    let [a_text, b_text] = ["a", "b"].map(|site| format!("{site}{first}"));
    let ([even, odd], b_updates) = (Updates::of_a(count), Updates::of_b(count, every));
    let meter = pair.meter().await?;
    let loading = Instant::now();
    pair.a.execute(&even.call(range, &a_text)).await?;
    pair.b.execute(&b_updates.call(range, &b_text)).await?;
    pair.a.execute(&odd.call(range, &a_text)).await?;
    let load_time = loading.elapsed();
    let last = pair.mark().await?;
    let last_of_b = pair.mark_b().await?;
    let load_cpu = meter.stop().await?;

    let (watcher, watcher_of_a) = (pair.watch().await?, pair.watch_a().await?);
    let meter = pair.meter().await?;
    let started = Instant::now();
    pair.start_apply(Hold::Cut).await?;
    let first_seen = pair.wait_marker(&watcher, first, LIMIT).await? - started;
    let last_ones = [(&watcher, last), (&watcher_of_a, last_of_b)];
    let [at_b, at_a] = pair
        .wait_markers(last_ones, LIMIT)
        .await?
        .map(|seen| seen - started);
    let cpu = meter.stop().await?;
    let equal_after = wait_equal(pair, range).await?;

    let conflicts = b_updates.count;
    let won_by_b = check_winners(pair, range, &b_text, conflicts).await?;
    let all = at_b.max(at_a) + equal_after;
    let delay = pair
        .idle_delay(Hold::Cut)
        .map_or(first_seen, |idle| idle.min(first_seen));
    let work = all.saturating_sub(delay).as_secs_f64();
    let mut record = Record {
        ok: true,
        unit: "row".into(),
        units: count as f64,
        load_cpu: Some(load_cpu),
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    record.set("rate_per_s", count as f64 / work);
    record.set("rate_from_start_per_s", count as f64 / all.as_secs_f64());
    record.set("conflicts_per_s", conflicts as f64 / work);
    record.set("conflicts", conflicts as f64);
    record.set("won_by_b", won_by_b as f64);
    record.set("at_b_s", at_b.as_secs_f64());
    record.set("at_a_s", at_a.as_secs_f64());
    record.set("equal_after_s", equal_after.as_secs_f64());
    record.set("first_marker_s", first_seen.as_secs_f64());
    record.set("delay_left_out_s", delay.as_secs_f64());
    record.set("load_s", load_time.as_secs_f64());
    record.set("history_expected", conflicts as f64);
    let names = ["history_a", "history_b"];
    for ((name, before), server) in names.into_iter().zip(history).zip([&pair.a, &pair.b]) {
        record.set(name, (self::history(server).await? - before) as f64);
    }
    Ok(record)
}

/// B's updates are later than A's at even places: it has won half of the conflicts. Gives how many.
async fn check_winners(pair: &Pair, range: Range, b_text: &str, conflicts: i64) -> Result<i64> {
    let won_by_b = format!(
        "select count(*) from t where id between {} and {} and b = '{b_text}'",
        range.base + 1,
        range.base + range.rows
    );
    let won_by_b: i64 = pair.a.value(&won_by_b).await?;
    if won_by_b != conflicts / 2 {
        bail!(
            "the sites agree, but B has won {won_by_b} of {conflicts} conflicts instead of {}",
            conflicts / 2
        );
    }
    Ok(won_by_b)
}

/// Conflicts that a site has noted since it was made.
async fn history(server: &Server) -> Result<i64> {
    server
        .value(
            "select (select count(*) from everywrite.conflict_history) \
             + coalesce((select sum(entries) from everywrite.conflict_sets), 0)::bigint",
        )
        .await
}

/// Zero when the rows are the same on both sides at once, as they should be; else how long that took.
async fn wait_equal(pair: &Pair, range: Range) -> Result<Duration> {
    let started = Instant::now();
    let hash = format!(
        "select concat(count(*), '/', sum(hashtextextended(t::text, 0)::numeric)) from t where id between {} and {}",
        range.base + 1,
        range.base + range.rows
    );
    for attempt in 0.. {
        let begun = started.elapsed();
        let (a, b): (String, String) = (pair.a.value(&hash).await?, pair.b.value(&hash).await?);
        if a == b {
            return Ok(if attempt == 0 { Duration::ZERO } else { begun });
        }
        if begun > SETTLE_LIMIT {
            bail!(
                "A AND B DIFFER {} s after each has all of the other: rows/hash {a} on A, {b} on B from {hash}",
                begun.as_secs()
            );
        }
    }
    Ok(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the procedure does.
    fn places(updates: Updates) -> Vec<i64> {
        (0..updates.count)
            .map(|k| updates.first + k * updates.step + if updates.wobble { k % 2 } else { 0 })
            .collect()
    }

    #[test]
    fn a_updates_every_place_once() {
        let places: Vec<i64> = Updates::of_a(2000).into_iter().flat_map(places).collect();
        assert_eq!(places.len(), 2000);
        assert_eq!(BTreeSet::from_iter(places), (0..2000).collect());
    }

    #[test]
    fn b_wins_half_of_its_share() {
        for (every, share) in [(10, 200), (1, 2000)] {
            let places = BTreeSet::from_iter(places(Updates::of_b(2000, every)));
            assert_eq!(places.len(), share);
            assert!(places.iter().all(|place| (0..2000).contains(place)));
            let before_b = places.iter().filter(|place| *place % 2 == 0).count();
            assert_eq!(before_b, share / 2);
        }
    }

    #[test]
    fn both_sides_name_the_same_rows() {
        let range = Range {
            base: 70,
            rows: 1000,
        };
        assert_eq!(
            Updates::of_b(2000, 10).call(range, "b7"),
            "call both_t(70, 0, 10, 200, true, 1000, 'b7')"
        );
    }
}
