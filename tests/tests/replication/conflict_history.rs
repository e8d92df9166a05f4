//! Every lost row is in the conflict history of the site that decided, with the row that won, both
//! versions, the kind and the decision; SQL can put it back.

use everywrite_tests::cluster::{Cluster, Plan};

#[tokio::test]
async fn both_rows_and_both_versions_are_there() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster
        .site(0)
        .execute("update items set n = 1, note = 'of a'")
        .await
        .unwrap();
    cluster
        .site(1)
        .execute("update items set n = 2, note = 'of b'")
        .await
        .unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();

    // At a the incoming row won, at b the local one stayed.
    let at_a = cluster.site(0).conflicts().await.unwrap();
    let at_b = cluster.site(1).conflicts().await.unwrap();
    assert_eq!((at_a.len(), at_b.len()), (1, 1), "{at_a:?} {at_b:?}");
    let (at_a, at_b) = (&at_a[0], &at_b[0]);
    assert!(at_a.applied() && !at_b.applied(), "{at_a:?} {at_b:?}");
    for conflict in [at_a, at_b] {
        assert_eq!(conflict.kind, "update_origin_differs");
        assert!(conflict.table.ends_with("items"));
        assert_eq!(conflict.loser().column("note").as_deref(), Some("of a"));
        assert_eq!(conflict.loser().column("n").as_deref(), Some("1"));
        assert_eq!(conflict.winner().column("note").as_deref(), Some("of b"));
        assert_eq!(conflict.loser().site.as_deref(), Some("a"));
        assert_eq!(conflict.winner().site.as_deref(), Some("b"));
        assert!(conflict.loser().version.is_some() && conflict.winner().version.is_some());
        assert_eq!(conflict.contradiction(), None);
    }
    assert_eq!(at_a.loser().version, at_b.loser().version);
    assert_eq!(at_a.winner().version, at_b.winner().version);

    let put_back = "insert into items select (jsonb_populate_record(null::items, local_row)).* \
        from everywrite.conflicts on conflict (id) do update set n = excluded.n, note = excluded.note";
    cluster.site(0).execute(put_back).await.unwrap();
    cluster.converged().await.unwrap();
    let row = cluster.site(2).value("select note from items").await;
    assert_eq!(row.unwrap(), "of a");
    cluster.finish().unwrap();
}

