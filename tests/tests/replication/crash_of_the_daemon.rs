//! kill -9 of daemons under load: nothing is lost, nothing comes twice, everything goes on by itself.

use std::time::Duration;

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;
use everywrite_tests::random::Random;

#[tokio::test]
async fn killed_at_random_moments_under_load() {
    let mut cluster = Cluster::start().await.unwrap();
    let mut writers = Vec::new();
    for (index, site) in cluster.sites.iter().enumerate() {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..400 {
                let id = n * 3 + index;
                let sql = format!(
                    "begin; insert into items values ({id}, {n}, 'once'); \
                    insert into items values ({}, {n}, 'together'); commit",
                    id + 10_000
                );
                client.batch_execute(&sql).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }
    let mut random = Random::new(11);
    while writers.iter().any(|w| !w.is_finished()) {
        let index = random.index(3);
        cluster.site_mut(index).node.crash();
        tokio::time::sleep(Duration::from_millis(random.below(200))).await;
        cluster.site_mut(index).node.start().unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(600))).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.wait_ready().await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2_400);
    for site in &cluster.sites {
        let conflicts = site.conflicts().await.unwrap();
        assert!(conflicts.is_empty(), "something came twice: {conflicts:?}");
    }
}

#[tokio::test]
async fn all_daemons_at_once() {
    let mut cluster = Cluster::start().await.unwrap();
    let insert = |id: i32| format!("insert into items values ({id}, 0, null)");
    for round in 0..3 {
        for site in 0..3 {
            cluster
                .site(site)
                .execute(&insert(round * 6 + site as i32))
                .await
                .unwrap();
        }
        for site in &mut cluster.sites {
            site.node.crash();
        }
        for site in 0..3 {
            cluster
                .site(site)
                .execute(&insert(round * 6 + 3 + site as i32))
                .await
                .unwrap();
        }
        for site in &mut cluster.sites {
            site.node.start().unwrap();
        }
        cluster.wait_ready().await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 18);
}

/// A constraint trigger at a site that refuses some rows only at the commit; and at replay too.
pub(crate) const REFUSES_THE_COMMIT: &str = "create function tidy() returns trigger language plpgsql as $$ \
    begin if new.note = 'unwanted' then raise exception 'not tidy'; end if; return null; end $$; \
    create constraint trigger tidy after insert on items deferrable initially deferred \
    for each row execute function tidy(); \
    alter table items enable always trigger tidy";

/// b holds a's stream, now and after a crash of its daemon.
pub(crate) async fn held_before_and_after_a_crash(cluster: &mut Cluster) {
    let held = async |cluster: &Cluster| {
        let (a, b) = (cluster.site(0), cluster.site(1));
        b.wait_state(a, OriginState::Held).await.unwrap();
    };
    held(cluster).await;
    cluster.site_mut(1).node.crash();
    cluster.site_mut(1).node.start().unwrap();
    held(cluster).await;
}

/// From PostgreSQL 16 on the server counts a transaction that is rolled back, if it has a position.
#[tokio::test]
async fn a_transaction_that_was_refused_is_not_counted() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["tidy"]);
    let rule = "alter table items add constraint tidy check (note <> 'unwanted')";
    cluster.site(1).execute(rule).await.unwrap();
    let both = "insert into items values (1, 0, 'wanted'), (2, 0, 'unwanted')";
    cluster.site(0).execute(both).await.unwrap();
    held_before_and_after_a_crash(&mut cluster).await;
    let mend = "alter table items drop constraint tidy";
    cluster.site(1).execute(mend).await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 2);
    cluster.finish().unwrap();
}

/// Only a trigger that fires at replay and is deferred can refuse the commit itself.
#[tokio::test]
async fn a_commit_that_was_refused_is_not_counted() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["tidy"]);
    cluster.site(1).execute(REFUSES_THE_COMMIT).await.unwrap();
    for (id, note) in ["before", "unwanted", "wanted"].iter().enumerate() {
        let insert = format!("insert into items values ({id}, 0, '{note}')");
        cluster.site(0).execute(&insert).await.unwrap();
    }
    held_before_and_after_a_crash(&mut cluster).await;
    let b = cluster.site(1);
    let notes = "select string_agg(note, ' ' order by id) from items";
    assert_eq!(b.value(notes).await.unwrap(), "before");
    b.execute("drop trigger tidy on items").await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 3);
    cluster.finish().unwrap();
}
