//! Columns that are sets: arrays and the keys of jsonb objects are merged element by element.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::random::Random;

use super::merged_columns::{merging, set};
use super::merged_columns_crashes::{Writers, kill};

const SCHEMA: &str = "create table stock (id int primary key, label text, \
    tags text[] not null default '{}', numbers int[] not null default '{}', attrs jsonb not null default '{}'); \
    alter table stock replica identity full;";
const CHECKS: &str = "alter table stock add check (everywrite.is_set(tags)), \
    add check (everywrite.is_set(numbers)), add check (everywrite.is_set(attrs))";
const OPTIONS: &str = r#"{"union": ["tags", "numbers", "attrs"]}"#;
const BEGIN: &str = r#"insert into stock select g, 'x', '{a,b,c}', '{1,10,2}', '{"a": 1, "b": {"n": [1, 2]}, "c": "x"}'
    from generate_series(1, 6) g"#;

async fn start() -> Cluster {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    for site in &cluster.sites {
        site.execute(CHECKS).await.unwrap();
    }
    cluster.site(0).execute(BEGIN).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, OPTIONS).await;
    cluster
}

async fn run(cluster: &Cluster, site: usize, sql: &str) {
    cluster.site(site).execute(sql).await.unwrap();
}

async fn change(cluster: &Cluster, site: usize, id: i32, set: &str) {
    let sql = format!("update stock set {set} where id = {id}");
    run(cluster, site, &sql).await;
}

/// A column of a row, at every site.
async fn column(cluster: &Cluster, id: i32, column: &str) -> String {
    cluster.converged().await.unwrap();
    let sql = format!("select coalesce(max({column}::text), 'none') from stock where id = {id}");
    cluster.site(1).value(&sql).await.unwrap()
}

async fn decisions(cluster: &Cluster, site: usize, id: i32) -> String {
    let sql = format!(
        "select coalesce(string_agg(distinct kind || ' ' || decision, ', '), 'none') from everywrite.conflicts \
         where key = '{{\"id\": {id}}}'"
    );
    cluster.site(site).value(&sql).await.unwrap()
}

fn add(elements: &str) -> String {
    format!("tags = everywrite.as_set(tags || '{{{elements}}}')")
}

