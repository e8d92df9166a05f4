//! Two groups of one origin are at the server, the second chained to the first: what becomes of the
//! first decides about both. A lock on the table at b holds the first until the second is sent.

use everywrite_tests::cluster::{Cluster, Plan};

use crate::crash_of_the_daemon::{REFUSES_THE_COMMIT, held_before_and_after_a_crash};

/// Every transaction is a group, and there is one session for all of them.
async fn start() -> Cluster {
    let plan = Plan::default()
        .configure("replication", "group-transactions", "1")
        .configure("replication", "sessions", "1")
        .configure("log", "filter", "\"info,everywrite_node::replay=debug\"");
    plan.start().await.unwrap()
}

/// Runs transactions at a, of which b gets two at its server before the first can go on.
async fn two_at_once(cluster: &Cluster, transactions: [&str; 2]) {
    let (a, b) = (cluster.site(0), cluster.site(1));
    let holder = b.sql().await.unwrap();
    let lock = "begin; lock table items in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    for transaction in transactions {
        a.execute(transaction).await.unwrap();
    }
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
        and application_name = 'everywrite replay 1'";
    b.wait_value(waiting, "1").await.unwrap();
    cluster.received(1, 0).await.unwrap();
    // Nothing at the server shows what stands unread in its socket: the daemon says that it is there.
    b.wait_logged("a group is at the server behind another")
        .await
        .unwrap();
    b.wait_value(waiting, "1").await.unwrap();
    holder.batch_execute("commit").await.unwrap();
}

/// What is chained to it fails by itself here: the transaction that has failed is still open.
#[tokio::test]
async fn a_guard_fails_and_takes_the_group_behind_it_along() {
    let cluster = start().await;
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 3) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    // The index does not know that the row is gone: the fast path finds nothing to update.
    let unseen = "delete from items where id = 1";
    cluster.site(1).execute_unseen(unseen).await.unwrap();
    two_at_once(
        &cluster,
        [
            "update items set n = 1 where id = 1",
            "update items set n = 2 where id = 2",
        ],
    )
    .await;
    assert_eq!(cluster.converged().await.unwrap(), 3);
    let state = "select string_agg(n::text, ' ' order by id) from items";
    assert_eq!(cluster.site(1).value(state).await.unwrap(), "1 2 0");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_commit_is_refused_and_takes_the_group_behind_it_along() {
    let mut cluster = start().await;
    cluster.expect_errors(&["tidy"]);
    cluster.site(1).execute(REFUSES_THE_COMMIT).await.unwrap();
    two_at_once(
        &cluster,
        [
            "insert into items values (1, 0, 'unwanted')",
            "insert into items values (2, 0, 'wanted')",
        ],
    )
    .await;
    held_before_and_after_a_crash(&mut cluster).await;
    let b = cluster.site(1);
    let count = "select count(*) from items";
    assert_eq!(b.value(count).await.unwrap(), "0");
    b.execute("drop trigger tidy on items").await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2);
    cluster.finish().unwrap();
}
