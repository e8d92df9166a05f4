//! Rows that are merged by columns: what two sites change in different columns both stays, differences
//! add up, the greatest stays.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};

pub(crate) const SCHEMA: &str = "create table stock (id int primary key, label text, place text, \
    balance numeric(12, 2) not null default 0, seen int, low int); \
    alter table stock replica identity full; \
    create table done (id uuid primary key default gen_random_uuid(), k int);";

const OPTIONS: &str =
    r#"{"delta": ["balance"], "greatest": ["seen"], "least": ["low"], "floor": {"balance": 0}}"#;
const BEGIN: &str =
    "insert into stock select g, 'tea', 'here', 10, 5, 5 from generate_series(1, 6) g";
const ROWS: &str = "select coalesce(string_agg(stock::text, ' ' order by id), 'none') from stock";

/// Waits until every site merges.
pub(crate) async fn merging(cluster: &Cluster) {
    for site in &cluster.sites {
        let begun = "select case when begun_at is null then 'no' else policy end \
            from everywrite.policies where table_name = 'stock'";
        site.wait_value(begun, "column_wise").await.unwrap();
    }
}

pub(crate) async fn set(cluster: &Cluster, site: usize, options: &str) {
    let sql = format!("select everywrite.set_policy('stock', 'all', 'column_wise', '{options}')");
    cluster.site(site).execute(&sql).await.unwrap();
    merging(cluster).await;
}

async fn start() -> Cluster {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    cluster.site(0).execute(BEGIN).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, OPTIONS).await;
    cluster
}

async fn run(cluster: &Cluster, site: usize, sql: &str) {
    cluster.site(site).execute(sql).await.unwrap();
}

/// The row at every site.
async fn row(cluster: &Cluster, id: i32) -> String {
    cluster.converged().await.unwrap();
    let sql = format!("select coalesce(max(stock::text), 'none') from stock where id = {id}");
    cluster.site(1).value(&sql).await.unwrap()
}

async fn decisions(cluster: &Cluster, id: i32) -> Vec<String> {
    let sql = format!(
        "select coalesce(string_agg(distinct kind || ' ' || decision, ', '), 'none') from everywrite.conflicts \
         where key = '{{\"id\": {id}}}' and policy = 'column_wise'"
    );
    let mut found = Vec::new();
    for site in &cluster.sites {
        found.push(site.value(&sql).await.unwrap());
    }
    found
}

