//! The policy `function`: what lost is merged by a function of the user's, where the winner was written.

use std::time::Duration;

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan, Site};
use everywrite_tests::wait;

const SCHEMA: &str = "create table items (id int primary key, n int, things text[] not null default '{}', \
    note text, twice int generated always as (n * 2) stored);";
/// What both had, once; the same whichever comes first.
const UNION: &str = "l.things := array(select distinct unnest(l.things || i.things) order by 1); \
    l.n := greatest(l.n, i.n); l.note := kind";
/// What both had, as often as both had it.
const SUM: &str =
    "l.things := array(select unnest(l.things || i.things) order by 1); l.n := l.n + i.n";

fn function(body: &str) -> String {
    format!(
        "create or replace function public.merge_items(l items, i items, lt timestamptz, it timestamptz, kind text) \
         returns items language plpgsql immutable security definer set search_path = public as \
         $$ begin {body}; return l; end $$;"
    )
}

async fn everywhere(cluster: &Cluster, sql: &str) {
    for site in &cluster.sites {
        site.execute(sql).await.unwrap();
    }
}

async fn policy(cluster: &Cluster, site: usize, kind: &str, policy: &str, options: &str) {
    let sql = format!("select everywrite.set_policy('items', '{kind}', '{policy}', '{options}')");
    cluster.site(site).execute(&sql).await.unwrap();
    for site in &cluster.sites {
        let shown =
            "select policy || ' ' || kind from everywrite.policies where table_name = 'items'";
        let expected = format!("{policy} {kind}");
        site.wait_value(shown, &expected).await.unwrap();
    }
}

const OPTIONS: &str = r#"{"function": "public.merge_items"}"#;

/// Three sites with the policy, and rows 1 to `rows`.
async fn cluster(body: &str, rows: u32) -> Cluster {
    let schema = format!("{SCHEMA} {}", function(body));
    let cluster = Plan::with_schema(&schema).start().await.unwrap();
    let begin = format!("insert into items select g, 0, '{{}}' from generate_series(1, {rows}) g");
    cluster.site(0).execute(&begin).await.unwrap();
    policy(&cluster, 0, "all", "function", OPTIONS).await;
    cluster.converged().await.unwrap();
    cluster
}

async fn add(site: &Site, id: i32, thing: &str) {
    let sql = format!(
        "update items set n = n + 1, things = things || '{{{thing}}}'::text[] where id = {id}"
    );
    site.execute(&sql).await.unwrap();
}

/// All sites hold the same rows, and nothing is left to be merged.
async fn merged(cluster: &Cluster) {
    let open = "select count(*)::text from everywrite.merging";
    let mut quiet = 0;
    while quiet < 2 {
        cluster.converged().await.unwrap();
        quiet += 1;
        for site in &cluster.sites {
            if site.value(open).await.unwrap() != "0" {
                site.wait_value(open, "0").await.unwrap();
                quiet = 0;
            }
        }
    }
}

async fn row(cluster: &Cluster, id: i32) -> String {
    let sql =
        format!("select concat_ws(' ', n, twice, things::text, note) from items where id = {id}");
    cluster.site(2).value(&sql).await.unwrap()
}

async fn decisions(site: &Site, id: i32) -> String {
    let sql = format!(
        "select coalesce(string_agg(concat_ws(' ', decision, done), ', ' order by id), '') \
         from everywrite.conflicts where key = '{{\"id\": {id}}}'"
    );
    site.value(&sql).await.unwrap()
}

