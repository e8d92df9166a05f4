//! Scenarios b, e, w: replication runs while A writes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::latency::Poller;
use super::load;
use super::pair::Pair;
use super::record::Record;
use super::statistics::percentile;

const LIMIT: Duration = Duration::from_secs(300);

/// b: one transaction of many rows; from COMMIT's return on A to the first sight on B.
pub(crate) async fn big_transaction(pair: &mut Pair, rows: i64) -> Result<Record> {
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    let range = pair.new_range(rows);
    let marker = pair.next_marker();
    let writer = pair.a.connect().await?;
    let watcher = pair.watch().await?;
    let meter = pair.meter().await?;

    let begun = Instant::now();
    writer.batch_execute("begin").await.context("begin on A")?;
    let insert = format!(
        "insert into t select {} + g, g, 'payload-' || lpad(g::text, 32, 'x'), clock_timestamp() from generate_series(1, {rows}) g",
        range.base
    );
    writer.batch_execute(&insert).await.context("insert on A")?;
    writer
        .batch_execute(&format!("insert into marker(id) values ({marker})"))
        .await
        .context("insert on A")?;
    let inserted = Instant::now();
    writer
        .batch_execute("commit")
        .await
        .context("commit on A")?;
    let committed = Instant::now();
    let visible = pair.wait_marker(&watcher, marker, LIMIT).await?;
    let cpu = meter.stop().await?;

    let check = format!(
        "select count(*) from t where id between {} and {}",
        range.base + 1,
        range.base + rows
    );
    let arrived: i64 = pair.b.value(&check).await?;
    if arrived != rows {
        bail!("B shows {arrived} of {rows} rows of one transaction");
    }
    pair.filled(range);
    let mut record = Record {
        ok: true,
        unit: "row".into(),
        units: rows as f64,
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    // The driver may see B's row before it has seen the answer to its own COMMIT.
    record.set(
        "visible_s",
        visible.saturating_duration_since(committed).as_secs_f64(),
    );
    record.set("insert_s", (inserted - begun).as_secs_f64());
    record.set("commit_s", (committed - inserted).as_secs_f64());
    record.set("begin_to_visible_s", (visible - begun).as_secs_f64());
    Ok(record)
}

/// e: a steady load; commit timestamp on A to the first poll on B that sees the row.
pub(crate) async fn latency(pair: &mut Pair, rate: u32, seconds: u64) -> Result<Record> {
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last: i64 = pair.a.value("select coalesce(max(id), 0) from lat").await?;
    let poller = Poller::start(&pair.b, last)?;
    let meter = pair.meter().await?;
    let report = load::steady(&pair.a, rate, seconds).await?;
    let cpu = meter.stop().await?;
    pair.wait_caught_up().await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut polled = poller.stop().await?;

    let committed = pair.a.connect().await?;
    let sql = "select id, (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::int8 from lat where id > $1";
    let rows = committed
        .query(sql, &[&last])
        .await
        .context("read commit timestamps on A")?;
    let mut delays = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, micros): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(seen) = polled.seen.get(&id) {
            delays.push((seen - micros) as f64 / 1000.0);
        }
    }
    if delays.len() != rows.len() || delays.is_empty() {
        bail!(
            "{} of {} rows were never seen on B",
            rows.len() - delays.len(),
            rows.len()
        );
    }
    let mut record = Record {
        ok: true,
        unit: "transaction".into(),
        units: report.transactions,
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    record.set("p50_ms", percentile(&mut delays, 0.50));
    record.set("p95_ms", percentile(&mut delays, 0.95));
    record.set("p99_ms", percentile(&mut delays, 0.99));
    record.set("max_ms", percentile(&mut delays, 1.0));
    record.set("poll_p50_ms", percentile(&mut polled.periods_ms, 0.50));
    record.set("poll_p99_ms", percentile(&mut polled.periods_ms, 0.99));
    record.set("tps", report.tps);
    Ok(record)
}

/// w: TPC-B at full speed on A; then how long B needs to have it all.
pub(crate) async fn writer(pair: &mut Pair, seconds: u64) -> Result<Record> {
    pair.wait_caught_up().await?;
    pair.checkpoint().await?;
    pair.reset_peaks();
    let watcher = pair.watch().await?;
    let meter = pair.meter().await?;
    let arguments = [
        "-n",
        "-M",
        "prepared",
        "-c",
        "4",
        "-j",
        "2",
        "-T",
        &seconds.to_string(),
    ];
    let report = pair.a.pgbench(&arguments, "").await?;
    let ended = Instant::now();
    let marker = pair.mark().await?;
    let drained = pair.wait_marker(&watcher, marker, LIMIT).await?;
    let cpu = meter.stop().await?;
    let mut record = Record {
        ok: true,
        unit: "transaction".into(),
        units: report.transactions,
        cpu: Some(cpu),
        daemon_peak_bytes: pair.peaks(),
        ..Record::default()
    };
    record.set("tps", report.tps);
    record.set("drain_s", (drained - ended).as_secs_f64());
    Ok(record)
}
