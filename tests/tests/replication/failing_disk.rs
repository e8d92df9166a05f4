//! Disks that are full, slow, or fail to sync: the daemon waits or ends, and loses nothing.

use std::time::Duration;

use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::wait;

/// More than what a journal has ahead of its tail.
const ROWS: &str = "insert into items select g + (select count(*) from items), g, \
    (select string_agg(md5(random()::text || g || i), '') from generate_series(1, 8) i) \
    from generate_series(1, 2000) g";

async fn cluster() -> Cluster {
    Plan::default().on_machines().start().await.unwrap()
}

/// Waits until some site's journal at `site` is full, by what the daemon says.
async fn wait_full(cluster: &Cluster, site: usize) {
    let node = &cluster.site(site).node;
    wait::until("a journal to be full", wait::LIMIT, async || {
        let status = node.run(&["status", "--json"]);
        let (_, text) = status.map_err(|err| format!("{err:#}"))?;
        match text.contains("No space left") || text.contains("os error 28") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_full_disk_stops_the_intake_and_not_the_daemon() {
    let mut cluster = cluster().await;
    cluster.expect_errors(&["No space left", "full"]);
    cluster
        .site(2)
        .machines()
        .unwrap()
        .node
        .leave_room(1_000)
        .unwrap();
    cluster.site(0).execute(ROWS).await.unwrap();
    wait_full(&cluster, 2).await;
    // The others go on, and so does what is local there.
    cluster.caught_up(1, 0).await.unwrap();
    let own = "insert into items values (-1, 0, 'of c')";
    cluster.site(2).execute(own).await.unwrap();
    cluster.site(2).machines().unwrap().node.heal().unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2_001);
    assert!(cluster.site_mut(2).node.has_ended().unwrap().is_none());
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_full_disk_at_the_origin_keeps_what_is_committed_for_later() {
    let mut cluster = cluster().await;
    cluster.expect_errors(&["No space left", "full"]);
    cluster
        .site(0)
        .machines()
        .unwrap()
        .node
        .leave_room(1_000)
        .unwrap();
    for _ in 0..3 {
        cluster.site(0).execute(ROWS).await.unwrap();
    }
    wait_full(&cluster, 0).await;
    cluster.site(0).machines().unwrap().node.heal().unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 6_000);
    assert!(cluster.site_mut(0).node.has_ended().unwrap().is_none());
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_sync_that_fails_ends_the_daemon_and_loses_nothing() {
    for site in [0, 1] {
        let mut cluster = cluster().await;
        cluster.expect_errors(&["sync", "Input/output error", "os error 5"]);
        cluster
            .site(site)
            .machines()
            .unwrap()
            .node
            .fail_syncs()
            .unwrap();
        cluster.site(0).execute(ROWS).await.unwrap();
        let code = wait::until("the daemon to end", wait::LIMIT, async || {
            let ended = cluster.site_mut(site).node.has_ended();
            ended
                .map_err(|err| format!("{err:#}"))?
                .ok_or_else(|| "it runs".to_owned())
        });
        assert_eq!(code.await.unwrap(), 70);
        cluster.site(site).machines().unwrap().node.heal().unwrap();
        cluster.site_mut(site).node.start().unwrap();
        cluster.wait_ready().await.unwrap();
        assert_eq!(cluster.converged().await.unwrap(), 2_000);
    }
}

#[tokio::test]
async fn slow_syncs_only_slow_things_down() {
    let cluster = cluster().await;
    for site in &cluster.sites {
        let machines = site.machines().unwrap();
        machines
            .node
            .slow_syncs(Duration::from_millis(150))
            .unwrap();
        machines
            .server
            .slow_syncs(Duration::from_millis(50))
            .unwrap();
    }
    for n in 0..5 {
        for site in 0..3 {
            let sql = format!(
                "insert into items values (1, {n}, 'site {site}') \
                 on conflict (id) do update set n = excluded.n, note = excluded.note"
            );
            cluster.site(site).execute(&sql).await.unwrap();
        }
    }
    assert_eq!(cluster.converged().await.unwrap(), 1);
    let last = "update items set note = 'last'";
    cluster.site(1).execute(last).await.unwrap();
    cluster.converged().await.unwrap();
    let note = cluster.site(2).value("select note from items").await;
    assert_eq!(note.unwrap(), "last");
    cluster.finish().unwrap();
}