#[tokio::test]
async fn elements_of_arrays_are_merged() {
    let cluster = start().await;
    cluster.cut_all();
    // Different elements all stay, what one takes away goes, what nobody touched stays.
    change(&cluster, 0, 1, &add("of a,d")).await;
    change(&cluster, 1, 1, &add("of b,D")).await;
    change(&cluster, 2, 1, "tags = array_remove(tags, 'b')").await;
    // Of the same element the later change: it is taken away, and comes.
    change(&cluster, 0, 2, &add("x")).await;
    change(&cluster, 1, 2, &add("x")).await;
    change(&cluster, 1, 2, "tags = array_remove(tags, 'x')").await;
    change(&cluster, 0, 3, "tags = array_remove(tags, 'b')").await;
    change(&cluster, 1, 3, "tags = array_remove(tags, 'b')").await;
    change(&cluster, 1, 3, &add("b")).await;
    // Taken away and put back within a transaction is a change of the element; so is the reverse.
    change(&cluster, 0, 4, "tags = array_remove(tags, 'c')").await;
    change(&cluster, 0, 4, &add("y")).await;
    run(
        &cluster,
        2,
        "begin; update stock set tags = '{a,b,y}' where id = 4; update stock set label = 'z' where id = 4; \
         update stock set tags = '{a,b,c}' where id = 4; commit",
    )
    .await;
    // In the order of their texts, not of the numbers; everything taken away.
    change(
        &cluster,
        0,
        5,
        "numbers = everywrite.as_set(numbers || '{3,20,-1,3,null}'), tags = '{}'",
    )
    .await;
    change(
        &cluster,
        1,
        5,
        "numbers = everywrite.as_set(numbers || 100), tags = '{a,b,c}', label = 'set'",
    )
    .await;
    cluster.heal();
    let tags = column(&cluster, 1, "tags").await;
    assert_eq!(tags, r#"{D,a,c,d,"of a","of b"}"#);
    assert_eq!(column(&cluster, 2, "tags").await, "{a,b,c}");
    assert_eq!(column(&cluster, 3, "tags").await, "{a,b,c}");
    assert_eq!(column(&cluster, 4, "tags").await, "{a,b,c}");
    assert_eq!(column(&cluster, 5, "numbers").await, "{-1,1,10,100,2,20,3}");
    assert_eq!(
        column(&cluster, 5, "stock").await,
        "(5,set,{},\"{-1,1,10,100,2,20,3}\",\"{\"\"a\"\": 1, \"\"b\"\": {\"\"n\"\": [1, 2]}, \"\"c\"\": \"\"x\"\"}\")"
    );
    for site in 0..3 {
        let found = decisions(&cluster, site, 1).await;
        assert_eq!(found, "update_origin_differs merged");
    }
    // What has been seen is no conflict.
    change(&cluster, 2, 6, &add("z")).await;
    cluster.converged().await.unwrap();
    change(&cluster, 1, 6, "tags = array_remove(tags, 'z')").await;
    assert_eq!(column(&cluster, 6, "tags").await, "{a,b,c}");
    assert_eq!(decisions(&cluster, 1, 6).await, "none");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn keys_of_jsonb_are_merged() {
    let cluster = start().await;
    cluster.cut_all();
    change(&cluster, 0, 1, r#"attrs = attrs || '{"of a": [1, "},"]}'"#).await;
    change(
        &cluster,
        1,
        1,
        r#"attrs = attrs - 'a' || '{"of \"b\"": 1.50}'"#,
    )
    .await;
    change(&cluster, 2, 1, r#"attrs = jsonb_set(attrs, '{b,n}', '7')"#).await;
    // Of one key the later change: another value, taken away, put in.
    change(&cluster, 0, 2, r#"attrs = attrs || '{"a": 2, "n": null}'"#).await;
    change(&cluster, 1, 2, r#"attrs = attrs - 'c' || '{"a": 3}'"#).await;
    change(&cluster, 2, 2, r#"attrs = attrs - 'a' || '{"c": "later"}'"#).await;
    // An object in the place of another one.
    change(&cluster, 0, 3, r#"attrs = '{"new": true}'"#).await;
    change(&cluster, 1, 3, r#"attrs = attrs || '{"b": false}'"#).await;
    cluster.heal();
    assert_eq!(
        column(&cluster, 1, "attrs").await,
        r#"{"b": {"n": 7}, "c": "x", "of a": [1, "},"], "of \"b\"": 1.50}"#
    );
    assert_eq!(
        column(&cluster, 2, "attrs").await,
        r#"{"b": {"n": [1, 2]}, "c": "later", "n": null}"#
    );
    assert_eq!(
        column(&cluster, 3, "attrs").await,
        r#"{"b": false, "new": true}"#
    );
    cluster.finish().unwrap();
}

#[tokio::test]
async fn inserts_and_deletes_win_against_elements_that_have_not_seen_them() {
    let cluster = start().await;
    cluster.cut_all();
    run(&cluster, 0, "delete from stock where id = 1").await;
    change(&cluster, 1, 1, &add("late")).await;
    run(
        &cluster,
        1,
        "begin; delete from stock where id = 2; insert into stock values (2, 'new', '{n}'); commit",
    )
    .await;
    change(&cluster, 1, 2, &add("m")).await;
    change(&cluster, 0, 2, &add("lost")).await;
    cluster.heal();
    assert_eq!(column(&cluster, 1, "tags").await, "none");
    assert_eq!(column(&cluster, 2, "tags").await, "{m,n}");
    cluster.finish().unwrap();
}

/// Large sets, values that are stored out of line, and many transactions of one row.
#[tokio::test]
async fn large_sets_are_merged() {
    let cluster = start().await;
    let many = |from: i32, to: i32| {
        format!(
            "tags = everywrite.as_set(tags || array(select md5(g::text) || repeat('x', 40) from generate_series({from}, {to}) g))"
        )
    };
    change(&cluster, 0, 1, &many(1, 1000)).await;
    cluster.converged().await.unwrap();
    cluster.cut_all();
    change(&cluster, 0, 1, &many(1001, 1600)).await;
    change(&cluster, 1, 1, &many(1601, 2000)).await;
    let half = "tags = array(select t from unnest(tags) t where t < '8' order by t collate \"C\")";
    change(&cluster, 2, 1, half).await;
    for n in 0..10 {
        change(&cluster, 1, 1, &format!("label = '{n}'")).await;
        change(&cluster, 2, 1, &add(&format!("n{n}"))).await;
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    let counted = "select concat_ws(' ', count(*) filter (where t ~ 'x' and t in (select md5(g::text) || repeat('x', 40) \
        from generate_series(1, 1000) g)), count(*) filter (where t like 'n%'), count(*) filter (where t ~ 'xx' and t in \
        (select md5(g::text) || repeat('x', 40) from generate_series(1001, 2000) g)), bool_and(everywrite.is_set(tags)), min(label)) \
        from stock, unnest(tags) t where id = 1";
    let left = "select count(*)::int from generate_series(1, 1000) g where md5(g::text) < '8'";
    let left = cluster.site(0).value(left).await.unwrap();
    let counted = cluster.site(0).value(counted).await.unwrap();
    assert_eq!(counted, format!("{left} 10 1000 t 9"));
    cluster.finish().unwrap();
}

/// Daemons killed, servers started anew, in the middle of what is not settled.
#[tokio::test]
async fn everything_is_started_anew() {
    let mut cluster = start().await;
    cluster.cut_all();
    for (site, name) in [(0, "a"), (1, "b"), (2, "c")] {
        let both = format!(
            "{}, attrs = attrs || '{{\"of {name}\": {site}}}'",
            add(&format!("of {name},x"))
        );
        change(&cluster, site, 1, &both).await;
    }
    change(&cluster, 1, 1, "tags = array_remove(tags, 'x')").await;
    change(&cluster, 0, 1, "tags = array_remove(tags, 'a')").await;
    for site in &mut cluster.sites {
        site.node.crash();
        site.server.crash();
        site.server.start().await.unwrap();
        site.node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    change(&cluster, 2, 1, &add("again")).await;
    change(&cluster, 2, 1, "attrs = attrs - 'a'").await;
    cluster.heal();
    assert_eq!(
        column(&cluster, 1, "tags").await,
        r#"{again,b,c,"of a","of b","of c"}"#
    );
    assert_eq!(
        column(&cluster, 1, "attrs").await,
        r#"{"b": {"n": [1, 2]}, "c": "x", "of a": 0, "of b": 1, "of c": 2}"#
    );
}

fn anything(random: &mut Random, site: usize) -> String {
    let (key, n) = (random.below(4) + 1, random.below(8));
    let update = |set: String| format!("update stock set {set} where id = {key}");
    match random.below(12) {
        0 => format!("delete from stock where id = {key}"),
        1 | 2 => format!(
            "insert into stock values ({key}, 'i{site}', '{{i{n}}}', '{{{n}}}', '{{\"i\": {n}}}') on conflict do nothing"
        ),
        3 => update(format!("tags = array_remove(tags, 't{n}')")),
        4 => update(format!("attrs = attrs - 'k{n}', label = 'l{n}'")),
        5 => update(format!(
            "attrs = attrs || '{{\"k{n}\": {site}, \"s\": {n}}}'"
        )),
        6 => update("numbers = '{}', attrs = '{}'".to_owned()),
        7 => format!(
            "begin; update stock set tags = everywrite.as_set(tags || 't{n}') where id = {key}; \
             update stock set label = 'x', numbers = everywrite.as_set(numbers || {n}) where id = {key}; \
             update stock set tags = array_remove(tags, 't{n}') where id = {key}; commit"
        ),
        8 => update(format!(
            "numbers = everywrite.as_set(numbers || {n} || {n}{site})"
        )),
        9 => update(format!("numbers = array_remove(numbers, {n})")),
        _ => update(add(&format!("t{n},s{site}"))),
    }
}

#[tokio::test]
async fn anything_while_servers_and_daemons_are_killed_converges() {
    let mut cluster = start().await;
    let writers = Writers::start(&cluster, anything);
    kill(&mut cluster, 5, 5, true).await;
    assert!(writers.end().await > 100);
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
}

/// A site whose table lets in what is no set holds the policy.
#[tokio::test]
async fn a_site_without_the_constraint_holds_the_policy() {
    let mut cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    cluster.expect_errors(&["stream held"]);
    run(&cluster, 0, BEGIN).await;
    cluster.converged().await.unwrap();
    run(&cluster, 0, CHECKS).await;
    run(&cluster, 1, CHECKS).await;
    let set = format!("select everywrite.set_policy('stock', 'all', 'column_wise', '{OPTIONS}')");
    run(&cluster, 0, &set).await;
    let held = cluster
        .site(2)
        .wait_state(cluster.site(0), OriginState::Held);
    let reason = held.await.unwrap().reason.unwrap_or_default();
    assert!(
        reason.contains("nothing makes sure that the column \"tags\""),
        "{reason}"
    );
    run(&cluster, 2, CHECKS).await;
    merging(&cluster).await;
    cluster.cut_all();
    change(&cluster, 0, 1, &add("d")).await;
    change(&cluster, 2, 1, &add("e")).await;
    cluster.heal();
    assert_eq!(column(&cluster, 1, "tags").await, "{a,b,c,d,e}");
    cluster.finish().unwrap();
}

/// Somebody takes the constraint away and writes the elements in another order: the other sites would have
/// another row, and hold the stream.
#[tokio::test]
async fn what_is_no_set_any_more_holds_the_stream() {
    let mut cluster = start().await;
    cluster.expect_errors(&["stream held"]);
    run(
        &cluster,
        0,
        "alter table stock drop constraint stock_tags_check",
    )
    .await;
    change(&cluster, 0, 1, "tags = '{b,a}'").await;
    let held = cluster
        .site(1)
        .wait_state(cluster.site(0), OriginState::Held);
    let reason = held.await.unwrap().reason.unwrap_or_default();
    assert!(
        reason.contains("held something else at the origin"),
        "{reason}"
    );
}

#[tokio::test]
async fn what_cannot_be_a_set_is_refused() {
    let schema = "create table stock (id int primary key, f float8[] not null, n numeric[] not null, j json not null, \
        t text not null, d date[] not null, maybe text[], tags text[] not null, attrs jsonb not null, \"odd Name\" uuid[] not null, \
        v varchar(9)[] not null, b bool[] not null, s int2[] not null, l int8[] not null); \
        alter table stock replica identity full";
    let cluster = Plan::with_schema(schema).sites(1).start().await.unwrap();
    let site = cluster.site(0);
    let set = async |column: &str| {
        let sql = format!(
            "select everywrite.set_policy('stock', 'all', 'union', '{{\"columns\": [\"{column}\"]}}')"
        );
        site.execute(&sql).await
    };
    for (column, reason) in [
        ("f", "more than one spelling"),
        ("n", "more than one spelling"),
        ("j", "is json"),
        ("t", "is no set that every site would write alike"),
        ("d", "is no set that every site would write alike"),
        ("maybe", "may be null"),
        ("tags", "nothing makes sure"),
        ("attrs", "nothing makes sure"),
        ("id", "part of the key"),
        ("zip", "has no column"),
    ] {
        let error = format!("{:#}", set(column).await.unwrap_err());
        assert!(error.contains(reason), "{error}, not {reason}");
    }
    // One that lets old rows be is not enough; the hint says what is.
    let valid = "alter table stock add check (everywrite.is_set(tags)) not valid";
    site.execute(valid).await.unwrap();
    assert!(set("tags").await.is_err());
    for column in ["tags", "attrs", "odd Name", "v", "b", "s", "l"] {
        let error = format!("{:#}", set(column).await.unwrap_err());
        let hint = format!(
            "alter table public.stock add check (everywrite.is_set({}))",
            if column == "odd Name" {
                "\"odd Name\""
            } else {
                column
            }
        );
        assert!(error.contains(&hint), "{error}, not {hint}");
        site.execute(&hint).await.unwrap();
        set(column).await.unwrap();
    }
    let row = "insert into stock values (1, '{}', '{}', '{}', '', '{}', null, '{a,b}', '{\"a\": 1}', '{}', '{B,a}', '{f,t}', \
        '{-1,10,9}', '{}')";
    site.execute(row).await.unwrap();
    for (column, value) in [
        ("tags", "'{b,a}'"),
        ("tags", "'{a,a}'"),
        ("tags", "'{a,NULL}'"),
        ("tags", "'{{a},{b}}'"),
        ("tags", "'[0:1]={a,b}'"),
        ("v", "'{a,B}'"),
        ("b", "'{t,f}'"),
        ("s", "'{9,10}'"),
        ("attrs", "'[1]'"),
        ("attrs", "'null'"),
    ] {
        let sql = format!("update stock set {column} = {value}");
        let error = format!("{:#}", site.execute(&sql).await.unwrap_err());
        assert!(error.contains("violates check constraint"), "{error}");
    }
    // Applications need no rights of their own for it.
    site.execute("create role clerk; grant select, update on stock to clerk; set role clerk; \
        update stock set tags = everywrite.as_set(tags || '{c,a}'), v = everywrite.as_set(v || '{A}'), b = everywrite.as_set(b), \
        l = everywrite.as_set('{3,20,3}'::int8[]), \"odd Name\" = everywrite.as_set(array[gen_random_uuid(), gen_random_uuid()])")
        .await
        .unwrap();
    let row = "select concat_ws(' ', tags, v, b, l, array_length(\"odd Name\", 1)) from stock";
    assert_eq!(
        site.value(row).await.unwrap(),
        "{a,b,c} {A,B,a} {f,t} {20,3} 2"
    );
}
