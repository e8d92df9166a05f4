//! Scenario n: what a transaction costs the origin's server and daemon, by the number of peers.
//!
//! A steady load that leaves processors idle: on a machine that is full, work waits, is done in larger
//! portions, and more peers would seem to cost less. `busy` in the record says how full it was.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::load;
use super::machine;
use super::mesh::Mesh;
use super::record::Record;

/// Links, caches and autovacuum come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures the origin under `rate` transactions a second of one row each.
pub(crate) async fn measure(mesh: &mut Mesh, rate: u32, seconds: u64) -> Result<Record> {
    mesh.wait_caught_up().await?;
    mesh.checkpoint().await?;
    mesh.reset_peaks();
    tokio::time::sleep(SETTLE).await;
    let meter = mesh.meter().await?;
    let (begun, busy) = (Instant::now(), machine::busy());
    let report = load::steady(mesh.a()?, rate, seconds).await?;
    let ended = Instant::now();
    let busy = machine::busy().busy - busy.busy;
    let drained = mesh.wait_caught_up().await? - ended;
    let cpu = meter.stop().await?;
    let different = mesh.differences().await?;
    if !different.is_empty() {
        bail!("THE SITES DIFFER: {}", different.join("; "));
    }
    let per_transaction = |seconds: f64| seconds * 1e6 / report.transactions.max(1.0);
    let mut record = Record {
        ok: true,
        unit: "transaction".into(),
        units: report.transactions,
        daemon_peak_bytes: mesh.peaks(),
        ..Record::default()
    };
    record.set("server_us", per_transaction(cpu.server_a));
    record.set("walsenders_us", per_transaction(cpu.walsender_a));
    record.set("load_sessions_us", per_transaction(cpu.clients_a));
    if record.daemon_peak_bytes.is_some() {
        record.set("daemon_us", per_transaction(cpu.daemon_a));
    }
    record.set("tps", report.tps);
    record.set("drain_s", drained.as_secs_f64());
    record.set("busy_processors", busy / (ended - begun).as_secs_f64());
    record.cpu = Some(cpu);
    Ok(record)
}
