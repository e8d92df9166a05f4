//! Policies instead of last update wins: set at one site, the same at all, in their place in the stream.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;
use everywrite_tests::wait;

const ROWS: &str = "select string_agg(items::text, ' ' order by id) from items";

/// Nothing of what was written is concurrent with what is still to be written.
async fn settled(cluster: &Cluster) {
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        wait::until("an empty index", wait::LIMIT, async || {
            let status = site.node.status().await;
            match status.map_err(|err| format!("{err:#}"))?.index.entries {
                0 => Ok(()),
                keys => Err(format!("{keys} keys")),
            }
        })
        .await
        .unwrap();
    }
}

async fn set(cluster: &Cluster, site: usize, policy: &str, options: &str) {
    let sql = format!("select everywrite.set_policy('items', 'all', '{policy}', '{options}')");
    cluster.site(site).execute(&sql).await.unwrap();
    for site in &cluster.sites {
        let shown = "select policy from everywrite.policies where table_name = 'items'";
        site.wait_value(shown, policy).await.unwrap();
    }
}

async fn row(cluster: &Cluster, id: i32) -> String {
    let sql = format!("select n::text from items where id = {id}");
    cluster.site(0).value(&sql).await.unwrap()
}

async fn update(cluster: &Cluster, site: usize, id: i32, n: i32) {
    let sql = format!("update items set n = {n} where id = {id}");
    cluster.site(site).execute(&sql).await.unwrap();
}

#[tokio::test]
async fn the_first_update_wins_at_all_sites() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 4) g";
    cluster.site(0).execute(begin).await.unwrap();
    set(&cluster, 1, "first_update_wins", "{}").await;
    settled(&cluster).await;

    cluster.cut_all();
    update(&cluster, 2, 1, 12).await;
    update(&cluster, 0, 1, 10).await;
    update(&cluster, 1, 1, 11).await;
    // A later update that has seen the first one stands where that stood.
    update(&cluster, 1, 2, 21).await;
    update(&cluster, 0, 2, 20).await;
    update(&cluster, 1, 2, 22).await;
    // A delete is a write like others.
    update(&cluster, 0, 3, 30).await;
    cluster
        .site(1)
        .execute("delete from items where id = 3")
        .await
        .unwrap();
    cluster
        .site(2)
        .execute("delete from items where id = 4")
        .await
        .unwrap();
    update(&cluster, 0, 4, 40).await;
    cluster.heal();

    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ROWS).await.unwrap();
    assert_eq!(rows, "(1,12,begin) (2,22,begin) (3,30,begin)");
    let policies = "select string_agg(distinct policy, ' ') from everywrite.conflicts";
    let mut seen = Vec::new();
    for site in &cluster.sites {
        seen.push(site.value(policies).await.unwrap());
    }
    assert!(seen.iter().all(|p| p == "first_update_wins"), "{seen:?}");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_site_that_stands_first_wins() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 4) g";
    cluster.site(0).execute(begin).await.unwrap();
    set(&cluster, 0, "node_priority", r#"{"order": ["b", "a"]}"#).await;
    settled(&cluster).await;

    cluster.cut_all();
    for (site, id, n) in [(1, 1, 11), (0, 1, 10), (2, 1, 12), (0, 2, 20), (2, 2, 22)] {
        update(&cluster, site, id, n).await;
    }
    let swap = "delete from items where id = 3; insert into items values (3, 31, 'again')";
    cluster.site(1).execute(swap).await.unwrap();
    cluster
        .site(2)
        .execute("delete from items where id = 3")
        .await
        .unwrap();
    cluster.site(0).execute("truncate items").await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    // A TRUNCATE stands above what it has not seen.
    assert_eq!(
        cluster
            .site(1)
            .value("select count(*)::text from items")
            .await
            .unwrap(),
        "0"
    );

    cluster.site(0).execute(begin).await.unwrap();
    settled(&cluster).await;
    cluster.cut_all();
    for (site, id, n) in [(1, 1, 11), (0, 1, 10), (2, 1, 12), (0, 2, 20), (2, 2, 22)] {
        update(&cluster, site, id, n).await;
    }
    cluster.site(1).execute(swap).await.unwrap();
    cluster
        .site(2)
        .execute("delete from items where id = 3")
        .await
        .unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ROWS).await.unwrap();
    assert_eq!(rows, "(1,11,begin) (2,20,begin) (3,31,again) (4,0,begin)");
    cluster.finish().unwrap();
}

