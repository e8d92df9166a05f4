//! The policy `park`: the last update wins, and what lost is kept aside until a person decides.

use everywrite_tests::cluster::{Cluster, Plan, Site};
use everywrite_tests::postgres::DATABASE;
use everywrite_tests::wait;

const SCHEMA: &str = "create table items (id int primary key, n int, note text, code text unique);";

async fn park(cluster: &Cluster, kind: &str) {
    let sql = format!("select everywrite.set_policy('items', '{kind}', 'park')");
    cluster.site(0).execute(&sql).await.unwrap();
    for site in &cluster.sites {
        let shown = "select policy || ' ' || kind from everywrite.policies";
        let expected = format!("park {kind}");
        site.wait_value(shown, &expected).await.unwrap();
    }
    cluster.converged().await.unwrap();
}

async fn cluster(kind: &str) -> Cluster {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 5) g";
    cluster.site(0).execute(begin).await.unwrap();
    park(&cluster, kind).await;
    cluster
}

async fn write(site: &Site, sql: &str) {
    site.execute(sql).await.unwrap();
}

async fn rows(cluster: &Cluster) -> String {
    cluster.converged().await.unwrap();
    let sql = "select coalesce(string_agg(concat_ws(',', id, n, note), ' ' order by id), '') from items where id > 0";
    cluster.site(2).value(sql).await.unwrap()
}

/// What is parked at each site: which note lost.
async fn parked(cluster: &Cluster) -> Vec<String> {
    let sql = "select coalesce(string_agg(coalesce(incoming_row ->> 'note', 'a delete'), ' ' order by id), '') \
        from everywrite.parked";
    let mut parked = Vec::new();
    for site in &cluster.sites {
        parked.push(site.value(sql).await.unwrap());
    }
    parked
}

async fn refused(site: &Site, sql: &str) -> String {
    format!("{:?}", site.execute(sql).await.unwrap_err())
}

const FIRST: &str = "(select min(id) from everywrite.parked)";

fn retry() -> String {
    format!("select everywrite.retry({FIRST})")
}

