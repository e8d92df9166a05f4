//! A row that one site moves to another partition while another site updates it. The partition's key is part
//! of the primary key, so a move is a change of key: a delete in one partition, an insert in the other.

use everywrite_tests::cluster::{Cluster, Plan};

use super::meeting::{Meeting, lost};

const ORDERS: &str = "create table orders (id int, region text, note text, primary key (id, region)) \
    partition by list (region); \
    create table orders_eu partition of orders for values in ('eu'); \
    create table orders_us partition of orders for values in ('us'); \
    create table orders_rest partition of orders default;";
const ROWS: &str = "select coalesce(string_agg(id || region || ':' || note, ' ' order by id, region), 'none') \
    from orders";
const BEGIN: &str = "insert into orders values (1, 'eu', 'begin'), (2, 'eu', 'begin')";
const CLEAR: &str = "delete from orders";
const MOVE: &str = "update orders set region = 'us' where id = 1";

async fn orders() -> Cluster {
    Plan::with_schema(ORDERS).start().await.unwrap()
}

#[tokio::test]
async fn moved_after_the_update() {
    let cluster = orders().await;
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, "update orders set note = 'older' where id = 1"),
            (1, MOVE),
        ],
        rows: ROWS,
        expected: "1us:begin 2eu:begin",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "note"), ["older"], "{decided:#?}");
        assert!(decided.iter().all(|c| c.table.ends_with("orders_eu")));
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn moved_before_the_update() {
    let cluster = orders().await;
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, MOVE),
            (1, "update orders set note = 'newer' where id = 1"),
        ],
        rows: ROWS,
        expected: "1eu:newer 1us:begin 2eu:begin",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn moved_to_different_partitions_and_back() {
    let cluster = orders().await;
    let meeting = Meeting {
        begin: BEGIN,
        clear: CLEAR,
        writes: &[
            (0, MOVE),
            (
                1,
                "update orders set region = 'asia', note = 'b' where id = 1",
            ),
            (
                0,
                "update orders set region = 'eu', note = 'back' where id = 1",
            ),
            (1, "update orders set region = 'us' where id = 2"),
        ],
        rows: ROWS,
        expected: "1asia:b 1eu:back 2us:begin",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}
