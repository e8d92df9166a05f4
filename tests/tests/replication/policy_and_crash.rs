//! Policies where the daemon is killed while a row that stands higher is on its way.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;

const NOTE: &str = "select note from items where id = 1";
const BLOCKED: &str = "from pg_stat_activity \
    where application_name like 'everywrite replay%' and wait_event_type = 'Lock'";

/// A transaction of b is captured while a's update is on its way, and claims it. The daemon of b is
/// killed: what comes next from b claims a's update still, but has not taken over how high it stands.
#[tokio::test]
async fn what_a_write_claims_stays_replaced_although_it_stands_higher() {
    let mut cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    let policy = "select everywrite.set_policy('items', 'all', 'first_update_wins', '{}')";
    cluster.site(0).execute(policy).await.unwrap();
    for site in &cluster.sites {
        let shown = "select policy from everywrite.policies where table_name = 'items'";
        site.wait_value(shown, "first_update_wins").await.unwrap();
    }
    cluster.converged().await.unwrap();

    let holder = cluster.site(1).sql().await.unwrap();
    let hold = "begin; select from items where id = 1 for update";
    holder.batch_execute(hold).await.unwrap();
    cluster
        .site(0)
        .execute("update items set note = 'first' where id = 1")
        .await
        .unwrap();
    let b = cluster.site(1);
    b.wait_value(&format!("select count(*) {BLOCKED}"), "1")
        .await
        .unwrap();
    b.execute("select everywrite.pause('a')").await.unwrap();
    b.execute("insert into items values (2, 0, 'claims')")
        .await
        .unwrap();
    cluster.received(2, 1).await.unwrap();
    cluster.site_mut(1).node.crash();
    let b = cluster.site(1);
    let end = format!("select count(pg_terminate_backend(pid)) {BLOCKED}");
    assert_eq!(b.value(&end).await.unwrap(), "1");
    let sessions =
        "select count(*) from pg_stat_activity where application_name like 'everywrite%'";
    b.wait_value(sessions, "0").await.unwrap();
    holder.batch_execute("rollback").await.unwrap();

    cluster.site_mut(1).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    b.wait_state(a, OriginState::Paused).await.unwrap();
    b.execute("update items set note = 'second' where id = 1")
        .await
        .unwrap();
    a.wait_value(NOTE, "second").await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    cluster.converged().await.unwrap();
    assert_eq!(b.value(NOTE).await.unwrap(), "second");
    cluster.finish().unwrap();
}
