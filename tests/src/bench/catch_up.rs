//! Scenarios a, c1, c2, du, dd: B is held, A writes a backlog, B is let go.
//!
//! B is let go when the machine has come to rest after the load, for every system alike: B comes back to
//! an origin that has been without it for a while. (Everywrite's daemon at A is a second or two behind so
//! fast a load on two processors; native decodes when B is back.)
//!
//! Marker rows are written before and after the backlog. Native replication applies one transaction after
//! the other, so its rate is units / (last marker − first marker), which leaves out how long the apply
//! worker takes to start. A system that replays groups shows both markers at almost the same moment, and
//! that formula would give any rate one likes. Its rate is therefore units / (last marker − start − d),
//! where d is how long the same start takes with nothing to catch up (the median of three, measured when the
//! pair is connected), and never more than the time to the first marker. Only what is surely not work on
//! the backlog is left out. The time from the start itself stands beside it in the record.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::load::Load;
use super::machine;
use super::pair::{Hold, Pair};
use super::record::Record;

/// No system takes that long for any of these backlogs; one that does has stopped.
const LIMIT: Duration = Duration::from_secs(300);

/// A machine that never rests has other work; the run is then noisy anyhow.
const REST_LIMIT: Duration = Duration::from_secs(20);

/// Waits until next to nothing has run for a while; how long that took.
async fn wait_for_rest() -> Duration {
    let begun = Instant::now();
    let (mut quiet, mut before) = (0, machine::busy().busy);
    while quiet < 4 && begun.elapsed() < REST_LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = machine::busy().busy;
        // A tenth of one processor, in hundredths of a second.
        quiet = if now - before < 0.015 { quiet + 1 } else { 0 };
        before = now;
    }
    begun.elapsed()
}

/// Measures one backlog.
pub(crate) async fn measure(pair: &mut Pair, load: Load, hold: Hold) -> Result<Record> {
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    pair.stop_apply(hold).await?;

    let first = pair.mark().await?;
    let wal_before = pair.a.wal_position().await?;
    let meter = pair.meter().await?;
    let loading = Instant::now();
    load.run(&pair.a).await?;
    let load_time = loading.elapsed();
    let last = pair.mark().await?;
    if hold == Hold::Paused {
        pair.wait_journal().await;
    }
    let rest = wait_for_rest().await;
    let load_cpu = meter.stop().await?;
    let wal_a = pair.a.wal_position().await? - wal_before;
    let wal_before = pair.b.wal_position().await?;

    let watcher = pair.watch().await?;
    let meter = pair.meter().await?;
    let started = Instant::now();
    pair.start_apply(hold).await?;
    let first_seen = pair.wait_marker(&watcher, first, LIMIT).await? - started;
    let last_seen = pair.wait_marker(&watcher, last, LIMIT).await? - started;
    let cpu = meter.stop().await?;
    let wal_b = pair.b.wal_position().await? - wal_before;

    let (a, b): (String, String) = (
        pair.a.value(&load.check()).await?,
        pair.b.value(&load.check()).await?,
    );
    if a != b {
        bail!(
            "A and B differ after the catch-up: {a} and {b} from {}",
            load.check()
        );
    }
    if let Load::Insert(range) = load {
        pair.filled(range);
    }
    let delay = pair
        .idle_delay(hold)
        .map_or(first_seen, |idle| idle.min(first_seen));
    let units = load.units() as f64;
    let mut record = Record {
        ok: true,
        unit: if matches!(load, Load::SingleInserts(_) | Load::TpcB(_)) {
            "transaction"
        } else {
            "row"
        }
        .into(),
        units,
        load_cpu: Some(load_cpu),
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    record.set(
        "rate_per_s",
        units / last_seen.saturating_sub(delay).as_secs_f64(),
    );
    record.set("rate_from_start_per_s", units / last_seen.as_secs_f64());
    record.set("total_s", last_seen.as_secs_f64());
    record.set("first_marker_s", first_seen.as_secs_f64());
    record.set("delay_left_out_s", delay.as_secs_f64());
    record.set("load_s", load_time.as_secs_f64());
    record.set("rest_s", rest.as_secs_f64());
    record.set("wal_a_mb", wal_a as f64 / 1e6);
    record.set("wal_b_mb", wal_b as f64 / 1e6);
    Ok(record)
}