#[tokio::test]
async fn what_two_sites_wrote_is_in_one_row() {
    let cluster = cluster(UNION, 3).await;
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "b").await;
    // The one that is written first stands lower, whoever it is.
    add(cluster.site(1), 2, "b").await;
    add(cluster.site(0), 2, "a").await;
    add(cluster.site(0), 2, "a2").await;
    for (site, thing) in [(0, "a"), (1, "b")] {
        let insert = format!("insert into items values (10, {site}, '{{{thing}}}', 'new')");
        cluster.site(site).execute(&insert).await.unwrap();
    }
    cluster.heal();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "1 2 {a,b} update_origin_differs");
    assert_eq!(row(&cluster, 2).await, "2 4 {a,a2,b} update_origin_differs");
    assert_eq!(row(&cluster, 10).await, "1 2 {a,b} insert_exists");
    // Merged once, where the row was written that stood.
    assert_eq!(decisions(cluster.site(0), 1).await, "applied");
    assert_eq!(decisions(cluster.site(1), 1).await, "merged merged");
    assert_eq!(decisions(cluster.site(0), 2).await, "merged merged");
    assert_eq!(decisions(cluster.site(1), 2).await, "applied");
    let lost_by = "select count(lost_by)::text from everywrite.conflicts where decision = 'merged'";
    assert_eq!(cluster.site(1).value(lost_by).await.unwrap(), "0");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn three_sites_at_once() {
    let cluster = cluster(UNION, 20).await;
    cluster.cut_all();
    for id in 1..=20 {
        for site in 0..3 {
            let first = (id as usize + site) % 3;
            add(cluster.site(first), id, &format!("{first}")).await;
        }
    }
    cluster.heal();
    merged(&cluster).await;
    for id in 1..=20 {
        assert_eq!(row(&cluster, id).await, "1 2 {0,1,2} update_origin_differs");
    }
    cluster.finish().unwrap();
}

/// Whatever an application has added is in the row in the end: it knew what stood, or it was merged.
#[tokio::test]
async fn nothing_is_lost_under_load_and_crashes() {
    let mut cluster = cluster(UNION, 3).await;
    let mut writers = Vec::new();
    for (index, site) in cluster.sites.iter().enumerate() {
        let (dir, port) = (site.server.dir().to_owned(), index);
        writers.push(tokio::spawn(async move {
            let (mut added, mut client) = (Vec::new(), None);
            for n in 0..150 {
                let (id, thing) = (n % 3 + 1, format!("{port}x{n}"));
                let sql = format!(
                    "update items set things = things || '{{{thing}}}'::text[] where id = {id}"
                );
                let session: Option<tokio_postgres::Client> = client.take();
                let session = match session.filter(|c| !c.is_closed()) {
                    Some(session) => session,
                    None => match everywrite_tests::postgres::connect(
                        &dir,
                        everywrite_tests::postgres::SUPERUSER,
                        everywrite_tests::postgres::DATABASE,
                    )
                    .await
                    {
                        Ok(session) => session,
                        Err(_) => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        }
                    },
                };
                // What is not acknowledged may be there or not.
                if session.batch_execute(&sql).await.is_ok() {
                    added.push((id, thing));
                }
                client = Some(session);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            added
        }));
    }
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.site_mut(round).node.crash();
        cluster.site_mut(round).node.start().unwrap();
        let server = (round + 1) % 3;
        cluster.site_mut(server).server.crash();
        cluster.site_mut(server).server.start().await.unwrap();
        cluster.isolate(round);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.heal();
    }
    let mut added = Vec::new();
    for writer in writers {
        added.extend(writer.await.unwrap());
    }
    cluster.wait_ready().await.unwrap();
    merged(&cluster).await;
    assert!(added.len() > 200, "{}", added.len());
    for id in 1..=3 {
        let sql = format!("select array_to_string(things, ' ') from items where id = {id}");
        let things = cluster.site(0).value(&sql).await.unwrap();
        let things: Vec<&str> = things.split(' ').collect();
        let missing: Vec<_> = added
            .iter()
            .filter(|(at, thing)| *at == id && !things.contains(&thing.as_str()))
            .collect();
        assert!(missing.is_empty(), "{id}: {missing:?} of {things:?}");
    }
    cluster.finish().unwrap();
}

