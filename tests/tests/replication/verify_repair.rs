//! `everywrite verify --repair`: the highest version wins, by an ordinary write at one site that
//! reaches all others, also those where the row is missing.

use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::random::Random;

use crate::verify::{behind_the_back, verify};

/// Rows with values that are stored out of line, a second unique key, a table that refers to another,
/// and a trigger that would be noticed.
const SCHEMA: &str = "
create table items (id bigint primary key, n int, note text, body text, code int unique);
alter table items alter column body set storage external;
create table pairs (a int, b text, primary key (a, b));
create table tags (item bigint references items, tag text, primary key (item, tag));
create function touched() returns trigger language plpgsql as $$ begin new.note := 'touched'; return new; end $$;
create trigger touched before update on items for each row execute function touched();
insert into items select k, 0, 'begin', repeat(k::text, 3000), k from generate_series(1, 200) k where false";

async fn start() -> Cluster {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    cluster
        .site(0)
        .execute(
            "insert into items select k, 0, 'begin', repeat(k::text, 3000), k from generate_series(1, 200) k;
             insert into pairs select k, 'p' || k from generate_series(1, 50) k;
             insert into tags select k, 'red' from generate_series(1, 20) k",
        )
        .await
        .unwrap();
    cluster.converged().await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_as_the_replicated_writes_left_it() {
    let cluster = start().await;
    behind_the_back(
        cluster.site(1),
        "update items set n = 7, body = repeat('tampered', 1000) where id = 1;
         delete from items where id = 2;
         update items set body = null where id = 3;
         delete from pairs where a = 5",
    )
    .await;
    behind_the_back(cluster.site(2), "update items set n = 8 where id = 1").await;

    // Without a person, and without --yes, the plan is shown and nothing is written.
    let planned = verify(cluster.site(0), &["--repair"]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    assert!(planned.errors.contains("--yes"), "{planned:?}");
    assert_eq!(planned.differing("items", "id"), ["1", "2", "3"]);
    let step = &planned.table("items")["differences"][0]["plan"];
    assert_eq!(
        (&step["winner"], &step["outcome"]),
        (&"a".into(), &"planned".into()),
        "{planned:?}"
    );
    let still = verify(cluster.site(0), &[]).await;
    assert_eq!(still.code, 1);

    let repaired = verify(cluster.site(2), &["--repair", "--yes"]).await;
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert_eq!(repaired.differing("items", "id"), ["1", "2", "3"]);
    cluster.converged().await.unwrap();
    let right = "select count(*) from items where n = 0 and note = 'begin' and body = repeat(id::text, 3000) and code = id";
    for site in 0..3 {
        assert_eq!(cluster.site(site).value(right).await.unwrap(), "200");
        let pairs = "select count(*) from pairs";
        assert_eq!(cluster.site(site).value(pairs).await.unwrap(), "50");
    }
    let verified = verify(cluster.site(1), &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_one_site_has_alone() {
    let cluster = start().await;
    let only_there = "insert into items values (1001, 1, 'only', repeat('x', 9000), 1001), (1002, 2, 'only', null, 1002);
         insert into tags values (1001, 'blue'), (1001, 'green')";
    behind_the_back(cluster.site(1), only_there).await;
    // Nobody knows of a delete, so they are kept and reach the others.
    let repaired = verify(cluster.site(0), &["--repair", "--yes"]).await;
    assert_eq!(repaired.code, 0, "{repaired:?}");
    cluster.converged().await.unwrap();
    let there = "select count(*) from items where id > 1000";
    assert_eq!(cluster.site(2).value(there).await.unwrap(), "2");

    // A person may say that another site is right: then they go, with what refers to them.
    behind_the_back(
        cluster.site(1),
        "insert into items values (2001, 1, 'only', null, 2001);
         insert into tags values (2001, 'blue'); update items set n = 5 where id = 7",
    )
    .await;
    let repaired = verify(cluster.site(1), &["--repair", "--yes", "--from", "c"]).await;
    assert_eq!(repaired.code, 0, "{repaired:?}");
    cluster.converged().await.unwrap();
    let gone = "select count(*) from items where id > 2000 or n = 5";
    assert_eq!(cluster.site(1).value(gone).await.unwrap(), "0");
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_write_that_never_left_wins() {
    let cluster = start().await;
    // A row that b took from a's stream at another time than it says: as if a bug had kept the older.
    cluster
        .site(1)
        .execute("update items set n = 41 where id = 9")
        .await
        .unwrap();
    cluster.converged().await.unwrap();
    behind_the_back(cluster.site(0), "update items set n = 0 where id = 9").await;
    let repaired = verify(cluster.site(0), &["items", "--repair", "--yes"]).await;
    assert_eq!(repaired.code, 0, "{repaired:?}");
    cluster.converged().await.unwrap();
    let n = "select n from items where id = 9";
    assert_eq!(cluster.site(0).value(n).await.unwrap(), "41");
    let plan = &repaired.table("items")["differences"][0]["plan"];
    assert_eq!(plan["outcome"], "repaired");
    cluster.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_tables_are_written() {
    let cluster = start().await;
    behind_the_back(
        cluster.site(2),
        "delete from items where id % 10 = 0; update items set n = -1 where id % 10 = 1",
    )
    .await;
    let clients = [
        cluster.site(0).sql().await.unwrap(),
        cluster.site(2).sql().await.unwrap(),
    ];
    let load = async {
        let mut random = Random::new(7);
        loop {
            for client in &clients {
                let id = 1 + random.below(200);
                let sql = format!("update items set n = n + 1 where id = {id}");
                client.batch_execute(&sql).await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    };
    let repaired = tokio::select! {
        () = load => unreachable!(),
        repaired = verify(cluster.site(1), &["--repair", "--yes"]) => repaired,
    };
    // A row that was written between plan and repair is left alone, and equal by that write.
    assert_eq!(repaired.code, 0, "{repaired:?}");
    cluster.converged().await.unwrap();
    assert_eq!(
        cluster
            .site(2)
            .value("select count(*) from items")
            .await
            .unwrap(),
        "200"
    );
    let verified = verify(cluster.site(0), &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    cluster.finish().unwrap();
}

/// A row that is written as it is changes no column, so it would repair nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_merged_is_refused() {
    let schema = "create table items (id bigint primary key, n int not null, note text); \
        alter table items replica identity full";
    let cluster = Plan::with_schema(schema).start().await.unwrap();
    let begin = "insert into items select k, 0, 'begin' from generate_series(1, 9) k";
    cluster.site(0).execute(begin).await.unwrap();
    let set = r#"select everywrite.set_policy('items', 'all', 'column_wise', '{"delta": ["n"]}')"#;
    cluster.site(0).execute(set).await.unwrap();
    for site in &cluster.sites {
        let begun = "select (begun_at is not null)::text from everywrite.policies";
        site.wait_value(begun, "true").await.unwrap();
    }
    cluster.converged().await.unwrap();
    behind_the_back(cluster.site(1), "update items set n = 7 where id = 1").await;

    let refused = verify(cluster.site(0), &["--repair", "--yes"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let plan = &refused.table("items")["differences"][0]["plan"];
    assert_eq!(plan["outcome"], "failed", "{refused:?}");
    let said = plan["error"].as_str().unwrap();
    let reason = "its rows are merged by columns";
    assert!(
        said.contains(reason) && said.contains("last_update_wins first"),
        "{said}"
    );
    let still = "select string_agg(n::text, ' ' order by id) from items where id < 3";
    assert_eq!(cluster.site(1).value(still).await.unwrap(), "7 0");
    assert_eq!(cluster.site(0).value(still).await.unwrap(), "0 0");

    let set = "select everywrite.set_policy('items', 'all', 'last_update_wins')";
    cluster.site(0).execute(set).await.unwrap();
    for site in &cluster.sites {
        let policy = "select policy from everywrite.policies";
        site.wait_value(policy, "last_update_wins").await.unwrap();
    }
    let repaired = verify(cluster.site(0), &["--repair", "--yes"]).await;
    assert_eq!(repaired.code, 0, "{repaired:?}");
    cluster.converged().await.unwrap();
    assert_eq!(cluster.site(1).value(still).await.unwrap(), "0 0");
    cluster.finish().unwrap();
}