#[tokio::test]
async fn what_lost_is_listed_once_and_written_again() {
    let cluster = cluster("all").await;
    cluster.cut_all();
    write(
        cluster.site(0),
        "update items set n = 1, note = 'of a' where id = 1",
    )
    .await;
    write(
        cluster.site(1),
        "update items set n = 2, note = 'of b' where id = 1",
    )
    .await;
    cluster.heal();
    assert!(rows(&cluster).await.starts_with("1,2,of b "));
    assert_eq!(parked(&cluster).await, ["", "of a", ""]);
    let (a, b) = (cluster.site(0), cluster.site(1));
    let shown = "select concat_ws(' ', decision, policy, lost_by) from everywrite.conflicts";
    assert_eq!(b.value(shown).await.unwrap(), "parked park a");
    assert_eq!(a.value(shown).await.unwrap(), "applied park a");
    // Whoever looks for the other way is told.
    let id = b.value(&format!("select {FIRST}")).await.unwrap();
    let told = refused(b, &format!("select everywrite.restore_row({id})")).await;
    assert!(
        told.contains(&format!("select everywrite.retry({id});")),
        "{told}"
    );

    assert_eq!(b.value(&retry()).await.unwrap(), "updated");
    assert!(rows(&cluster).await.starts_with("1,1,of a "));
    assert_eq!(parked(&cluster).await, ["", "", ""]);
    let done = "select concat_ws(' ', decision, done, done_by, done_at is not null) from everywrite.conflicts";
    assert_eq!(b.value(done).await.unwrap(), "parked retried postgres t");
    for again in ["retry", "discard"] {
        let told = refused(b, &format!("select everywrite.{again}({id})")).await;
        assert!(
            told.contains("nothing is parked here as conflict"),
            "{told}"
        );
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_is_discarded_changes_nothing() {
    let cluster = cluster("all").await;
    cluster.cut_all();
    write(cluster.site(1), "insert into items values (9, 2, 'of b')").await;
    write(cluster.site(0), "insert into items values (9, 1, 'of a')").await;
    cluster.heal();
    assert!(rows(&cluster).await.ends_with("9,1,of a"));
    let a = cluster.site(0);
    assert_eq!(parked(&cluster).await, ["of b", "", ""]);
    write(a, &format!("select everywrite.discard({FIRST})")).await;
    assert!(rows(&cluster).await.ends_with("9,1,of a"));
    let done = "select concat_ws(' ', decision, done) from everywrite.conflicts";
    assert_eq!(a.value(done).await.unwrap(), "parked discarded");
    cluster.finish().unwrap();
}

/// Where the winner loses itself, what was parked there goes to the site whose write stands.
#[tokio::test]
async fn three_sites_at_once() {
    let cluster = cluster("all").await;
    cluster.cut_all();
    for (site, n) in [(0, 1), (1, 2), (2, 3)] {
        let name = cluster.site(site).node.name().to_owned();
        let sql = format!("update items set n = {n}, note = '{name}' where id = 1");
        write(cluster.site(site), &sql).await;
    }
    cluster.heal();
    cluster.isolate(2);
    cluster
        .site(1)
        .wait_value("select incoming_row ->> 'note' from everywrite.parked", "a")
        .await
        .unwrap();
    cluster.heal();
    assert!(rows(&cluster).await.starts_with("1,3,c "));
    let mut parked = parked(&cluster).await;
    let mut at_c: Vec<&str> = parked.pop().unwrap().leak().split(' ').collect();
    at_c.sort_unstable();
    assert_eq!(
        (at_c, parked),
        (vec!["a", "b"], vec![String::new(), String::new()])
    );
    cluster.finish().unwrap();
}

#[tokio::test]
async fn deletes_and_what_was_deleted() {
    let cluster = cluster("all").await;
    cluster.cut_all();
    let (a, b) = (cluster.site(0), cluster.site(1));
    // The update of a row that the other deletes later; the delete of one that the other updates later.
    write(a, "update items set n = 1, note = 'of a' where id = 1").await;
    write(a, "delete from items where id = 2").await;
    write(b, "delete from items where id = 1").await;
    write(b, "update items set n = 2, note = 'of b' where id = 2").await;
    // Both delete: nothing lost.
    write(a, "delete from items where id = 3").await;
    write(b, "delete from items where id = 3").await;
    cluster.heal();
    assert_eq!(rows(&cluster).await, "2,2,of b 4,0,begin 5,0,begin");
    assert_eq!(parked(&cluster).await, ["", "of a a delete", ""]);
    let b = cluster.site(1);
    assert_eq!(b.value(&retry()).await.unwrap(), "inserted");
    assert_eq!(b.value(&retry()).await.unwrap(), "deleted");
    assert_eq!(rows(&cluster).await, "1,1,of a 4,0,begin 5,0,begin");
    assert_eq!(parked(&cluster).await, ["", "", ""]);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn one_kind_of_conflict() {
    let cluster = cluster("insert_exists").await;
    cluster.cut_all();
    write(cluster.site(0), "update items set note = 'a' where id = 1").await;
    write(cluster.site(1), "update items set note = 'b' where id = 1").await;
    // Rows with keys of their own and one value: the one that loses it is parked.
    write(
        cluster.site(0),
        "insert into items values (11, 1, 'a', 'X')",
    )
    .await;
    write(
        cluster.site(1),
        "insert into items values (12, 2, 'b', 'X')",
    )
    .await;
    cluster.heal();
    assert!(rows(&cluster).await.ends_with("12,2,b"));
    let keys = "select string_agg(key::text || kind, ' ') from everywrite.parked";
    let b = cluster.site(1);
    assert_eq!(b.value(keys).await.unwrap(), "{\"id\": 11}insert_exists");
    // It can come back once nobody has the value.
    let told = refused(b, &retry()).await;
    assert!(told.contains("items_code_key"), "{told}");
    assert_eq!(parked(&cluster).await, ["", "a", ""]);
    write(b, "update items set code = 'Y' where id = 12").await;
    assert_eq!(b.value(&retry()).await.unwrap(), "inserted");
    assert!(rows(&cluster).await.ends_with("11,1,a 12,2,b"));
    for (kind, reason) in [
        ("delete_missing", "not for conflicts of the kind"),
        ("truncate_origin_differs", "not for conflicts of the kind"),
    ] {
        let sql = format!("select everywrite.set_policy('items', '{kind}', 'park')");
        let told = refused(b, &sql).await;
        assert!(told.contains(reason), "{told}");
    }
    cluster.finish().unwrap();
}

/// It survives what the history does not: age, number, crashes, and another policy.
#[tokio::test]
async fn it_stays_until_a_person_decides() {
    let mut cluster = cluster("all").await;
    cluster.cut_all();
    for id in [1, 2] {
        let a = format!("update items set note = 'a' where id = {id}");
        let b = format!("update items set note = 'b' where id = {id}");
        write(cluster.site(0), &a).await;
        write(cluster.site(1), &b).await;
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    assert_eq!(parked(&cluster).await, ["", "a a", ""]);
    let set = "select everywrite.set_policy('items', 'all', 'last_update_wins')";
    write(cluster.site(0), set).await;
    cluster.converged().await.unwrap();
    cluster.site_mut(1).node.crash();
    cluster.site_mut(1).server.crash();
    cluster.site_mut(1).server.start().await.unwrap();
    cluster.site_mut(1).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    let b = cluster.site(1);
    write(b, &format!("select everywrite.discard({FIRST})")).await;
    write(b, "select everywrite.forget_conflicts('0 s', 0)").await;
    assert_eq!(parked(&cluster).await, ["", "a", ""]);
    let left = "select count(*)::text from everywrite.conflicts";
    assert_eq!(cluster.site(1).value(left).await.unwrap(), "1");
    wait::until("what is parked in the metrics", wait::LIMIT, async || {
        let metrics = cluster.site(1).node.metrics().await;
        let metrics = metrics.map_err(|err| format!("{err:#}"))?;
        let line = r#"everywrite_replay_open_conflicts{table="public.items",state="parked"} 1"#;
        metrics.contains(line).then_some(()).ok_or(metrics)
    })
    .await
    .unwrap();
    let open = "select string_agg(concat_ws(' ', name, merging, parked, open_since < now()), ', ' order by name) \
        from everywrite.status";
    let shown = cluster.site(1).value(open).await.unwrap();
    assert_eq!(shown, "a 0 1 t, c 0 0");
    let (ok, text) = cluster.site(1).node.run(&["status"]).unwrap();
    let line = "0 to be merged, 1 parked, the oldest for ";
    assert!(ok && text.contains(line), "{text}");
    assert_eq!(cluster.site(1).value(&retry()).await.unwrap(), "updated");
    assert!(rows(&cluster).await.contains(",a "));
    assert_eq!(parked(&cluster).await, ["", "", ""]);
    cluster.finish().unwrap();
}

/// One right for one thing, and what is written needs the caller's rights on the table.
#[tokio::test]
async fn with_the_callers_rights() {
    let cluster = cluster("all").await;
    cluster.cut_all();
    write(cluster.site(0), "update items set note = 'a' where id = 1").await;
    write(cluster.site(1), "update items set note = 'b' where id = 1").await;
    cluster.heal();
    cluster.converged().await.unwrap();
    let b = cluster.site(1);
    let id = b.value(&format!("select {FIRST}")).await.unwrap();
    write(
        b,
        "create role support login; grant select on items to support",
    )
    .await;
    let support = b.server.connect_as("support", DATABASE).await.unwrap();
    let refused = async |sql: &str, what: &str| {
        let error = support.batch_execute(sql).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains(what), "{text}");
    };
    let (retry, discard) = (
        format!("select everywrite.retry({id})"),
        format!("select everywrite.discard({id})"),
    );
    refused(&retry, "permission denied for view parked").await;
    refused(&discard, "permission denied for view parked").await;
    write(b, "grant select on everywrite.parked to support").await;
    refused(&discard, "permission denied for view parked").await;
    refused(&retry, "permission denied for view parked").await;
    write(b, "grant delete on everywrite.parked to support").await;
    refused(&retry, "permission denied for table items").await;
    assert_eq!(parked(&cluster).await, ["", "a", ""]);
    for inner in [
        "select everywrite.merge_rows(1, true)",
        "select everywrite.merge_begin(1)",
        "select everywrite.merge_failed(1, 'x')",
        "select everywrite.merge_function('items', '{}')",
    ] {
        refused(inner, "permission denied").await;
    }
    write(b, "grant update on items to support").await;
    support.batch_execute(&retry).await.unwrap();
    assert!(rows(&cluster).await.starts_with("1,0,a "));
    let by = "select done_by from everywrite.conflicts";
    assert_eq!(cluster.site(1).value(by).await.unwrap(), "support");
    cluster.finish().unwrap();
}
