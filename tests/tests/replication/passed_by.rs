//! A group that waits at the server, a local write of one of its keys, and a third site's newer write of that.
//!
//! The index of a names the local write and not c's group, which is still under way. b's write beats the local
//! one and must not go ahead by that: c's group would meet a row of another origin, which
//! it takes for the one that its writer knew, and put its own older one over it.

use std::time::Duration;

use everywrite_tests::cluster::Plan;

const SCHEMA: &str = "create table items (id bigint primary key, n int, note text); \
    create table busy (id bigint primary key, n int)";

#[tokio::test]
async fn a_third_sites_write_waits_for_a_group_behind_a_local_write() {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    let begin = "insert into items values (1, 0, 'begin'); insert into busy values (1, 0)";
    a.execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    // b writes without having seen what the others write.
    let alone = "select everywrite.pause('a'), everywrite.pause('c')";
    b.execute(alone).await.unwrap();

    let holder = a.sql().await.unwrap();
    let lock = "begin; lock table busy in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let group = "begin; update busy set n = 1; update items set note = 'c' where id = 1; commit";
    c.execute(group).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
        and application_name = 'everywrite replay 3'";
    a.wait_value(waiting, "1").await.unwrap();

    let local = "update items set note = 'a' where id = 1";
    a.execute(local).await.unwrap();
    cluster.caught_up(2, 0).await.unwrap();
    // Until a barrier has passed the local write, b's goes the careful way in any case.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let newer = "update items set note = 'b' where id = 1";
    b.execute(newer).await.unwrap();
    cluster.received(0, 1).await.unwrap();
    // What must not happen would have happened by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    holder.batch_execute("commit").await.unwrap();

    let again = "select everywrite.resume('a'), everywrite.resume('c')";
    b.execute(again).await.unwrap();
    cluster.converged().await.unwrap();
    let note = "select note from items where id = 1";
    assert_eq!(a.value(note).await.unwrap(), "b");
    cluster.finish().unwrap();
}
