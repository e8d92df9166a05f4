//! A peer that is away for long costs the origin journal space only: `pg_wal` stays small.

use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::wait;

/// What the origin may hold of its WAL, however much was written meanwhile.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// What is written meanwhile; `make soak` and the benchmark write more.
const WRITTEN_MIB: u64 = 256;

async fn write(cluster: &Cluster) {
    let client = cluster.site(0).sql().await.unwrap();
    // Random bytes, so that nothing is compressed away.
    for round in 0..WRITTEN_MIB / 8 {
        let sql = format!(
            "insert into items select {round} * 10000 + g, g, (select string_agg(md5(random()::text || g || i), '') \
             from generate_series(1, 32) i) from generate_series(1, 8000) g"
        );
        client.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test]
async fn wal_is_not_held_for_a_peer_that_is_away() {
    let plan = Plan::default()
        .set("max_wal_size", "48MB")
        .set("min_wal_size", "32MB");
    let mut cluster = plan.start().await.unwrap();
    cluster.site_mut(2).node.stop().unwrap();
    let begin = cluster
        .site(0)
        .value("select pg_current_wal_lsn()")
        .await
        .unwrap();
    write(&cluster).await;
    let written = format!("select (pg_current_wal_lsn() - '{begin}'::pg_lsn)::bigint");
    let written: u64 = cluster
        .site(0)
        .value(&written)
        .await
        .unwrap()
        .parse()
        .unwrap();
    assert!(written > WRITTEN_MIB << 20, "only {written} bytes of WAL");

    let a = cluster.site(0);
    wait::until("pg_wal to be small again", wait::LIMIT, async || {
        let say = |err: anyhow::Error| format!("{err:#}");
        a.execute("checkpoint").await.map_err(say)?;
        let held = a.server.wal_bytes().await.map_err(say)?;
        if held < HELD_BYTES_MAX {
            Ok(())
        } else {
            Err(format!("{held} bytes in pg_wal"))
        }
    })
    .await
    .unwrap();

    cluster.site_mut(2).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}
