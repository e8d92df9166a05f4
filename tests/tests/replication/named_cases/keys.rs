//! Primary keys that change. A change of key is a delete of the old key and an insert of the new one, of
//! one version.

use everywrite_tests::cluster::Cluster;

use super::meeting::{Meeting, lost};

const ROWS: &str = "select coalesce(string_agg(items::text, ' ' order by id), 'none') from items";
const BEGIN: &str = "insert into items values (1, 1, 'one'), (2, 2, 'two')";
const CLEAR: &str = "delete from items";

#[tokio::test]
async fn a_key_change_over_an_older_update() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "update items set note = 'older' where id = 1"),
            (1, "update items set id = 10 where id = 1"),
        ],
        rows: ROWS,
        expected: "(2,2,two) (10,1,one)",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "note"), ["older"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_newer_update_keeps_the_old_key() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "update items set id = 10 where id = 1"),
            (1, "update items set note = 'newer' where id = 1"),
        ],
        rows: ROWS,
        expected: "(1,1,newer) (2,2,two) (10,1,one)",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn two_rows_get_the_same_key() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "update items set id = 10 where id = 1"),
            (1, "update items set id = 10 where id = 2"),
        ],
        rows: ROWS,
        expected: "(10,2,two)",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "note"), ["one"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn two_sites_swap_and_shift_the_same_keys() {
    let cluster = Cluster::start().await.unwrap();
    let swap = "begin; update items set id = 3 where id = 1; update items set id = 1 where id = 2; \
        update items set id = 2 where id = 3; commit";
    let shift =
        "begin; update items set id = 3 where id = 2; update items set id = 2 where id = 1; commit";
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[(0, swap), (1, shift)],
        rows: ROWS,
        // b's: 1 is gone, 2 holds the first row, 3 the second. a's older writes of 1 and 2 lose.
        expected: "(2,1,one) (3,2,two)",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}
