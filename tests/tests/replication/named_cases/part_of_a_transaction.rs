//! Transactions of several rows that conflict in some of them only: each row is decided by itself, the
//! others arrive untouched, and what a transaction left is seen at one moment.

use everywrite_tests::cluster::Cluster;

use super::meeting::{Meeting, lost};

const ROWS: &str =
    "select coalesce(string_agg(id || ':' || note, ' ' order by id), 'none') from items";

#[tokio::test]
async fn some_rows_win_some_lose_and_others_meet_nobody() {
    let cluster = Cluster::start().await.unwrap();
    let first = "begin; update items set note = 'a' where id in (1, 2, 3); delete from items where id = 4; \
        insert into items values (10, 0, 'a'); insert into items values (11, 0, 'a'); commit";
    let second = "begin; update items set note = 'b' where id in (3, 4, 5); delete from items where id = 2; \
        insert into items values (11, 0, 'b'); insert into items values (12, 0, 'b'); commit";
    let meeting = Meeting {
        begin: "insert into items select g, 0, 'begin' from generate_series(1, 6) g",
        clear: "delete from items",
        writes: &[(0, first), (1, second)],
        rows: ROWS,
        expected: "1:a 3:b 4:b 5:b 6:begin 10:a 11:b 12:b",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "id"), ["11", "2", "3"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

/// A third transaction between the two that overlaps both.
#[tokio::test]
async fn three_transactions_overlap() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: "insert into items select g, 0, 'begin' from generate_series(1, 5) g",
        clear: "delete from items",
        writes: &[
            (0, "update items set note = 'a' where id <= 3"),
            (
                2,
                "begin; update items set note = 'c' where id in (2, 3, 4); delete from items where id = 1; commit",
            ),
            (1, "update items set note = 'b' where id in (3, 5)"),
            (0, "update items set note = 'a again' where id = 2"),
        ],
        rows: ROWS,
        expected: "2:a again 3:b 4:c 5:b",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}
