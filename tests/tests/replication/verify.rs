//! `everywrite verify` compares tables while they are written: it never calls a row on its way a
//! difference, and finds what was changed behind the daemons' backs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use everywrite_tests::cluster::{Cluster, Plan, Site};
use everywrite_tests::random::Random;
use serde_json::Value;

/// What the command said.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) code: i32,
    pub(crate) document: Value,
    pub(crate) errors: String,
}

impl Verified {
    pub(crate) fn table(&self, name: &str) -> &Value {
        let tables = self.document["tables"].as_array().unwrap();
        let found = tables
            .iter()
            .find(|t| t["table"] == format!("public.{name}"));
        found.unwrap_or_else(|| panic!("no table {name} in {self:?}"))
    }

    /// The keys of one column that differ in a table, in order.
    pub(crate) fn differing(&self, table: &str, column: &str) -> Vec<String> {
        let differences = self.table(table)["differences"].as_array().unwrap();
        let key = |d: &Value| d["key"][column].as_str().unwrap().to_owned();
        differences.iter().map(key).collect()
    }
}

/// Runs the command beside a site's daemon; it prints JSON.
pub(crate) async fn verify(site: &Site, arguments: &[&str]) -> Verified {
    let mut all = vec!["verify", "--json"];
    all.extend(arguments);
    let ended = tokio::task::block_in_place(|| site.node.finish(&all)).unwrap();
    Verified {
        code: ended.code.unwrap_or(-1),
        document: serde_json::from_str(&ended.output).unwrap_or(Value::Null),
        errors: ended.errors,
    }
}

