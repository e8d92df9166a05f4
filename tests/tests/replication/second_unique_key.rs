//! A second unique key: the row with the higher version keeps the value, the other one is removed
//! at every site. Swaps inside a transaction destroy nothing.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan};

const USERS: &str =
    "create table users (id bigint primary key, email text unique, n int default 0)";
const ALL: &str =
    "select string_agg(id || ':' || coalesce(email, '-'), ' ' order by id) from users";

async fn cluster_with(rows: &str) -> Cluster {
    let cluster = Plan::with_schema(USERS).start().await.unwrap();
    if !rows.is_empty() {
        let sql = format!("insert into users (id, email) values {rows}");
        cluster.site(0).execute(&sql).await.unwrap();
        cluster.converged().await.unwrap();
    }
    cluster
}

async fn end(cluster: &Cluster) -> String {
    cluster.converged().await.unwrap();
    cluster.site(2).value(ALL).await.unwrap()
}

#[tokio::test]
async fn two_sites_take_the_same_value() {
    let cluster = cluster_with("").await;
    cluster.cut_all();
    let insert = |id: i32| format!("insert into users values ({id}, 'x')");
    cluster.site(0).execute(&insert(1)).await.unwrap();
    cluster.site(1).execute(&insert(2)).await.unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "2:x");
    let mut listed = 0;
    for site in &cluster.sites {
        let conflicts = site.conflicts().await.unwrap();
        listed += conflicts
            .iter()
            .filter(|c| c.loser().column("id").as_deref() == Some("1"))
            .count();
    }
    assert!(listed > 0, "the row that lost is in no history");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_loser_is_removed_where_the_winner_is_gone_already() {
    let cluster = cluster_with("").await;
    cluster.cut_all();
    let insert = |id: i32| format!("insert into users values ({id}, 'x')");
    cluster.site(0).execute(&insert(1)).await.unwrap();
    cluster.site(1).execute(&insert(2)).await.unwrap();
    // a and c meet first, then b deletes its winner: whoever saw the two together has decided.
    cluster.proxy(2, 0).heal();
    cluster.proxy(0, 2).heal();
    cluster.caught_up(2, 0).await.unwrap();
    cluster.proxy(2, 1).heal();
    cluster.proxy(1, 2).heal();
    let count = "select string_agg(id::text, ' ') from users";
    cluster.site(2).wait_value(count, "2").await.unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "2:x");
    cluster
        .site(1)
        .execute("delete from users where id = 2")
        .await
        .unwrap();
    assert_eq!(end(&cluster).await, "");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_swap_and_a_chain_keep_all_rows() {
    let cluster = cluster_with("(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')").await;
    let swap = "begin; update users set email = null where id = 1; \
        update users set email = 'a' where id = 2; update users set email = 'b' where id = 1; commit";
    cluster.site(1).execute(swap).await.unwrap();
    assert_eq!(end(&cluster).await, "1:b 2:a 3:c 4:d");
    let chain = "begin; update users set email = 'spare' where id = 1; \
        update users set email = 'b' where id = 2; update users set email = 'a' where id = 3; \
        update users set email = 'c' where id = 1; delete from users where id = 4; \
        insert into users values (5, 'd'); commit";
    cluster.site(2).execute(chain).await.unwrap();
    assert_eq!(end(&cluster).await, "1:c 2:b 3:a 5:d");
    for site in &cluster.sites {
        assert!(site.conflicts().await.unwrap().is_empty());
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn values_that_move_from_row_to_row_in_a_backlog() {
    let cluster = cluster_with("(1, 'a'), (2, 'b'), (3, null)").await;
    cluster.cut_all();
    let client = cluster.site(0).sql().await.unwrap();
    // Small transactions that replay folds into groups: a value goes to the row that has none.
    let (mut holders, mut free) = ([1, 2], 3);
    for step in 0..100 {
        let (value, holder) = (["a", "b"][step % 2], &mut holders[step % 2]);
        let sql = format!(
            "begin; update users set email = null where id = {holder}; \
             update users set email = '{value}', n = n + 1 where id = {free}; commit"
        );
        client.batch_execute(&sql).await.unwrap();
        std::mem::swap(holder, &mut free);
    }
    let expected = cluster.site(0).value(ALL).await.unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, expected);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn two_sites_swap_the_same_values_at_once() {
    let cluster = cluster_with("(1, 'a'), (2, 'b'), (3, 'c')").await;
    cluster.cut_all();
    let swap = |one: i32, v1: &str, two: i32, v2: &str| {
        format!(
            "begin; update users set email = null where id = {one}; \
             update users set email = '{v1}' where id = {two}; \
             update users set email = '{v2}' where id = {one}; commit"
        )
    };
    cluster
        .site(0)
        .execute(&swap(1, "a", 2, "b"))
        .await
        .unwrap();
    cluster
        .site(1)
        .execute(&swap(2, "b", 3, "c"))
        .await
        .unwrap();
    cluster.heal();
    // Site b's are the later versions: 2 has c, 3 has b; 1 wanted b with the lower version.
    assert_eq!(end(&cluster).await, "2:c 3:b");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_row_loses_and_is_written_again_by_a_transaction_that_also_truncates() {
    let schema = format!("{USERS}; create table scratch (id int primary key)");
    let cluster = Plan::with_schema(&schema).start().await.unwrap();
    cluster.cut_all();
    // Replayed in steps, because of the TRUNCATE: the second step meets what the first has decided.
    let steps = "begin; insert into users values (1, 'x'); truncate scratch; \
        update users set n = 1 where id = 1; truncate scratch; \
        update users set n = 2 where id = 1; commit";
    cluster.site(0).execute(steps).await.unwrap();
    let newer = "insert into users values (2, 'x')";
    cluster.site(1).execute(newer).await.unwrap();
    cluster.heal();
    assert_eq!(end(&cluster).await, "2:x");
    cluster.finish().unwrap();
}

/// One site pauses or resumes the replay of another.
async fn replay(cluster: &Cluster, site: usize, of: usize, pause: bool) {
    let (site, of) = (cluster.site(site), cluster.site(of));
    let verb = if pause { "pause" } else { "resume" };
    let sql = format!("select everywrite.{verb}('{}')", of.node.name());
    site.execute(&sql).await.unwrap();
    if pause {
        site.wait_state(of, OriginState::Paused).await.unwrap();
    }
}

/// The delete of a row that has lost does not leave, because its key was written again before it could; and a group of
/// the others brings and takes that key at once, which leaves nothing to be written.
#[tokio::test]
async fn a_row_that_has_lost_comes_and_goes_before_its_delete_leaves() {
    let cluster = cluster_with("").await;
    let (a, b) = (cluster.site(0), cluster.site(1));
    replay(&cluster, 1, 0, true).await;
    replay(&cluster, 0, 1, true).await;
    replay(&cluster, 2, 1, true).await;
    // Nothing leaves b's outbox for a while.
    let holds = "create function waits() returns trigger language plpgsql as \
        $$ begin perform pg_advisory_xact_lock(7); return old; end $$; \
        create trigger waits before delete on everywrite.outbox for each row execute function waits()";
    b.execute(holds).await.unwrap();
    let holder = b.sql().await.unwrap();
    let lock = "select pg_advisory_lock(7)";
    holder.batch_execute(lock).await.unwrap();
    a.execute("insert into users values (1, 'x')")
        .await
        .unwrap();
    b.execute("insert into users values (2, 'x')")
        .await
        .unwrap();
    replay(&cluster, 1, 0, false).await;
    let outbox = "select count(*) from everywrite.outbox";
    b.wait_value(outbox, "1").await.unwrap();
    // The others never see the two rows together.
    b.execute("update users set email = 'y' where id = 2")
        .await
        .unwrap();
    let again = "begin; insert into users values (1, 'z'); delete from users where id = 1; commit";
    b.execute(again).await.unwrap();
    let unlock = "select pg_advisory_unlock(7)";
    holder.batch_execute(unlock).await.unwrap();
    b.wait_value(outbox, "0").await.unwrap();
    replay(&cluster, 0, 1, false).await;
    replay(&cluster, 2, 1, false).await;
    assert_eq!(end(&cluster).await, "2:y");
    cluster.finish().unwrap();
}