/// Status, SQL and `/metrics` count what the history holds; what had seen the other is not counted.
#[tokio::test]
async fn counters_agree() {
    let plan = Plan::with_schema(
        "create table items (id bigint primary key, n int, note text); \
         create table \"Other\" (id bigint primary key, n int);",
    );
    let cluster = plan.start().await.unwrap();
    cluster.cut_all();
    for site in [0, 1] {
        let insert = format!(
            "insert into items select g, {site}, null from generate_series(1, 50) g; \
             insert into \"Other\" values (1, {site})"
        );
        cluster.site(site).execute(&insert).await.unwrap();
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    // Each of these has seen what was there.
    for site in [0, 1, 2] {
        let update = "update items set n = n + 1";
        cluster.site(site).execute(update).await.unwrap();
        cluster.converged().await.unwrap();
    }
    for site in &cluster.sites {
        let name = site.node.name();
        let history = "select string_agg(t || ' ' || kind || ' ' || n, ', ' order by t, kind) from \
            (select \"table\" as t, kind, count(*) as n from everywrite.conflicts group by 1, 2) c";
        let history = site.value(history).await.unwrap();
        let expected = "public.\"Other\" insert_exists 1, public.items insert_exists 50";
        assert_eq!(history, expected, "at {name}");
        let counts = "select string_agg(\"table\" || ' ' || kind || ' ' || conflicts, ', ' \
            order by \"table\", kind) from everywrite.conflict_counts";
        site.wait_value(counts, expected).await.unwrap();
        let counted: u64 = site.node.status().await.unwrap().conflicts.values().sum();
        assert_eq!(counted, 51, "at {name}");
        let metrics = site.node.metrics().await.unwrap();
        for line in [
            r#"everywrite_replay_conflicts_total{table="public.items",kind="insert_exists"} 50"#,
            r#"everywrite_replay_conflicts_total{table="public.Other",kind="insert_exists"} 1"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }
    cluster.finish().unwrap();
}

/// `history-keep` and `history-rows`: the oldest go, of what was written together all or nothing.
#[tokio::test]
async fn old_conflicts_are_deleted() {
    let mut cluster = Cluster::start().await.unwrap();
    for (first, last) in [(1, 10), (11, 25), (26, 30)] {
        cluster.cut_all();
        for site in [0, 1] {
            let insert = format!(
                "insert into items select g, {site}, null from generate_series({first}, {last}) g"
            );
            cluster.site(site).execute(&insert).await.unwrap();
        }
        cluster.heal();
        cluster.converged().await.unwrap();
    }
    let age = "update everywrite.conflict_sets \
        set decided_at = decided_at - interval '2 days' where last_id <= 10";
    cluster.site(0).execute(age).await.unwrap();
    for (site, key, value) in [(0, "history-keep", "\"1day\""), (1, "history-rows", "5")] {
        let node = &mut cluster.site_mut(site).node;
        node.stop().unwrap();
        node.set_config("conflicts", key, value).unwrap();
        node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    let kept = "select min(id) || ' ' || count(*) from everywrite.conflicts";
    cluster.site(0).wait_value(kept, "11 20").await.unwrap();
    cluster.site(1).wait_value(kept, "26 5").await.unwrap();
    assert_eq!(cluster.site(2).value(kept).await.unwrap(), "1 30");
    cluster.finish().unwrap();
}

/// Many conflicts of one transaction are written by one statement.
#[tokio::test]
async fn many_conflicts_of_one_transaction() {
    let cluster = Cluster::start().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 15) g";
    a.execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    let at_a = "update items set n = 1, note = 'of a' || id where id <= 5 or id > 10; \
        delete from items where id between 6 and 10";
    a.execute(at_a).await.unwrap();
    let at_b = "update items set n = 2, note = 'of b' || id where id <= 10; \
        delete from items where id > 10";
    b.execute(at_b).await.unwrap();
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 10);

    let text = "select string_agg(concat_ws('|', key ->> 'id', kind, decision, \
            coalesce(local_row ->> 'note', '-'), local_site, \
            coalesce(incoming_row ->> 'note', '-'), incoming_site, \
            local_written_at < incoming_written_at, split_part(local_position, ' ', 1), \
            split_part(incoming_position, ' ', 1), incoming_xid > 0, decided_by), \
            e'\\n' order by (key ->> 'id')::int) from everywrite.conflicts where \"table\" = 'public.items'";
    let expected = |line: &dyn Fn(i32) -> String| -> String {
        (1..=15).map(line).collect::<Vec<_>>().join("\n")
    };
    // At a everything that came won, at b everything stayed.
    let at_a = expected(&|id| match id {
        1..=5 => format!("{id}|update_origin_differs|applied|of a{id}|a|of b{id}|b|t|a|b|t|a"),
        6..=10 => format!("{id}|update_deleted|applied|-|a|of b{id}|b|t|a|b|t|a"),
        _ => format!("{id}|delete_origin_differs|applied|of a{id}|a|-|b|t|a|b|t|a"),
    });
    assert_eq!(a.value(text).await.unwrap(), at_a);
    let at_b = expected(&|id| match id {
        1..=5 => format!("{id}|update_origin_differs|kept local|of b{id}|b|of a{id}|a|f|b|a|t|b"),
        6..=10 => format!("{id}|delete_origin_differs|kept local|of b{id}|b|-|a|f|b|a|t|b"),
        _ => format!("{id}|update_deleted|kept local|-|b|of a{id}|a|f|b|a|t|b"),
    });
    assert_eq!(b.value(text).await.unwrap(), at_b);
    let positions = "select count(distinct (local_position, incoming_position, local_xid, incoming_xid)) \
        from everywrite.conflicts";
    assert_eq!(a.value(positions).await.unwrap(), "1");
    cluster.finish().unwrap();
}

/// Transactions of a backlog that have to be replayed one by one: each key's conflict is that of the
/// first write that met it, not of those behind it.
#[tokio::test]
async fn a_conflict_is_recorded_once_when_a_group_falls_apart() {
    let schema = "create table docs (id bigint primary key, n int, body text); \
        alter table docs alter column body set storage external;";
    let cluster = Plan::with_schema(schema).start().await.unwrap();
    let begin = "insert into docs values (1, 0, repeat('old', 5000)), (2, 0, 'short')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    let (a, b) = (cluster.site(0), cluster.site(1));
    b.execute("update docs set n = 1 where id = 2")
        .await
        .unwrap();
    a.execute("update docs set n = 2, body = repeat('new', 5000)")
        .await
        .unwrap();
    // Of row 1, b's write falls between those of a, and a's second one leaves the large value out.
    b.execute("update docs set n = 3 where id = 1")
        .await
        .unwrap();
    a.execute("update docs set n = 4").await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows =
        "select string_agg(id || ' ' || n || ' ' || left(body, 3), ', ' order by id) from docs";
    let rows = cluster.site(2).value(rows).await.unwrap();
    assert_eq!(rows, "1 4 new, 2 4 new");
    for site in &cluster.sites {
        let conflicts = site.conflicts().await.unwrap();
        let of_row_2: Vec<_> = conflicts
            .iter()
            .filter(|c| c.incoming.column("id").as_deref() == Some("2"))
            .collect();
        assert!(
            of_row_2.len() <= 1,
            "at {}: {of_row_2:#?}",
            site.node.name()
        );
        for conflict in of_row_2 {
            assert_eq!(conflict.loser().column("n").as_deref(), Some("1"));
        }
    }
    cluster.finish().unwrap();
}