/// Runs statements that no daemon sees: nothing of them is captured, because they come under an
/// origin of its own kind (others are captured on PostgreSQL 15).
pub(crate) async fn behind_the_back(site: &Site, sql: &str) {
    let client = site.sql().await.unwrap();
    client
        .batch_execute(
            "set session_replication_role = replica;
             do $$ begin
               if not exists (select from pg_replication_origin where roname = 'everywrite_stranger') then
                 perform pg_replication_origin_create('everywrite_stranger');
               end if;
             end $$;
             select pg_replication_origin_session_setup('everywrite_stranger')",
        )
        .await
        .unwrap();
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_on_their_way_are_no_differences() {
    let schema = "create table items (id bigint primary key, n int, note text);
        create table coded (id bigint primary key, code int unique)";
    let cluster = Arc::new(Plan::with_schema(schema).start().await.unwrap());
    let fill = "insert into items select k, 0, 'begin' from generate_series(1, 20000) k";
    cluster.site(0).execute(fill).await.unwrap();
    cluster.converged().await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for site in 0..3 {
        let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
        let writes = Arc::clone(&writes);
        writers.push(tokio::spawn(async move {
            let client = cluster.site(site).sql().await.unwrap();
            let mut random = Random::new(site as u64);
            while !stop.load(Ordering::Relaxed) {
                // A few keys are written by everybody all the time, the others now and then.
                let key = if random.below(4) == 0 {
                    random.below(5)
                } else {
                    random.below(20_000)
                };
                let n = random.below(3);
                // Values that two sites take at once: one row goes by a decision that travels.
                if random.below(4) == 0 {
                    let (id, code) = (random.below(300), random.below(300));
                    let sql = format!(
                        "insert into coded values ({id}, {code}) on conflict (id) do update set code = {code}"
                    );
                    let taken = client.batch_execute(&sql).await;
                    let code = taken.err().and_then(|err| err.code().cloned());
                    let code = code.as_ref().map(tokio_postgres::error::SqlState::code);
                    assert!(matches!(code, None | Some("23505" | "40P01")), "{code:?}");
                    continue;
                }
                let sql = match random.below(4) {
                    0 => format!("delete from items where id = {key}"),
                    1 => format!(
                        "insert into items values ({key}, {n}, 'x') on conflict (id) do update set n = {n}"
                    ),
                    _ => format!("update items set n = {n} where id = {key}"),
                };
                if let Err(err) = client.batch_execute(&sql).await {
                    // A deadlock with replay may end one of the two; it is the client's to try again.
                    assert_eq!(err.code().map(tokio_postgres::error::SqlState::code), Some("40P01"), "{err:?}");
                    continue;
                }
                writes.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut disputed = 0;
    for round in 0..6 {
        let site = cluster.site(round % 3);
        let verified = verify(site, &["--share", "100", "--patience", "15"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
        assert_eq!(
            verified.table("items")["differences"]
                .as_array()
                .unwrap()
                .len(),
            0
        );
        assert_eq!(
            verified.table("items")["undecided"]
                .as_array()
                .unwrap()
                .len(),
            0
        );
        disputed += verified.table("items")["disputed"].as_u64().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.converged().await.unwrap();
    // It has been tried: rows differed when they were first looked at.
    assert!(
        disputed > 0,
        "after {} writes",
        writes.load(Ordering::Relaxed)
    );
    let verified = verify(cluster.site(0), &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(
        verified.table("items")["still_changing"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    Arc::into_inner(cluster).unwrap().finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_behind_the_back_is_listed() {
    let cluster = Plan::with_schema(
        "create table items (id bigint primary key, n int, note text);
         create table parts (a int, b text, at timestamptz, weight float8, primary key (b, a));
         create table quiet (id int primary key)",
    )
    .start()
    .await
    .unwrap();
    cluster
        .site(0)
        .execute(
            "insert into items select k, 0, 'begin' from generate_series(1, 30000) k;
             insert into parts select k, 'Part ' || k % 7, now(), k / 3.0 from generate_series(1, 500) k;
             insert into quiet select generate_series(1, 10)",
        )
        .await
        .unwrap();
    cluster.converged().await.unwrap();
    behind_the_back(
        cluster.site(1),
        "update items set n = 7 where id in (1, 17000);
         delete from items where id = 30000;
         insert into items values (30001, 1, 'only here');
         update parts set weight = 0.1::float8 + 0.2::float8 where a = 3",
    )
    .await;
    let writer = cluster.site(2).sql().await.unwrap();
    let load = async {
        for n in 0.. {
            let sql = format!("update items set n = {n} where id between 100 and 110");
            writer.batch_execute(&sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // From a site that has nothing to do with it.
    let verified = tokio::select! {
        () = load => unreachable!(),
        verified = verify(cluster.site(2), &[]) => verified,
    };
    assert_eq!(verified.code, 1, "{verified:?}");
    assert_eq!(
        verified.differing("items", "id"),
        ["1", "17000", "30000", "30001"]
    );
    assert_eq!(verified.differing("parts", "a"), ["3"]);
    assert_eq!(verified.differing("parts", "b"), ["Part 3"]);
    assert!(verified.differing("quiet", "id").is_empty());
    let missing = &verified.table("items")["differences"][2]["sites"];
    assert!(missing["b"]["row"].is_null() && missing["a"]["row"].is_string());

    // Only the table asked for is compared; people are told in words.
    let one = verify(cluster.site(0), &["quiet"]).await;
    assert_eq!(
        (one.code, one.document["tables"].as_array().unwrap().len()),
        (0, 1)
    );
    let (equal, text) = cluster.site(0).node.run(&["verify", "items"]).unwrap();
    assert!(!equal && text.contains("public.items: DIFFERS"), "{text}");
    assert!(
        text.contains("id=17000 differs") && text.contains("no row"),
        "{text}"
    );
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_differ_themselves() {
    let cluster = Plan::with_schema(
        "create table items (id bigint primary key, n int, note text);
         create table keyless (id bigint)",
    )
    .start()
    .await
    .unwrap();
    cluster
        .site(0)
        .execute("insert into items select k, 0, 'x' from generate_series(1, 100) k")
        .await
        .unwrap();
    cluster.converged().await.unwrap();
    cluster
        .site(1)
        .execute("create table lonely (id int primary key); alter table items add column more int default 3")
        .await
        .unwrap();
    let verified = verify(cluster.site(0), &[]).await;
    assert_eq!(verified.code, 1, "{verified:?}");
    let said =
        |table: &str, what: &str| verified.table(table)[what][0].as_str().unwrap().to_owned();
    assert!(said("lonely", "table_differences").contains("is at b only, not at a, c"));
    assert!(said("items", "table_differences").contains("column more is at b only"));
    assert!(said("keyless", "notes").contains("without a primary key"));
    // The columns that all have are compared all the same.
    assert_eq!(verified.table("items")["rows"], 100);
    assert!(verified.differing("items", "id").is_empty());
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_is_away_or_does_not_apply() {
    let mut cluster = Cluster::start().await.unwrap();
    let fill = "insert into items select k, 0, 'begin' from generate_series(1, 100) k";
    cluster.site(0).execute(fill).await.unwrap();
    cluster.converged().await.unwrap();

    // It takes nothing of a's any more: what a writes is not a difference, and not equal either.
    cluster
        .site(2)
        .execute("select everywrite.pause('a')")
        .await
        .unwrap();
    let origin = cluster.site(0);
    let paused = everywrite_node::telemetry::OriginState::Paused;
    cluster.site(2).wait_state(origin, paused).await.unwrap();
    origin
        .execute("update items set n = 1 where id = 5")
        .await
        .unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    let verified = verify(cluster.site(1), &["--patience", "3"]).await;
    assert_eq!(verified.code, 3, "{verified:?}");
    let undecided = &verified.table("items")["undecided"][0];
    assert_eq!(
        (&undecided["key"]["id"], &undecided["site"]),
        (&"5".into(), &"c".into())
    );
    let reason = undecided["reason"].as_str().unwrap();
    assert!(
        reason.contains("has not applied the transactions of node 1"),
        "{reason}"
    );
    cluster
        .site(2)
        .execute("select everywrite.resume('a')")
        .await
        .unwrap();
    cluster.converged().await.unwrap();

    cluster.site_mut(2).node.stop().unwrap();
    let verified = verify(cluster.site(0), &[]).await;
    assert_eq!(verified.code, 3, "{verified:?}");
    assert!(
        verified.errors.contains("site c") && verified.errors.contains("not connected"),
        "{verified:?}"
    );
    let verified = verify(cluster.site(0), &["--sites", "a,b"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    // Where no daemon runs there is nobody to ask.
    let verified = verify(cluster.site(2), &[]).await;
    assert_eq!(verified.code, 3, "{verified:?}");
    assert!(
        verified.errors.contains("no daemon answers at"),
        "{verified:?}"
    );
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named() {
    let cluster = Plan::default().sites(2).start().await.unwrap();
    let site = cluster.site(0);
    for (arguments, words) in [
        (&["nowhere"][..], "no site has a table \"nowhere\""),
        (
            &["--sites", "a,x"],
            "there is no site \"x\": the sites are a, b",
        ),
        (&["--sites", "a"], "name at least two"),
        (&["--repair", "--from", "x"], "there is no site \"x\""),
        (&["--share", "0"], "1..=100"),
        (&["--yes"], "--repair"),
    ] {
        let verified = verify(site, arguments).await;
        assert_eq!(verified.code, 2, "{arguments:?} {verified:?}");
        assert!(
            verified.errors.contains(words),
            "{arguments:?} {verified:?}"
        );
    }
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_keys_that_were_in_a_conflict() {
    let cluster = Plan::with_schema(
        "create table items (id bigint primary key, n int, note text, code int unique)",
    )
    .start()
    .await
    .unwrap();
    let fill = "insert into items select k, 0, 'begin', k from generate_series(1, 1000) k";
    cluster.site(0).execute(fill).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    for site in [0, 1] {
        let sql = format!("update items set n = {site} + 1 where id in (3, 4)");
        cluster.site(site).execute(&sql).await.unwrap();
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    // One of them, and one that never was in a conflict.
    behind_the_back(
        cluster.site(2),
        "update items set n = 99 where id in (4, 500)",
    )
    .await;
    let verified = verify(cluster.site(0), &["--conflicts"]).await;
    assert_eq!(verified.code, 1, "{verified:?}");
    assert_eq!(verified.differing("items", "id"), ["4"]);
    assert_eq!(verified.table("items")["rows"], 2);
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_that_sort_text_differently() {
    let cluster = Plan::with_schema("create table words (word text primary key, n int)")
        .start()
        .await
        .unwrap();
    cluster
        .site(1)
        .execute("alter table words alter word type text collate \"und-x-icu\"")
        .await
        .unwrap();
    let fill = "insert into words select case k % 2 when 0 then 'a' else 'B' end || md5(k::text), k from generate_series(1, 20000) k";
    cluster.site(0).execute(fill).await.unwrap();
    // (The harness compares in the server's order.)
    cluster.caught_up(1, 0).await.unwrap();
    cluster.caught_up(2, 0).await.unwrap();
    let equal = verify(cluster.site(0), &[]).await;
    assert_eq!(equal.code, 0, "{equal:?}");
    assert_eq!(
        (
            equal.table("words")["rows"].as_u64(),
            equal.table("words")["disputed"].as_u64()
        ),
        (Some(20_000), Some(0))
    );
    let note = equal.table("words")["notes"][0].as_str().unwrap();
    assert!(note.contains("sort its keys differently"), "{note}");
    behind_the_back(cluster.site(2), "update words set n = -1 where n in (7, 8)").await;
    let differ = verify(cluster.site(0), &[]).await;
    assert_eq!(
        (differ.code, differ.differing("words", "word").len()),
        (1, 2),
        "{differ:?}"
    );
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_with_almost_nothing() {
    let cluster = Plan::default().sites(2).start().await.unwrap();
    let fill =
        "insert into items select k, 0, 'begin' from generate_series(1, 40000) k; analyze items";
    cluster.site(0).execute(fill).await.unwrap();
    cluster.converged().await.unwrap();
    behind_the_back(cluster.site(1), "delete from items where id <> 20000").await;
    // Analyzed now, the table is taken for one row, also when it is full again: a set of updates that is
    // joined with it row by row would not come to an end.
    let stays = "alter table items set (autovacuum_enabled = false); analyze items";
    cluster.site(1).execute(stays).await.unwrap();
    let verified = verify(cluster.site(1), &["--limit", "100"]).await;
    assert_eq!(verified.code, 1, "{:?}", verified.errors);
    assert!(verified.differing("items", "id").len() >= 100);
    assert_eq!(verified.table("items")["more_differences"], true);
    // All of them come back.
    let repaired = verify(cluster.site(1), &["--limit", "200000", "--repair", "--yes"]).await;
    assert_eq!(repaired.code, 0, "{:?}", repaired.errors);
    assert_eq!(repaired.differing("items", "id").len(), 39_999);
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_break_meanwhile() {
    let cluster = Cluster::start().await.unwrap();
    let fill = "insert into items select k, 0, 'begin' from generate_series(1, 50000) k";
    cluster.site(0).execute(fill).await.unwrap();
    cluster.converged().await.unwrap();
    let writer = cluster.site(1).sql().await.unwrap();
    let trouble = async {
        for n in 0.. {
            cluster.cut(0, 1 + n % 2);
            let sql = format!("update items set n = {n} where id % 5000 = 7");
            writer.batch_execute(&sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
            cluster.heal();
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let several = async {
        for _ in 0..4 {
            let verified = verify(cluster.site(0), &["--share", "100", "--patience", "5"]).await;
            // It may not come to an end, but what it says is right.
            assert!([0, 3].contains(&verified.code), "{verified:?}");
        }
    };
    tokio::select! {
        () = trouble => unreachable!(),
        () = several => {}
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    let verified = verify(cluster.site(0), &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(
        verified.table("items")["still_changing"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    cluster.finish().unwrap();
}
