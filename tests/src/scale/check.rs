//! Five real sites: whether a link carries what is computed for it.
//!
//! All sites write one-row transactions at one rate, then at another. What A's own journal grows by is
//! what a transaction's frame takes; what a link carries beyond the frames is beats, pings and its own
//! frames' headers.

use std::time::{Duration, Instant};

use anyhow::Context;
use everywrite_node::telemetry::Status;
use everywrite_tests::cluster::{Cluster, Plan};
use serde::Serialize;

use super::transaction::Kind;

const SITES: usize = 5;
const SCHEMA: &str = "create table rows (id bigint primary key, ts timestamptz, pad text);";
const SECONDS: f64 = 6.0;

/// Computed and measured, for one link in one direction.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) sites: usize,
    pub(crate) frame_bytes_computed: f64,
    pub(crate) frame_bytes_measured: f64,
    /// On the link, without TLS.
    pub(crate) rest_bytes_per_s_computed: f64,
    pub(crate) rest_bytes_per_s_measured_at_40: f64,
    pub(crate) rest_bytes_per_s_measured_at_120: f64,
    pub(crate) sql_sessions_at_a: f64,
}

/// Starts five sites and compares.
pub(crate) async fn run() -> anyhow::Result<Check> {
    let cluster = Plan::with_schema(SCHEMA).sites(SITES).start().await?;
    // A vector names whoever has written.
    write(&cluster, 0, 10.0, 2.0).await?;
    let slow = write(&cluster, 1_000_000, 40.0, SECONDS).await?;
    let fast = write(&cluster, 2_000_000, 120.0, SECONDS).await?;
    let sessions = "select count(*) from pg_stat_activity where backend_type = 'client backend' \
                    and application_name like 'everywrite%'";
    let sessions = cluster.site(0).value(sessions).await?;
    let computed = super::cost::of(SITES, 1000.0);
    cluster.finish()?;
    let frame = Kind::Insert.frame(7, SITES - 1).len();
    Ok(Check {
        sites: SITES,
        frame_bytes_computed: frame as f64,
        frame_bytes_measured: fast.frame_bytes,
        rest_bytes_per_s_computed: (computed.node_out_beats_kb_per_s + computed.pings_kb_per_s)
            * 1e3
            / (SITES - 1) as f64,
        rest_bytes_per_s_measured_at_40: slow.rest_bytes_per_s,
        rest_bytes_per_s_measured_at_120: fast.rest_bytes_per_s,
        sql_sessions_at_a: sessions.parse().context("a number of sessions")?,
    })
}

/// What one rate has amounted to at A.
struct Written {
    frame_bytes: f64,
    rest_bytes_per_s: f64,
}

/// All sites write at a rate.
async fn write(cluster: &Cluster, base: i64, per_s: f64, seconds: f64) -> anyhow::Result<Written> {
    let before = cluster.site(0).node.status().await?;
    let begin = Instant::now();
    let count = (per_s * seconds) as i64;
    let mut writers = tokio::task::JoinSet::new();
    for (site, at) in (0_i64..).zip(&cluster.sites) {
        let client = at.sql().await?;
        writers.spawn(async move {
            let sql = "insert into rows values ($1, clock_timestamp(), 'payload-' || lpad($1::text, 32, 'x'))";
            let sql = sql.replacen("$1::text", "($1::bigint)::text", 1);
            let insert = client.prepare(&sql).await.context("prepare the writes")?;
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_s));
            for number in 0..count {
                ticks.tick().await;
                let id = base + site * 100_000 + number;
                client.execute(&insert, &[&id]).await.context("write")?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer panicked")??;
    }
    let after = cluster.site(0).node.status().await?;
    let elapsed = begin.elapsed().as_secs_f64();
    let sent = |status: &Status| status.peers.iter().map(|peer| peer.sent_bytes).sum::<u64>();
    let bytes = (sent(&after) - sent(&before)) as f64 / (SITES - 1) as f64;
    // Not the files' sizes: zeros stand ahead in them.
    let journal = (after.capture.journal_bytes - before.capture.journal_bytes) as f64;
    Ok(Written {
        frame_bytes: journal / count as f64,
        rest_bytes_per_s: (bytes - journal) / elapsed,
    })
}