#[tokio::test]
async fn different_columns_both_stay_and_the_last_update_of_a_column_wins() {
    let cluster = start().await;
    cluster.cut_all();
    run(&cluster, 0, "update stock set label = 'of a' where id = 1").await;
    run(&cluster, 1, "update stock set place = 'of b' where id = 1").await;
    run(&cluster, 2, "update stock set label = 'of c' where id = 1").await;
    // A change of a column that is taken back within the transaction is a change all the same.
    run(&cluster, 0, "update stock set label = 'first' where id = 2").await;
    run(
        &cluster,
        1,
        "begin; update stock set label = 'other' where id = 2; update stock set label = 'tea' where id = 2; commit",
    )
    .await;
    run(&cluster, 2, "update stock set label = label where id = 3").await;
    run(
        &cluster,
        1,
        "update stock set label = null, place = 'x' where id = 3",
    )
    .await;
    cluster.heal();
    assert_eq!(row(&cluster, 1).await, "(1,\"of c\",\"of b\",10.00,5,5)");
    assert_eq!(row(&cluster, 2).await, "(2,tea,here,10.00,5,5)");
    assert_eq!(row(&cluster, 3).await, "(3,,x,10.00,5,5)");
    for found in decisions(&cluster, 1).await {
        assert!(found.contains("update_origin_differs merged"), "{found}");
    }
    assert_eq!(decisions(&cluster, 3).await, ["none"; 3]);
    let merged = "select everywrite.restore_row(min(id)) from everywrite.conflicts where decision = 'merged'";
    let error = cluster.site(0).value(merged).await.unwrap_err();
    assert!(format!("{error:#}").contains("no row lost"), "{error:#}");

    // What has been seen is no conflict, and later changes replace it.
    run(
        &cluster,
        2,
        "update stock set label = 'again', place = 'again' where id = 1",
    )
    .await;
    assert_eq!(row(&cluster, 1).await, "(1,again,again,10.00,5,5)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn differences_add_up_and_a_floor_that_is_crossed_is_reported() {
    let cluster = start().await;
    let mut listener = cluster
        .site(2)
        .server
        .listen("everywrite_floor")
        .await
        .unwrap();
    cluster.cut_all();
    for site in 0..3 {
        for _ in 0..5 {
            run(
                &cluster,
                site,
                "update stock set balance = balance + 1.5 where id = 1",
            )
            .await;
        }
        run(
            &cluster,
            site,
            "update stock set balance = balance * 2 where id = 2",
        )
        .await;
        // Every site may take 6 of 10; all three together may not.
        run(
            &cluster,
            site,
            "update stock set balance = balance - 6 where id = 3",
        )
        .await;
    }
    cluster.heal();
    assert_eq!(row(&cluster, 1).await, "(1,tea,here,32.50,5,5)");
    assert_eq!(row(&cluster, 2).await, "(2,tea,here,40.00,5,5)");
    assert_eq!(row(&cluster, 3).await, "(3,tea,here,-8.00,5,5)");
    assert_eq!(decisions(&cluster, 1).await, ["none"; 3]);
    let note = "select string_agg(note, '; ') from everywrite.conflicts where note is not null";
    for site in &cluster.sites {
        let note = site.value(note).await.unwrap();
        assert_eq!(note, "balance crossed its floor 0: from 4.00 to -2.00");
    }
    assert_eq!(listener.heard("everywrite_floor").await.unwrap().len(), 1);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn row_events_win_against_updates_that_have_not_seen_them() {
    let cluster = start().await;
    cluster.cut_all();
    // A delete against a later update, of any column.
    run(&cluster, 0, "delete from stock where id = 1").await;
    run(
        &cluster,
        1,
        "update stock set balance = balance + 1 where id = 1",
    )
    .await;
    run(&cluster, 2, "update stock set label = 'late' where id = 1").await;
    // The row is another one.
    run(&cluster, 1, "update stock set label = 'lost' where id = 2").await;
    run(
        &cluster,
        0,
        "begin; delete from stock where id = 2; insert into stock values (2, 'new', 'row', 1, 1, 1); commit",
    )
    .await;
    run(
        &cluster,
        0,
        "update stock set balance = balance + 4 where id = 2",
    )
    .await;
    // Two inserts of one key, each updated where it was made.
    for (site, label) in [(0, "a"), (1, "b"), (2, "c")] {
        let insert = format!("insert into stock values (20, '{label}', 'ins', 100)");
        run(&cluster, site, &insert).await;
        run(
            &cluster,
            site,
            "update stock set balance = balance + 7 where id = 20",
        )
        .await;
    }
    // Another key is another row.
    run(
        &cluster,
        2,
        "update stock set id = 30, label = 'moved' where id = 3",
    )
    .await;
    run(&cluster, 1, "update stock set place = 'left' where id = 3").await;
    cluster.heal();
    assert_eq!(row(&cluster, 1).await, "none");
    assert_eq!(row(&cluster, 2).await, "(2,new,row,5.00,1,1)");
    assert_eq!(row(&cluster, 20).await, "(20,c,ins,107.00,,)");
    assert_eq!(row(&cluster, 3).await, "none");
    assert_eq!(row(&cluster, 30).await, "(30,moved,here,10.00,5,5)");
    let found = decisions(&cluster, 1).await;
    assert_eq!(found[0], "update_deleted kept local");
    assert!(
        found[1].contains("delete_origin_differs applied"),
        "{found:?}"
    );

    cluster.cut_all();
    run(&cluster, 0, "truncate stock").await;
    run(
        &cluster,
        1,
        "update stock set balance = balance + 1 where id = 4",
    )
    .await;
    run(
        &cluster,
        2,
        "insert into stock values (40, 'stays', 'new', 1)",
    )
    .await;
    cluster.heal();
    cluster.converged().await.unwrap();
    // A TRUNCATE of a table with a policy stands above all that it has not seen.
    assert_eq!(cluster.site(1).value(ROWS).await.unwrap(), "none");
    let truncated =
        "select key::text from everywrite.conflicts where kind = 'truncate_origin_differs'";
    assert_eq!(
        cluster.site(1).value(truncated).await.unwrap(),
        r#"{"id": 4}"#
    );
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_greatest_and_the_least_stay_unless_they_were_seen() {
    let cluster = start().await;
    cluster.cut_all();
    for (site, n) in [(0, 9), (1, 7), (2, 8)] {
        let sql = format!("update stock set seen = {n}, low = {n} - 6 where id = 1");
        run(&cluster, site, &sql).await;
    }
    // Whoever lowers a value knowingly lowers it, also against what the old one had won against.
    run(&cluster, 0, "update stock set seen = 20 where id = 2").await;
    run(&cluster, 0, "update stock set seen = 2 where id = 2").await;
    run(&cluster, 1, "update stock set seen = 15 where id = 2").await;
    run(&cluster, 2, "update stock set seen = null where id = 3").await;
    run(&cluster, 1, "update stock set seen = 1 where id = 3").await;
    cluster.heal();
    assert_eq!(row(&cluster, 1).await, "(1,tea,here,10.00,9,1)");
    assert_eq!(row(&cluster, 2).await, "(2,tea,here,10.00,2,5)");
    assert_eq!(row(&cluster, 3).await, "(3,tea,here,10.00,1,5)");
    run(&cluster, 1, "update stock set seen = 3 where id = 1").await;
    assert_eq!(row(&cluster, 1).await, "(1,tea,here,10.00,3,1)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_policy_that_is_changed_in_mid_stream() {
    let cluster = start().await;
    cluster.cut_all();
    // Under the new policy at one site, under the old one at the others: the new one's row stays whole.
    run(
        &cluster,
        0,
        "select everywrite.set_policy('stock', 'all', 'last_update_wins')",
    )
    .await;
    run(&cluster, 0, "update stock set label = 'whole' where id = 1").await;
    run(&cluster, 1, "update stock set place = 'part' where id = 1").await;
    run(
        &cluster,
        2,
        "update stock set balance = balance + 5 where id = 1",
    )
    .await;
    run(
        &cluster,
        2,
        "update stock set balance = balance + 5 where id = 2",
    )
    .await;
    cluster.heal();
    assert_eq!(row(&cluster, 1).await, "(1,whole,here,10.00,5,5)");
    assert_eq!(row(&cluster, 2).await, "(2,tea,here,15.00,5,5)");

    // Another way to merge: nobody begins before everybody has it.
    cluster.cut_all();
    let other = r#"select everywrite.set_policy('stock', 'all', 'least', '{"columns": ["seen"]}')"#;
    run(&cluster, 1, other).await;
    run(
        &cluster,
        1,
        "update stock set balance = 3, seen = 1 where id = 3",
    )
    .await;
    run(&cluster, 0, "update stock set balance = 4 where id = 3").await;
    let begun = "select (begun_at is null)::text from everywrite.policies";
    assert_eq!(cluster.site(1).value(begun).await.unwrap(), "true");
    cluster.heal();
    merging(&cluster).await;
    assert_eq!(row(&cluster, 3).await, "(3,tea,here,3.00,1,5)");
    cluster.cut_all();
    run(
        &cluster,
        0,
        "update stock set seen = 3, balance = 30 where id = 4",
    )
    .await;
    run(
        &cluster,
        1,
        "update stock set seen = 4, balance = 40 where id = 4",
    )
    .await;
    cluster.heal();
    assert_eq!(row(&cluster, 4).await, "(4,tea,here,40.00,3,5)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_cannot_be_merged_is_refused() {
    let schema = "create table stock (id int primary key, code text unique, n float8 not null, m numeric not null, \
        i int, t text, j int not null); create table loose (i int); create table plain (id int primary key, n int)";
    let cluster = Plan::with_schema(schema).sites(1).start().await.unwrap();
    let site = cluster.site(0);
    let refused = async |table: &str, policy: &str, options: &str, reason: &str| {
        let sql =
            format!("select everywrite.set_policy('{table}', 'all', '{policy}', '{options}')");
        let error = site.value(&sql).await.unwrap_err();
        assert!(
            format!("{error:#}").contains(reason),
            "{error:#}, not {reason}"
        );
    };
    refused("stock", "column_wise", "{}", "a second unique index").await;
    site.execute("alter table stock drop constraint stock_code_key")
        .await
        .unwrap();
    let full = "alter table stock replica identity full";
    refused("loose", "column_wise", "{}", "has no key").await;
    refused("plain", "column_wise", "{}", "no REPLICA IDENTITY FULL").await;
    refused("stock", "delta", r#"{"columns": ["n"]}"#, "floating-point").await;
    refused("stock", "delta", r#"{"columns": ["m"]}"#, "without a scale").await;
    refused("stock", "delta", r#"{"columns": ["i"]}"#, "may be null").await;
    refused(
        "stock",
        "delta",
        r#"{"columns": ["t"]}"#,
        "cannot be added up",
    )
    .await;
    refused(
        "stock",
        "delta",
        r#"{"columns": ["id"]}"#,
        "part of the key",
    )
    .await;
    refused("stock", "delta", r#"{"columns": ["zip"]}"#, "has no column").await;
    refused("stock", "delta", "{}", "needs columns").await;
    refused("stock", "union", "{}", "needs columns").await;
    refused(
        "stock",
        "greatest",
        r#"{"columns": ["t"]}"#,
        "no greatest value",
    )
    .await;
    site.execute(full).await.unwrap();
    let twice = r#"{"delta": ["j"], "least": ["j"]}"#;
    refused("stock", "column_wise", twice, "stands there twice").await;
    let floor = r#"{"floor": {"j": 1}}"#;
    refused("stock", "column_wise", floor, "is not a delta").await;
    refused("stock", "column_wise", r#"{"other": 1}"#, "has no option").await;
    let one = "select everywrite.set_policy('plain', 'update_missing', 'column_wise')";
    let error = site.value(one).await.unwrap_err();
    assert!(format!("{error:#}").contains("all kinds"), "{error:#}");
    cluster.finish().unwrap();
}

/// DDL does not travel: a site whose table gives no old values says so, before anything is merged.
#[tokio::test]
async fn a_site_whose_table_is_not_ready_holds_the_policy() {
    let schema =
        "create table stock (id int primary key, label text, balance int not null default 0)";
    let mut cluster = Plan::with_schema(schema).start().await.unwrap();
    cluster.expect_errors(&["stream held"]);
    run(&cluster, 0, "insert into stock values (1, 'tea', 1)").await;
    cluster.converged().await.unwrap();
    for site in [0, 1] {
        run(&cluster, site, "alter table stock replica identity full").await;
    }
    let set =
        r#"select everywrite.set_policy('stock', 'all', 'delta', '{"columns": ["balance"]}')"#;
    run(&cluster, 0, set).await;
    let (a, c) = (cluster.site(0), cluster.site(2));
    let held = c.wait_state(a, OriginState::Held).await.unwrap();
    let reason = held.reason.unwrap_or_default();
    assert!(reason.contains("no REPLICA IDENTITY FULL"), "{reason}");
    let begun = "select (begun_at is null)::text from everywrite.policies";
    assert_eq!(a.value(begun).await.unwrap(), "true");
    // Writes go on meanwhile, as whole rows.
    run(
        &cluster,
        1,
        "update stock set balance = balance + 1 where id = 1",
    )
    .await;
    run(&cluster, 2, "alter table stock replica identity full").await;
    merging(&cluster).await;
    for site in 0..3 {
        run(
            &cluster,
            site,
            "update stock set balance = balance + 1 where id = 1",
        )
        .await;
    }
    cluster.converged().await.unwrap();
    let balance = "select balance::text from stock";
    assert_eq!(cluster.site(2).value(balance).await.unwrap(), "5");

    // The option does it at every site.
    let plain = Plan::with_schema(schema).start().await.unwrap();
    run(&plain, 0, "insert into stock values (1, 'tea', 1)").await;
    let options = r#"{"delta": ["balance"], "set_replica_identity": true}"#;
    self::set(&plain, 1, options).await;
    plain.cut_all();
    for site in 0..3 {
        run(
            &plain,
            site,
            "update stock set balance = balance + 1 where id = 1",
        )
        .await;
    }
    plain.heal();
    plain.converged().await.unwrap();
    assert_eq!(plain.site(2).value(balance).await.unwrap(), "4");
    plain.finish().unwrap();
    cluster.finish().unwrap();
}