/// A function that never says "nothing new": merging ends all the same, and nothing is merged twice where two
/// sites write.
#[tokio::test]
async fn a_function_that_adds_up_comes_to_an_end() {
    let cluster = cluster(SUM, 2).await;
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "b").await;
    cluster.heal();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "2 4 {a,b}");
    let mut writers = Vec::new();
    for site in &cluster.sites {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for _ in 0..4 {
                // The numbers stay small enough whatever the order.
                let sql = "update items set n = n % 3 + 1 where id = 2";
                client.batch_execute(sql).await.ok();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    merged(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn swapped_arguments_that_give_another_row_stop_the_table() {
    let mut cluster = cluster("l.n := l.n", 4).await;
    cluster.expect_errors(&["merging stopped", "stream held"]);
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "secret").await;
    cluster.heal();
    let b = cluster.site(1);
    let error = "select error from everywrite.merging";
    let why = "the function public.merge_items gives another row when its arguments are swapped: things. \
        Which of two rows stands is decided by their versions, so its result would depend on clocks. \
        Let it treat both rows alike; where one must have precedence, by the two times.";
    b.wait_value(error, why).await.unwrap();
    // What is no conflict goes on; the next one holds the stream that brings it.
    add(cluster.site(0), 3, "a").await;
    b.wait_value("select things::text from items where id = 3", "{a}")
        .await
        .unwrap();
    cluster.cut_all();
    add(cluster.site(0), 2, "a").await;
    add(cluster.site(1), 2, "b").await;
    add(cluster.site(0), 4, "a").await;
    cluster.heal();
    let status = b.wait_state(cluster.site(0), OriginState::Held).await;
    let reason = status.unwrap().reason.unwrap_or_default();
    assert!(
        reason.contains("public.items cannot be left to the function")
            && reason.contains(": things"),
        "{reason}"
    );
    assert!(!reason.contains("secret"), "{reason}");
    // Mended where it is needed, it goes on by itself.
    everywhere(&cluster, &function(UNION)).await;
    merged(&cluster).await;
    assert!(row(&cluster, 1).await.contains("{a,secret}"));
    assert!(row(&cluster, 2).await.contains("{a,b}"));
    assert!(row(&cluster, 4).await.contains("{a}"));
    cluster.finish().unwrap();
}

#[tokio::test]
async fn another_policy_ends_what_was_stopped() {
    let mut cluster = cluster("l.id := l.id + 1", 2).await;
    cluster.expect_errors(&["merging stopped", "stream held"]);
    cluster.cut_all();
    for (site, id, thing) in [(0, 1, "a"), (1, 1, "b"), (0, 2, "a"), (1, 2, "b")] {
        add(cluster.site(site), id, thing).await;
    }
    cluster.heal();
    let b = cluster.site(1);
    let error =
        "select error from everywrite.merging where error like '%changed the key: id%' limit 1";
    b.wait_value(&format!("select count(*)::text from ({error}) e"), "1")
        .await
        .unwrap();
    b.execute("select everywrite.set_policy('items', 'all', 'last_update_wins')")
        .await
        .unwrap();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "1 2 {b}");
    assert_eq!(row(&cluster, 2).await, "1 2 {b}");
    assert_eq!(decisions(b, 1).await, "kept local superseded");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_function_that_fails_is_tried_again() {
    let fails = format!(
        "if 'b' = any (l.things || i.things) then raise exception 'no %', 'way'; end if; {UNION}"
    );
    let cluster = cluster(&fails, 3).await;
    cluster.cut_all();
    for (site, id, thing) in [(0, 1, "a"), (1, 1, "b"), (0, 2, "a"), (1, 2, "c")] {
        add(cluster.site(site), id, thing).await;
    }
    cluster.heal();
    let b = cluster.site(1);
    // The other row, and everything else, goes on.
    let shown = "select things::text from items where id = 2";
    cluster.site(0).wait_value(shown, "{a,c}").await.unwrap();
    b.wait_value("select error from everywrite.merging", "no way")
        .await
        .unwrap();
    assert_eq!(row(&cluster, 1).await, "1 2 {b}");
    wait::until("the open conflict in the status", wait::LIMIT, async || {
        let status = b.node.status().await.map_err(|err| format!("{err:#}"))?;
        let open: Vec<_> = status.open_conflicts.iter().map(|o| o.merging).collect();
        (open == [1])
            .then_some(())
            .ok_or_else(|| format!("{open:?}"))
    })
    .await
    .unwrap();
    let metrics = b.node.metrics().await.unwrap();
    let line = r#"everywrite_replay_open_conflicts{table="public.items",state="merging"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
    let open = "select concat_ws(' ', merging, parked, open_since < now()) from everywrite.status where name = 'a'";
    assert_eq!(b.value(open).await.unwrap(), "1 0 t");
    let (ok, text) = b.node.run(&["status"]).unwrap();
    let line = "1 to be merged, 0 parked, the oldest for ";
    assert!(ok && text.contains(line), "{text}");
    // The history keeps it, however old.
    b.execute("select everywrite.forget_conflicts('0 s', 0)")
        .await
        .unwrap();
    everywhere(&cluster, &function(UNION)).await;
    merged(&cluster).await;
    assert!(row(&cluster, 1).await.contains("{a,b}"));
    let b = cluster.site(1);
    assert_eq!(b.value(open).await.unwrap(), "0 0");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_function_that_a_site_does_not_have() {
    let cluster = cluster(UNION, 1).await;
    let drop = "drop function merge_items(items, items, timestamptz, timestamptz, text)";
    cluster.site(1).execute(drop).await.unwrap();
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "b").await;
    cluster.heal();
    let b = cluster.site(1);
    let says = "select (error like 'there is no function public.merge_items(%) at this site%DDL does not travel%')::text \
        from everywrite.merging";
    b.wait_value(says, "true").await.unwrap();
    b.execute(&function(UNION)).await.unwrap();
    merged(&cluster).await;
    assert!(row(&cluster, 1).await.contains("{a,b}"));
    cluster.finish().unwrap();
}

/// The decision, and that it waits to be merged, survive whatever dies; the merge is made once.
#[tokio::test]
async fn kill_minus_nine_between_decision_and_merge() {
    let mut cluster = cluster("raise exception 'not now'", 1).await;
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "b").await;
    cluster.heal();
    let open = "select count(*)::text from everywrite.merging where error = 'not now'";
    cluster.site(1).wait_value(open, "1").await.unwrap();
    cluster.site_mut(1).node.crash();
    cluster.site_mut(1).server.crash();
    cluster.site_mut(1).server.start().await.unwrap();
    cluster.site_mut(1).node.start().unwrap();
    everywhere(&cluster, &function(SUM)).await;
    for _ in 0..3 {
        cluster.site_mut(1).node.crash();
        cluster.site_mut(1).server.crash();
        cluster.site_mut(1).server.start().await.unwrap();
        cluster.site_mut(1).node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "2 4 {a,b}");
    assert_eq!(decisions(cluster.site(1), 1).await, "merged merged");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_happens_to_the_row_meanwhile() {
    let cluster = cluster("raise exception 'not now'", 4).await;
    cluster.cut_all();
    for id in 1..=3 {
        add(cluster.site(0), id, "a").await;
        add(cluster.site(1), id, "b").await;
    }
    cluster.heal();
    let b = cluster.site(1);
    let open = "select count(*)::text from everywrite.merging";
    b.wait_value(open, "3").await.unwrap();
    cluster.converged().await.unwrap();
    // Written on, at this site and at another one that has seen the winner; deleted.
    add(b, 1, "more").await;
    add(cluster.site(2), 2, "more").await;
    let delete = "delete from items where id = 3";
    cluster.site(2).execute(delete).await.unwrap();
    cluster.converged().await.unwrap();
    everywhere(&cluster, &function(UNION)).await;
    merged(&cluster).await;
    assert!(row(&cluster, 1).await.contains("{a,b,more}"));
    assert!(row(&cluster, 2).await.contains("{a,b,more}"));
    let rows = "select count(*)::text from items";
    assert_eq!(cluster.site(0).value(rows).await.unwrap(), "3");
    assert_eq!(decisions(b, 3).await, "kept local superseded");
    cluster.finish().unwrap();
}

/// Where the winner loses itself, the site whose write beats it merges both.
#[tokio::test]
async fn the_last_winner_merges() {
    let cluster = cluster("raise exception 'not now'", 1).await;
    cluster.cut_all();
    for (site, thing) in [(0, "a"), (1, "b"), (2, "c")] {
        add(cluster.site(site), 1, thing).await;
    }
    // a and b first.
    cluster.heal();
    cluster.isolate(2);
    let open = "select count(*)::text from everywrite.merging";
    cluster.site(1).wait_value(open, "1").await.unwrap();
    cluster.heal();
    cluster.site(2).wait_value(open, "2").await.unwrap();
    cluster.converged().await.unwrap();
    cluster.site(1).wait_value(open, "0").await.unwrap();
    assert_eq!(
        decisions(cluster.site(1), 1).await,
        "kept local superseded, applied"
    );
    everywhere(&cluster, &function(SUM)).await;
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "3 6 {a,b,c}");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn one_kind_of_conflict() {
    let cluster = cluster(UNION, 2).await;
    policy(&cluster, 1, "insert_exists", "function", OPTIONS).await;
    cluster.converged().await.unwrap();
    cluster.cut_all();
    for (site, thing) in [(0, "a"), (1, "b")] {
        add(cluster.site(site), 1, thing).await;
        let insert = format!("insert into items values (9, 1, '{{{thing}}}')");
        cluster.site(site).execute(&insert).await.unwrap();
    }
    // One side has no row: the last update wins.
    add(cluster.site(0), 2, "a").await;
    let delete = "delete from items where id = 2";
    cluster.site(1).execute(delete).await.unwrap();
    cluster.heal();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "1 2 {b}");
    assert_eq!(row(&cluster, 9).await, "1 2 {a,b} insert_exists");
    let rows = "select count(*)::text from items";
    assert_eq!(cluster.site(0).value(rows).await.unwrap(), "2");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn it_runs_with_its_owners_rights() {
    let plan = Plan::with_schema(&format!(
        "{SCHEMA} create role keeper; grant usage, create on schema public to keeper; grant update on items to keeper; \
         set role keeper; {} reset role;",
        function(
            "l.note := current_user; l.things := array(select unnest(l.things || i.things) order by 1)"
        )
    ));
    let cluster = plan.start().await.unwrap();
    policy(&cluster, 0, "all", "function", OPTIONS).await;
    let begin = "insert into items values (1, 0)";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    add(cluster.site(0), 1, "a").await;
    add(cluster.site(1), 1, "b").await;
    cluster.heal();
    merged(&cluster).await;
    assert_eq!(row(&cluster, 1).await, "1 2 {a,b} keeper");
    cluster.finish().unwrap();
}

/// Names that need quotes, a key of two columns, types that JSON spells otherwise, a column that is gone, a
/// large value that one writer leaves alone.
#[tokio::test]
async fn rows_of_all_sorts() {
    let schema = r#"create schema "My Shop"; create type "My Shop".mood as enum ('sad', 'glad');
        create table "My Shop"."Stock" ("Key" text, at timestamptz, gone int, amount numeric(20, 4), ratio float8,
            raw bytea, doc jsonb, plain json, how "My Shop".mood, span tstzrange, list int[], "it's" text, body text,
            twice numeric generated always as (amount * 2) stored, primary key ("Key", at));
        alter table "My Shop"."Stock" alter column body set storage external, drop column gone;
        create function "My Shop"."Merge It"(l "My Shop"."Stock", i "My Shop"."Stock", lt timestamptz, it timestamptz, k text)
            returns "My Shop"."Stock" language plpgsql stable security definer as $$
        declare m "My Shop"."Stock" := case when lt >= it then l else i end;
        begin
            m.amount := greatest(l.amount, i.amount);
            m.list := array(select unnest(l.list || i.list) order by 1);
            return m;
        end $$;"#;
    let cluster = Plan::with_schema(schema).start().await.unwrap();
    let a = cluster.site(0);
    let set = r#"select everywrite.set_policy('"My Shop"."Stock"', 'all', 'function', '{"function": "\"My Shop\".\"Merge It\""}')"#;
    a.execute(set).await.unwrap();
    a.execute(
        r#"insert into "My Shop"."Stock" values ('it''s "1"', '2026-01-02 03:04:05.678901+09', 1.0, 'NaN', '\x00ff',
           '{"a": [1.10, null]}', '{"b":  2}', 'sad', '["2026-01-01 00:00+00",)', '{}', e'q"\'\\(,)', repeat('old', 5000))"#,
    )
    .await
    .unwrap();
    for site in &cluster.sites {
        let shown = "select policy from everywrite.policies";
        site.wait_value(shown, "function").await.unwrap();
    }
    cluster.converged().await.unwrap();
    cluster.cut_all();
    let update = r#"update "My Shop"."Stock" set "#;
    a.execute(&format!(
        "{update} amount = 7.5000, list = '{{1}}', body = repeat('new', 4000)"
    ))
    .await
    .unwrap();
    let b = cluster.site(1);
    b.execute(&format!(
        "{update} amount = 7.25, list = '{{2}}', how = 'glad'"
    ))
    .await
    .unwrap();
    cluster.heal();
    merged(&cluster).await;
    let sql = r#"select concat_ws(' ', count(*), min(amount::text), min(ratio::text), min(raw::text), min(doc::text),
        min(plain::text), min(how::text), min(list::text), min("it's"), min(length(body)), min(twice))
        from "My Shop"."Stock" where "Key" = 'it''s "1"' and at = '2026-01-01 18:04:05.678901+00'
         and lower(span) = '2026-01-01 00:00+00'"#;
    let expected =
        r#"1 7.5000 NaN \x00ff {"a": [1.10, null]} {"b":  2} glad {1,2} q"'\(,) 15000 15.0000"#;
    for site in &cluster.sites {
        assert_eq!(site.value(sql).await.unwrap(), expected);
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_function_that_will_not_do_is_refused() {
    let plan = Plan::with_schema(SCHEMA).sites(1);
    let cluster = plan.start().await.unwrap();
    let site = cluster.site(0);
    let arguments = "(l items, i items, lt timestamptz, it timestamptz, kind text)";
    let body = "as 'begin return l; end'";
    site.execute(&format!(
        "create role stranger; grant usage, create on schema public to stranger;
         create function loud{arguments} returns items language plpgsql security definer {body};
         create function daemons{arguments} returns items language plpgsql immutable {body};
         create function many{arguments} returns setof items language plpgsql immutable security definer as 'begin end';
         create function a_number{arguments} returns int language sql immutable security definer as 'select 1';
         create function short(l items, i items) returns items language plpgsql immutable security definer {body};
         create function good{arguments} returns items language plpgsql immutable security definer {body};
         set role stranger;
         create function of_a_stranger{arguments} returns items language plpgsql immutable security definer {body};"
    ))
    .await
    .unwrap();
    for (kind, options, reason) in [
        ("all", "{}", "needs the name of a function"),
        ("all", r#"{"function": "good"}"#, "needs its schema"),
        (
            "all",
            r#"{"function": "public.none"}"#,
            "there is no function",
        ),
        (
            "all",
            r#"{"function": "public.short"}"#,
            "there is no function",
        ),
        (
            "all",
            r#"{"function": "public.many"}"#,
            "does not return one row",
        ),
        (
            "all",
            r#"{"function": "public.a_number"}"#,
            "does not return one row",
        ),
        ("all", r#"{"function": "public.loud"}"#, "is volatile"),
        (
            "all",
            r#"{"function": "public.daemons"}"#,
            "security definer",
        ),
        (
            "all",
            r#"{"function": "public.of_a_stranger"}"#,
            "may not update",
        ),
        (
            "update_deleted",
            r#"{"function": "public.good"}"#,
            "not for conflicts of the kind",
        ),
        (
            "all",
            r#"{"function": "public.good", "more": 1}"#,
            "has no option",
        ),
    ] {
        let sql =
            format!("select everywrite.set_policy('items', '{kind}', 'function', '{options}')");
        let error = format!("{:#}", site.execute(&sql).await.unwrap_err());
        assert!(error.contains(reason), "{options}: {error}");
    }
    let sql =
        r#"select everywrite.set_policy('items', null, 'function', '{"function": "public.good"}')"#;
    site.execute(sql).await.unwrap();
    let none = "select count(*)::text from everywrite.policies";
    assert_eq!(site.value(none).await.unwrap(), "1");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn many_writers_while_policies_change() {
    let cluster = cluster(UNION, 4).await;
    let mut writers = Vec::new();
    for (index, site) in cluster.sites.iter().enumerate() {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..200 {
                let (id, thing) = (n % 4 + 1, format!("{index}x{n}"));
                let sql = match n % 50 {
                    10 => "select everywrite.set_policy('items', 'all', 'park')".to_owned(),
                    20 => "select everywrite.set_policy('items', 'all', 'first_update_wins')"
                        .to_owned(),
                    30 => format!(
                        "select everywrite.set_policy('items', 'all', 'function', '{OPTIONS}')"
                    ),
                    40 if index == 0 => "truncate items".to_owned(),
                    n if n % 9 == 4 => format!("delete from items where id = {id}"),
                    _ => format!(
                        "insert into items values ({id}, {n}, '{{{thing}}}') on conflict (id) \
                         do update set things = items.things || excluded.things"
                    ),
                };
                client.batch_execute(&sql).await.ok();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    merged(&cluster).await;
    cluster.finish().unwrap();
}
