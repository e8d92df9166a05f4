//! Deletes against inserts and updates that come late or early.

use everywrite_tests::cluster::Cluster;

use super::meeting::{Meeting, lost};

const ROWS: &str = "select coalesce(string_agg(items::text, ' ' order by id), 'none') from items";
const BEGIN: &str = "insert into items values (1, 0, 'begin')";
const CLEAR: &str = "delete from items";

#[tokio::test]
async fn a_delete_over_an_older_update() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "update items set note = 'older'"),
            (1, "delete from items"),
        ],
        rows: ROWS,
        expected: "none",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "note"), ["older"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_newer_update_over_a_delete() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "delete from items"),
            (1, "update items set note = 'newer'"),
        ],
        rows: ROWS,
        expected: "(1,0,newer)",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert!(decided.iter().any(|c| c.kind == "update_deleted"));
        assert!(lost(&decided, "note").is_empty(), "{decided:#?}");
    }
    cluster.finish().unwrap();
}

/// Site a deletes the row and inserts its key again, b deletes what it had seen.
#[tokio::test]
async fn a_delete_against_an_insert_of_the_same_key() {
    let cluster = Cluster::start().await.unwrap();
    let again = "delete from items; insert into items values (1, 1, 'again')";
    let kept = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[(1, "delete from items"), (0, again)],
        rows: ROWS,
        expected: "(1,1,again)",
    };
    kept.in_both_orders(&cluster).await;
    cluster.site(0).execute(CLEAR).await.unwrap();
    cluster.converged().await.unwrap();
    let gone = Meeting {
        writes: &[(0, again), (1, "delete from items")],
        expected: "none",
        ..kept
    };
    for decided in gone.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "note"), ["again"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn deletes_and_inserts_of_one_key_at_two_sites() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        // They alternate, so that no site's writes are all older than the other's.
        writes: &[
            (0, "delete from items"),
            (1, "delete from items"),
            (0, "insert into items values (1, 1, 'a')"),
            (1, "insert into items values (1, 2, 'b')"),
            (1, "delete from items"),
            (0, "update items set n = 3"),
            (1, "insert into items values (1, 4, 'b again')"),
        ],
        rows: ROWS,
        expected: "(1,4,\"b again\")",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert!(
            lost(&decided, "n").contains(&"3".to_owned()),
            "{decided:#?}"
        );
    }
    cluster.finish().unwrap();
}

/// The insert that a third site has seen and deleted reaches the second one long after that.
#[tokio::test]
async fn an_insert_that_comes_behind_its_delete() {
    let cluster = Cluster::start().await.unwrap();
    // Silent, not closed: b goes on believing that it hears a.
    cluster.freeze(0, 1);
    cluster.site(0).execute(BEGIN).await.unwrap();
    cluster.caught_up(2, 0).await.unwrap();
    cluster.site(2).execute("delete from items").await.unwrap();
    let meanwhile = "insert into items values (1, 5, 'of b') on conflict do nothing";
    cluster.site(1).execute(meanwhile).await.unwrap();
    cluster.heal();
    // b wrote last, without having heard of either.
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        assert_eq!(site.value(ROWS).await.unwrap(), "(1,5,\"of b\")");
    }
    cluster.finish().unwrap();
}
