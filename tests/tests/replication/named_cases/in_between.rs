//! What happens between a delete, or an update, and the concurrent one that comes late: VACUUM, also
//! FREEZE, and a restart of everything. What is remembered of a key is in the journals, not in dead rows
//! or commit timestamps, and a restart reads it from there.

use everywrite_tests::cluster::Cluster;

const ROWS: &str = "select coalesce(string_agg(items::text, ' ' order by id), 'none') from items";

/// Key 1: a updates, then b deletes. Key 2: b deletes, then a updates. Key 3: a updates, then b updates.
/// Key 4: b updates, then a updates. a is cut off, c has b's.
async fn prepared() -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 4) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.isolate(0);
    let old = "update items set note = 'of a, older' where id in (1, 3)";
    cluster.site(0).execute(old).await.unwrap();
    let delete = "delete from items where id in (1, 2)";
    cluster.site(1).execute(delete).await.unwrap();
    let update = "update items set note = 'of b' where id in (3, 4)";
    cluster.site(1).execute(update).await.unwrap();
    let new = "update items set n = 1 where id in (2, 4)";
    cluster.site(0).execute(new).await.unwrap();
    cluster.caught_up(2, 1).await.unwrap();
    cluster
}

async fn ends_by_version(cluster: Cluster) {
    cluster.heal();
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        let rows = site.value(ROWS).await.unwrap();
        let expected = "(2,1,begin) (3,0,\"of b\") (4,1,begin)";
        assert_eq!(rows, expected, "at {}", site.node.name());
    }
}

#[tokio::test]
async fn vacuum() {
    let cluster = prepared().await;
    for site in &cluster.sites {
        site.execute("vacuum items").await.unwrap();
    }
    ends_by_version(cluster).await;
}

/// Frozen rows name no transaction, and so no commit timestamp.
#[tokio::test]
async fn vacuum_freeze() {
    let cluster = prepared().await;
    for site in &cluster.sites {
        site.execute("vacuum (freeze) items").await.unwrap();
    }
    ends_by_version(cluster).await;
}

#[tokio::test]
async fn vacuum_full() {
    let cluster = prepared().await;
    for site in &cluster.sites {
        site.execute("vacuum (full, freeze) items").await.unwrap();
    }
    ends_by_version(cluster).await;
}

#[tokio::test]
async fn a_restart_of_everything() {
    let mut cluster = prepared().await;
    for site in &mut cluster.sites {
        site.node.stop().unwrap();
        site.server.stop().unwrap();
    }
    for site in &mut cluster.sites {
        site.server.start().await.unwrap();
        site.node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    ends_by_version(cluster).await;
}

#[tokio::test]
async fn a_crash_of_everything_and_vacuum_freeze() {
    let mut cluster = prepared().await;
    for site in &mut cluster.sites {
        site.server.crash();
        site.node.crash();
    }
    for site in &mut cluster.sites {
        site.server.start().await.unwrap();
        site.server.execute("vacuum (freeze) items").await.unwrap();
        site.node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    ends_by_version(cluster).await;
}
