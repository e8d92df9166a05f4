//! Conflicts that the index alone decides stay on the fast path (ADR 14): winners and losers of
//! every kind in one backlog, and what a guard that fails makes of them.
//!
//! Site c has a's writes when it meets b's. Neither a nor b has heard of the other.

use std::collections::BTreeMap;

use everywrite_node::telemetry::OriginStatus;
use everywrite_tests::cluster::Cluster;

const NOTES: &str = "select string_agg(note, ' ' order by id) from items where id between ";

/// Rows 1 to 60 everywhere; then nobody hears anybody, and c does not replay b.
async fn apart() -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 60) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    let c = cluster.site(2);
    c.execute("select everywrite.pause('b')").await.unwrap();
    cluster
}

/// c hears of a, then goes on with b. What b's stream at c has done by then, before and after.
async fn first_a_then_b(cluster: &Cluster) -> (OriginStatus, OriginStatus) {
    let (a, b, c) = (0, 1, 2);
    cluster.proxy(a, c).heal();
    cluster.proxy(c, a).heal();
    cluster.caught_up(c, a).await.unwrap();
    let site = cluster.site(c);
    let before = site.origin(cluster.site(b)).await.unwrap();
    cluster.heal();
    site.execute("select everywrite.resume('b')").await.unwrap();
    let last = "select note from items where id = 0";
    site.wait_value(last, "last").await.unwrap();
    (before, site.origin(cluster.site(b)).await.unwrap())
}

async fn run(cluster: &Cluster, site: usize, statements: &[&str]) {
    for sql in statements {
        cluster.site(site).execute(sql).await.unwrap();
    }
}

async fn kinds_at_c(cluster: &Cluster) -> BTreeMap<(String, bool), usize> {
    let mut kinds = BTreeMap::new();
    for conflict in cluster.site(2).conflicts().await.unwrap() {
        assert_eq!(conflict.contradiction(), None);
        let local = (conflict.kind != "update_missing").then_some("a");
        assert_eq!(conflict.local.site.as_deref(), local, "{conflict:?}");
        assert_eq!(conflict.incoming.site.as_deref(), Some("b"), "{conflict:?}");
        let key = (conflict.kind.clone(), conflict.applied());
        *kinds.entry(key).or_insert(0) += 1;
    }
    kinds
}

fn expected(kinds: &[(&str, bool, usize)]) -> BTreeMap<(String, bool), usize> {
    let entry = |&(kind, applied, n): &(&str, bool, usize)| ((kind.to_owned(), applied), n);
    kinds.iter().map(entry).collect()
}

#[tokio::test]
async fn winners_and_losers_of_every_kind_in_one_backlog() {
    let cluster = apart().await;
    let (a, b) = (0, 1);
    // Older at b, and it loses.
    let older = [
        "update items set note = 'b' where id between 1 and 10",
        "delete from items where id between 41 and 44",
        "insert into items select g, 1, 'b' from generate_series(121, 124) g",
    ];
    run(&cluster, b, &older).await;
    let of_a = [
        "update items set note = 'a' where id between 1 and 25",
        "delete from items where id between 31 and 36",
        "update items set note = 'a' where id between 41 and 44",
        "insert into items select g, 1, 'a' from generate_series(101, 110) g",
        "insert into items select g, 1, 'a' from generate_series(121, 124) g",
    ];
    run(&cluster, a, &of_a).await;
    // Newer at b, and it wins.
    let newer = [
        "update items set note = 'b' where id between 11 and 20",
        "delete from items where id between 21 and 25",
        "update items set note = 'b' where id between 31 and 36",
        "insert into items select g, 1, 'b' from generate_series(101, 110) g",
        "update items set note = 'alone' where id between 51 and 55",
        "insert into items values (0, 0, 'last')",
    ];
    run(&cluster, b, &newer).await;

    let site = cluster.site(2);
    let (before, after) = first_a_then_b(&cluster).await;
    assert_eq!(
        after.careful_groups, before.careful_groups,
        "nothing in it needs a lock"
    );
    assert!(after.fast_groups > before.fast_groups);
    let kinds = expected(&[
        ("update_origin_differs", false, 10),
        ("delete_origin_differs", false, 4),
        ("insert_exists", false, 4),
        ("update_origin_differs", true, 10),
        ("delete_origin_differs", true, 5),
        ("update_deleted", true, 6),
        ("insert_exists", true, 10),
    ]);
    assert_eq!(kinds_at_c(&cluster).await, kinds);

    cluster.converged().await.unwrap();
    for (range, notes) in [
        ("1 and 10", "a ".repeat(10)),
        ("11 and 20", "b ".repeat(10)),
        ("26 and 36", "begin ".repeat(5) + &"b ".repeat(6)),
        ("41 and 44", "a ".repeat(4)),
        ("51 and 55", "alone ".repeat(5)),
        ("101 and 110", "b ".repeat(10)),
        ("121 and 124", "a ".repeat(4)),
    ] {
        let row = site.value(&format!("{NOTES}{range}")).await.unwrap();
        assert_eq!(row, notes.trim_end(), "{range}");
    }
    let gone = "select count(*) from items where id between 21 and 25";
    assert_eq!(site.value(gone).await.unwrap(), "0");
    assert_eq!(kinds_at_c(&cluster).await, kinds, "each is told once");
    cluster.finish().unwrap();
}

/// A row of the transaction is not there: somebody took it away behind the daemon's back, so the
/// index knows nothing of that. The guard fails, and all of it is decided with care.
#[tokio::test]
async fn a_guard_that_fails_leaves_no_history_behind() {
    let cluster = apart().await;
    let (a, b) = (0, 1);
    let of_a = "update items set note = 'a' where id between 1 and 10";
    run(&cluster, a, &[of_a]).await;
    let of_b = [
        "update items set note = 'b' where id between 1 and 10; \
         update items set note = 'alone' where id between 11 and 20",
        "insert into items values (0, 0, 'last')",
    ];
    run(&cluster, b, &of_b).await;
    let site = cluster.site(2);
    let foreign = "select pg_replication_origin_create('everywrite_77'); \
        select pg_replication_origin_session_setup('everywrite_77'); \
        delete from items where id = 15";
    site.execute(foreign).await.unwrap();
    let (before, after) = first_a_then_b(&cluster).await;
    assert!(after.careful_groups > before.careful_groups);
    assert_eq!(after.conflicts - before.conflicts, 11);
    let kinds = expected(&[
        ("update_origin_differs", true, 10),
        ("update_missing", true, 1),
    ]);
    assert_eq!(kinds_at_c(&cluster).await, kinds);
    cluster.converged().await.unwrap();
    let row = site.value(&format!("{NOTES}1 and 20")).await.unwrap();
    assert_eq!(row, "b ".repeat(10) + "alone ".repeat(10).trim_end());
    cluster.finish().unwrap();
}
