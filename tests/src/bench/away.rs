//! Scenario g: B is away, server and daemon, while A writes; what A has to keep, and how long B needs
//! afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pair::Pair;
use super::record::Record;

const LIMIT: Duration = Duration::from_secs(600);

/// A slot's `restart_lsn` can only move to a point where the server has logged its running transactions,
/// which a checkpoint does; what was confirmed is noted a moment later.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures one absence in which A writes `bytes` of WAL.
pub(crate) async fn peer_away(pair: &mut Pair, bytes: i64) -> Result<Record> {
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    let wal_dir_before = pair.a.wal_dir_bytes().await?;
    pair.peer_away().await?;
    let begin = pair.a.wal_position().await?;
    let (mut rows, mut held_most) = (0, 0);
    let loading = Instant::now();
    while pair.a.wal_position().await? - begin < bytes {
        pair.a
            .execute("insert into w(pad) select repeat('x', 1000) from generate_series(1, 20000)")
            .await?;
        rows += 20_000;
        held_most = held_most.max(pair.a.slot_held_bytes().await?);
    }
    let load_time = loading.elapsed();
    checkpoint_twice(pair).await?;
    let held_at_once = pair.a.slot_held_bytes().await?;
    tokio::time::sleep(SETTLE).await;
    checkpoint_twice(pair).await?;
    let held = pair.a.slot_held_bytes().await?;
    let written = pair.a.wal_position().await? - begin;
    let wal_dir_away = pair.a.wal_dir_bytes().await?;

    let marker = pair.mark().await?;
    let started = pair.peer_back().await?;
    let meter = pair.meter().await?;
    let watcher = pair.watch().await?;
    let caught_up = pair.wait_marker(&watcher, marker, LIMIT).await? - started;
    let cpu = meter.stop().await?;
    let count = "select count(*) from w";
    let (a, b): (i64, i64) = (pair.a.value(count).await?, pair.b.value(count).await?);
    if a != b {
        bail!("A has {a} rows and B has {b} after the catch-up");
    }
    checkpoint_twice(pair).await?;
    let mut record = Record {
        ok: true,
        unit: "row".into(),
        units: f64::from(rows),
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    let mut megabytes = |name: &str, bytes: i64| record.set(name, bytes as f64 / 1e6);
    megabytes("wal_written_mb", written);
    megabytes("held_mb", held);
    megabytes("held_at_once_mb", held_at_once);
    megabytes("held_most_mb", held_most);
    megabytes("pg_wal_before_mb", wal_dir_before);
    megabytes("pg_wal_away_mb", wal_dir_away);
    megabytes("pg_wal_after_mb", pair.a.wal_dir_bytes().await?);
    record.set("catchup_s", caught_up.as_secs_f64());
    record.set("load_s", load_time.as_secs_f64());
    Ok(record)
}

async fn checkpoint_twice(pair: &Pair) -> Result<()> {
    pair.a.execute("checkpoint").await?;
    pair.a.execute("checkpoint").await
}
