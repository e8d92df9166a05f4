//! TRUNCATE is a delete of every row with a lower version, those that come later among them.

use everywrite_tests::cluster::Cluster;

use super::meeting::{Meeting, lost};

const ROWS: &str =
    "select coalesce(string_agg(id || ':' || note, ' ' order by id), 'none') from items";

#[tokio::test]
async fn truncate_between_inserts() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: "insert into items values (1, 0, 'begin'), (2, 0, 'begin')",
        clear: "delete from items",
        writes: &[
            (0, "insert into items values (3, 0, 'before')"),
            (0, "update items set note = 'before' where id = 1"),
            (1, "truncate items"),
            (0, "insert into items values (4, 0, 'after')"),
            (0, "update items set note = 'after' where id = 2"),
            (1, "insert into items values (1, 0, 'refilled')"),
        ],
        rows: ROWS,
        expected: "1:refilled 2:after 4:after",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "id"), ["1", "3"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn truncate_at_both_sites() {
    let cluster = Cluster::start().await.unwrap();
    let meeting = Meeting {
        begin: "insert into items values (1, 0, 'begin')",
        clear: "delete from items",
        writes: &[
            (0, "truncate items; insert into items values (2, 0, 'of a')"),
            (
                1,
                "begin; truncate items; insert into items values (3, 0, 'of b'); commit",
            ),
            (0, "insert into items values (4, 0, 'of a')"),
        ],
        rows: ROWS,
        expected: "3:of b 4:of a",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}