/// Pair by pair, with priorities, b's update beats a's that it has seen, a's beats c's, c's beats b's.
#[tokio::test]
async fn three_writes_that_would_chase_each_other_in_a_circle() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 2) g";
    cluster.site(0).execute(begin).await.unwrap();
    set(
        &cluster,
        0,
        "node_priority",
        r#"{"order": ["a", "c", "b"]}"#,
    )
    .await;
    settled(&cluster).await;

    cluster.cut(0, 2);
    cluster.cut(1, 2);
    update(&cluster, 0, 1, 10).await;
    cluster.caught_up(1, 0).await.unwrap();
    update(&cluster, 2, 1, 12).await;
    update(&cluster, 1, 1, 11).await;
    cluster.heal();
    cluster.converged().await.unwrap();
    assert_eq!(row(&cluster, 1).await, "11");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_policy_set_in_mid_stream_decides_from_its_place_on() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 2) g";
    cluster.site(0).execute(begin).await.unwrap();
    settled(&cluster).await;

    cluster.cut_all();
    // Under the old policy at one site, under the new one at the other: the new one's stays.
    let set = "select everywrite.set_policy('items', 'all', 'first_update_wins')";
    cluster
        .site(0)
        .execute(&format!(
            "begin; {set}; update items set n = 10 where id = 1; commit"
        ))
        .await
        .unwrap();
    update(&cluster, 1, 1, 11).await;
    update(&cluster, 2, 2, 22).await;
    update(&cluster, 1, 2, 21).await;
    cluster.heal();
    cluster.converged().await.unwrap();
    assert_eq!(row(&cluster, 1).await, "10");
    assert_eq!(row(&cluster, 2).await, "21");

    // Two sites set one at the same time: one of them holds, everywhere.
    cluster.cut_all();
    cluster
        .site(1)
        .execute("select everywrite.set_policy('items', 'all', 'last_update_wins')")
        .await
        .unwrap();
    cluster
        .site(2)
        .execute(
            r#"select everywrite.set_policy('items', null, 'node_priority', '{"order": ["c"]}')"#,
        )
        .await
        .unwrap();
    update(&cluster, 1, 2, 31).await;
    update(&cluster, 2, 2, 32).await;
    cluster.heal();
    cluster.converged().await.unwrap();
    assert_eq!(row(&cluster, 2).await, "32");
    for site in &cluster.sites {
        let shown = "select policy || ' ' || site from everywrite.policies";
        site.wait_value(shown, "node_priority c").await.unwrap();
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn restarts_and_a_row_that_loses_its_unique_value() {
    let schema = "create table items (id int primary key, n int unique, note text)";
    let mut cluster = everywrite_tests::cluster::Plan::with_schema(schema)
        .start()
        .await
        .unwrap();
    let begin = "insert into items select g, g, 'begin' from generate_series(1, 4) g";
    cluster.site(0).execute(begin).await.unwrap();
    set(&cluster, 2, "first_update_wins", "{}").await;
    settled(&cluster).await;

    cluster.cut_all();
    cluster
        .site(0)
        .execute("update items set note = 'a' where id = 1; delete from items where id = 4")
        .await
        .unwrap();
    cluster.site(1).execute("update items set note = 'b' where id = 1; update items set n = 40, note = 'b' where id = 2; update items set note = 'b' where id = 4").await.unwrap();
    cluster.site(2).execute("update items set n = 40, note = 'c' where id = 3; update items set note = 'c' where id = 4").await.unwrap();
    for site in 0..3 {
        cluster.site_mut(site).node.crash();
        cluster.site_mut(site).node.start().unwrap();
    }
    cluster.heal();
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ROWS).await.unwrap();
    assert_eq!(rows, "(1,1,a) (2,40,b)");
    // What is captured after a restart is under the policy too.
    settled(&cluster).await;
    cluster.cut_all();
    cluster
        .site(1)
        .execute("update items set note = 'first' where id = 1")
        .await
        .unwrap();
    cluster
        .site(0)
        .execute("update items set note = 'second' where id = 1")
        .await
        .unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let note = cluster
        .site(0)
        .value("select note from items where id = 1")
        .await
        .unwrap();
    assert_eq!(note, "first");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn many_writers_and_changing_policies() {
    let mut cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, null from generate_series(1, 5) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    let mut writers = Vec::new();
    for (index, site) in cluster.sites.iter().enumerate() {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..300 {
                let (value, id) = (n * 10 + index, n % 5 + 1);
                let sql = match n % 60 {
                    20 => "select everywrite.set_policy('items', 'all', 'first_update_wins')".to_owned(),
                    40 => r#"select everywrite.set_policy('items', 'all', 'node_priority', '{"order": ["c", "a", "b"]}')"#.to_owned(),
                    50 if index == 0 => "truncate items".to_owned(),
                    n if n % 7 == 3 => format!("delete from items where id = {id}"),
                    _ => format!("insert into items values ({id}, {value}, 'x') on conflict (id) do update set n = {value}"),
                };
                // A deadlock with replay may end one of the two; it is the client's to try again.
                client.batch_execute(&sql).await.ok();
            }
        }));
    }
    for site in [1, 2] {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cluster.site_mut(site).node.crash();
        cluster.site_mut(site).node.start().unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    let shown = "select policy || ' ' || site || ' ' || (select max(number) from everywrite.policy_log) from everywrite.policies";
    let policy = cluster.site(0).value(shown).await.unwrap();
    cluster.site(1).wait_value(shown, &policy).await.unwrap();
    cluster.site(2).wait_value(shown, &policy).await.unwrap();
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_stop_holds_the_stream_until_a_person_decides() {
    let mut cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 3) g";
    cluster.site(0).execute(begin).await.unwrap();
    let stop = "select everywrite.set_policy('items', 'update_deleted', 'stop')";
    cluster.site(0).execute(stop).await.unwrap();
    for site in &cluster.sites {
        let shown = "select policy || ' ' || kind from everywrite.policies";
        site.wait_value(shown, "stop update_deleted").await.unwrap();
    }
    settled(&cluster).await;
    cluster.expect_errors(&["stream held"]);

    cluster.cut_all();
    update(&cluster, 0, 1, 10).await;
    update(&cluster, 1, 1, 11).await;
    cluster
        .site(0)
        .execute("delete from items where id = 2")
        .await
        .unwrap();
    update(&cluster, 1, 2, 21).await;
    update(&cluster, 1, 3, 31).await;
    cluster.heal();
    // Another kind is decided; at a, where the row is deleted, b's update of it is not.
    let held = cluster.site(0);
    held.wait_value("select n::text from items where id = 1", "11")
        .await
        .unwrap();
    let status = held
        .wait_state(cluster.site(1), OriginState::Held)
        .await
        .unwrap();
    let reason = status.reason.unwrap_or_default();
    assert!(reason.contains("waits for a person"), "{reason}");
    assert_eq!(
        held.value("select n::text from items where id = 3")
            .await
            .unwrap(),
        "0"
    );
    for site in &cluster.sites {
        let decide = "select everywrite.set_policy('items', 'all', 'last_update_wins')";
        site.execute(decide).await.unwrap();
    }
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ROWS).await.unwrap();
    assert_eq!(rows, "(1,11,begin) (2,21,begin) (3,31,begin)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_cannot_converge_or_is_not_there_is_refused() {
    let cluster = Cluster::start().await.unwrap();
    let site = cluster.site(0);
    site.execute("create table no_key (n int); create table parts (id int primary key) partition by range (id)").await.unwrap();
    for (arguments, reason) in [
        (
            "'items', 'update_deleted', 'first_update_wins'",
            "is set for all kinds",
        ),
        ("'items', 'all', 'union'", "needs columns"),
        ("'items', 'all', 'largest'", "there is no policy"),
        ("'items', 'all', 'node_priority'", "needs the sites"),
        (
            r#"'items', 'all', 'node_priority', '{"order": ["x"]}'"#,
            "no site named",
        ),
        (
            r#"'items', 'all', 'node_priority', '{"order": ["a", "a"]}'"#,
            "stands twice",
        ),
        (
            r#"'items', 'all', 'first_update_wins', '{"order": ["a"]}'"#,
            "has no option",
        ),
        ("'no_key', 'all', 'first_update_wins'", "has no key"),
        (
            "'parts', 'all', 'first_update_wins'",
            "not a table of its own",
        ),
    ] {
        let error = site
            .execute(&format!("select everywrite.set_policy({arguments})"))
            .await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(reason), "{arguments}: {error}");
    }
    let none = "select count(*)::text from everywrite.policies";
    assert_eq!(site.value(none).await.unwrap(), "0");
    cluster.finish().unwrap();
}
