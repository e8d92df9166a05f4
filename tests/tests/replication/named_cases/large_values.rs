//! Values stored out of line that the winner does not touch: they are those of its version, never the
//! loser's.

use everywrite_tests::cluster::{Cluster, Plan};

use super::meeting::Meeting;

const DOCS: &str = "create table docs (id bigint primary key, n int, body text); \
    alter table docs alter column body set storage external;";
const ROWS: &str = "select coalesce(string_agg(id || ':' || n || ':' || left(body, 3) || ':' || length(body), \
    ' ' order by id), 'none') from docs";
const BEGIN: &str = "insert into docs values (1, 0, repeat('old', 5000))";
const CLEAR: &str = "delete from docs";

async fn ends(writes: &[(usize, &str)], expected: &str) {
    let cluster: Cluster = Plan::with_schema(DOCS).start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes,
        rows: ROWS,
        expected,
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_winner_leaves_alone_what_the_loser_changed() {
    let writes = [
        (0, "update docs set n = 1, body = repeat('new', 4000)"),
        (1, "update docs set n = 2"),
    ];
    ends(&writes, "1:2:old:15000").await;
}

#[tokio::test]
async fn the_winner_leaves_alone_what_the_loser_deleted_and_wrote_again() {
    let writes = [
        (0, "delete from docs"),
        (0, "insert into docs values (1, 1, repeat('new', 4000))"),
        (0, "update docs set n = 2"),
        (1, "update docs set n = 3"),
    ];
    ends(&writes, "1:3:old:15000").await;
}

#[tokio::test]
async fn the_winner_is_a_row_deleted_and_written_again_whose_large_value_stays() {
    let writes = [
        (1, "update docs set n = 1, body = repeat('mid', 6000)"),
        (
            0,
            "delete from docs; insert into docs values (1, 2, repeat('new', 4000))",
        ),
        (0, "update docs set n = 3"),
        (0, "update docs set n = 4"),
    ];
    ends(&writes, "1:4:new:12000").await;
}

/// The new key's row carries a large value that the stream leaves out.
#[tokio::test]
async fn a_key_changes_and_the_large_value_stays() {
    let writes = [
        (1, "update docs set n = 1, body = repeat('mid', 6000)"),
        (1, "insert into docs values (2, 2, repeat('two', 6000))"),
        (0, "update docs set id = 2"),
    ];
    ends(&writes, "2:0:old:15000").await;
    let writes = [(0, "update docs set id = 2"), (1, "update docs set n = 1")];
    ends(&writes, "1:1:old:15000 2:0:old:15000").await;
}

/// A key that changes and changes back, and a row that goes and is written again, in one transaction.
#[tokio::test]
async fn there_and_back_in_one_transaction() {
    let writes = [
        (1, "update docs set body = repeat('mid', 6000)"),
        (
            0,
            "begin; update docs set id = 2; update docs set n = 1; update docs set id = 1; commit",
        ),
    ];
    ends(&writes, "1:1:old:15000").await;
}
