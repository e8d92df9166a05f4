//! A second unique key: the row with the higher version keeps the value, the other one is removed
//! everywhere; NULLs collide with nothing, unless the table says so.

use everywrite_tests::cluster::{Cluster, Plan};

use super::meeting::{Meeting, lost};

const USERS: &str = "create table users (id bigint primary key, email text unique)";
const ROWS: &str = "select coalesce(string_agg(id || ':' || coalesce(email, '-'), ' ' order by id), 'none') \
    from users";
const CLEAR: &str = "delete from users";

async fn users() -> Cluster {
    Plan::with_schema(USERS).start().await.unwrap()
}

#[tokio::test]
async fn two_rows_take_one_value() {
    let cluster = users().await;
    let meeting = Meeting {
        begin: "insert into users values (1, 'a'), (2, 'b')",
        clear: CLEAR,
        writes: &[
            (0, "update users set email = 'x' where id = 1"),
            (1, "update users set email = 'x' where id = 2"),
        ],
        rows: ROWS,
        expected: "2:x",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "id"), ["1"], "{decided:#?}");
        assert!(decided.iter().any(|c| c.kind == "update_exists"));
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_value_is_given_up_at_one_site_and_taken_at_both() {
    let cluster = users().await;
    let meeting = Meeting {
        begin: "insert into users values (1, 'x'), (2, 'b'), (3, 'c')",
        clear: CLEAR,
        writes: &[
            (0, "update users set email = null where id = 1"),
            (0, "update users set email = 'x' where id = 2"),
            (1, "update users set email = 'spare' where id = 1"),
            (1, "update users set email = 'x' where id = 3"),
        ],
        rows: ROWS,
        expected: "1:spare 3:x",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

/// a: 1 takes what 2 gave up, 2 what 3 gave up. b: 3 takes what 1 gave up, and 1 a new one.
#[tokio::test]
async fn chains_in_opposite_directions() {
    let cluster = users().await;
    let chain = "begin; update users set email = null where id = 3; \
        update users set email = 't' where id = 2; update users set email = 'c' where id = 2; \
        update users set email = 'b' where id = 1; update users set email = 'd' where id = 3; commit";
    let back = "begin; update users set email = null where id = 1; \
        update users set email = 'a' where id = 3; update users set email = 'c' where id = 1; commit";
    let meeting = Meeting {
        begin: "insert into users values (1, 'a'), (2, 'b'), (3, 'c')",
        clear: CLEAR,
        writes: &[(0, chain), (1, back)],
        rows: ROWS,
        // Of 1 and 3 b's versions are the higher ones; 2 wanted c with the lower one.
        expected: "1:c 3:a",
    };
    meeting.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_swap_against_a_row_that_takes_one_of_the_values() {
    let cluster = users().await;
    let swap = "begin; update users set email = null where id = 1; \
        update users set email = 'a' where id = 2; update users set email = 'b' where id = 1; commit";
    let take = "delete from users where id = 1; insert into users values (3, 'a')";
    let taken = Meeting {
        begin: "insert into users values (1, 'a'), (2, 'b')",
        clear: CLEAR,
        writes: &[(0, swap), (1, take)],
        rows: ROWS,
        // 1 is deleted by the higher version, 2 has a with a lower one than 3.
        expected: "3:a",
    };
    taken.in_both_orders(&cluster).await;
    cluster.site(0).execute(CLEAR).await.unwrap();
    cluster.converged().await.unwrap();
    let swapped = Meeting {
        writes: &[(1, take), (0, swap)],
        expected: "1:b 2:a",
        ..taken
    };
    swapped.in_both_orders(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn nulls_collide_with_nothing() {
    let cluster = users().await;
    let meeting = Meeting {
        begin: "insert into users values (1, 'a'), (2, null)",
        clear: CLEAR,
        writes: &[
            (
                0,
                "update users set email = null where id = 1; insert into users values (3, null)",
            ),
            (
                1,
                "insert into users values (4, null), (5, 'a') on conflict do nothing",
            ),
            (
                1,
                "update users set email = null where id = 1; insert into users values (5, 'a')",
            ),
        ],
        rows: ROWS,
        expected: "1:- 2:- 3:- 4:- 5:a",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        let rows = lost(&decided, "id");
        assert!(rows.iter().all(|id| id == "1"), "{decided:#?}");
    }
    cluster.finish().unwrap();
}

/// A key of two columns collides only where both are there; with NULLS NOT DISTINCT, NULL is a value.
#[tokio::test]
async fn nulls_in_part_of_a_key_and_nulls_that_collide() {
    let schema = "create table seats (id bigint primary key, hall text, seat int, pass text, \
        unique (hall, seat), unique nulls not distinct (pass))";
    let cluster = Plan::with_schema(schema).start().await.unwrap();
    let meeting = Meeting {
        begin: "insert into seats values (1, 'h', 1, 'p1')",
        clear: "delete from seats",
        writes: &[
            (
                0,
                "insert into seats values (2, 'h', null, 'p2'), (3, 'h', 3, 'p3'), (4, 'k', 4, null)",
            ),
            (
                1,
                "insert into seats values (5, 'h', null, 'p5'), (6, 'h', 3, 'p6'), (7, 'k', 7, null)",
            ),
        ],
        rows: "select string_agg(id::text, ' ' order by id) from seats",
        expected: "1 2 5 6 7",
    };
    for decided in meeting.in_both_orders(&cluster).await {
        assert_eq!(lost(&decided, "id"), ["3", "4"], "{decided:#?}");
    }
    cluster.finish().unwrap();
}
