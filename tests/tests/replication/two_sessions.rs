//! b applies a's transactions in two sessions: two groups are written at once, and committed in their order.

use std::time::Duration;

use everywrite_tests::cluster::{Cluster, Plan, Site};
use everywrite_tests::logs;
use everywrite_tests::random::Random;
use everywrite_tests::wait;
use tokio::task::JoinHandle;

/// `trace` has no key: what is applied twice stands there twice.
const SCHEMA: &str = "create table items (id bigint primary key, n int, note text); \
    create table trace (n bigint); \
    create table codes (id bigint primary key, code int, unique (code));";
const FILTER: &str = "\"info,everywrite_node::replay=debug\"";
const BESIDE: &str = "a group is at the server beside another";
const BEHIND: &str = "a group is at the server behind another";
const GIVES_WAY: &str = "a group gives way to the one before it";
/// The two sessions, as b's server shows them.
const FIRST: &str = "everywrite replay 1";
const SECOND: &str = "everywrite replay 1 beside";

/// Two sites, and groups of so many transactions.
fn plan(group: &'static str) -> Plan {
    Plan::with_schema(SCHEMA)
        .sites(2)
        .configure("replication", "group-transactions", group)
        .configure("log", "filter", FILTER)
}

/// Every transaction is a group, and there are a hundred items.
async fn start() -> Cluster {
    let cluster = plan("1").start().await.unwrap();
    let begin = "insert into items select g, 0, 'begin' from generate_series(1, 100) g; \
        insert into codes select g, g from generate_series(1, 100) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster
}

/// Until one of the sessions is in that state.
async fn session(b: &Site, name: &str, state: &str) {
    let sessions = format!(
        "select count(*) from pg_stat_activity where application_name = '{name}' and {state}"
    );
    b.wait_value(&sessions, "1").await.unwrap();
}

async fn waits_for_a_lock(b: &Site, name: &str) {
    session(b, name, "wait_event_type = 'Lock'").await;
}

/// How often the daemon of a site has said something.
fn said(site: &Site, part: &str) -> usize {
    let lines = logs::lines(&site.node.log());
    lines.iter().filter(|line| line.contains(part)).count()
}

/// What b holds the first of two groups with.
async fn hold(b: &Site, sql: &str) -> tokio_postgres::Client {
    let holder = b.sql().await.unwrap();
    let begin = format!("begin; {sql}");
    holder.batch_execute(&begin).await.unwrap();
    holder
}

/// Runs two transactions at a. The first waits for a lock at b, the second is written beside it, as far as it may be; until it gives way.
async fn beside_each_other(cluster: &Cluster, transactions: [&str; 2]) {
    let (a, b) = (cluster.site(0), cluster.site(1));
    let before = said(b, BESIDE);
    for transaction in transactions {
        a.execute(transaction).await.unwrap();
    }
    waits_for_a_lock(b, FIRST).await;
    wait::until("the second group to be sent", wait::LIMIT, async || {
        (said(b, BESIDE) > before)
            .then_some(())
            .ok_or_else(|| "not said".to_owned())
    })
    .await
    .unwrap();
}

/// Runs a statement in a session of b as soon as somebody else has locked an item.
fn once_locked(
    session: tokio_postgres::Client,
    id: u32,
    sql: &str,
) -> JoinHandle<tokio_postgres::Client> {
    let statement = format!(
        "do $$ declare began timestamptz := clock_timestamp();
         begin
             while clock_timestamp() < began + interval '20 s' loop
                 begin
                     perform from items where id = {id} for update skip locked;
                     exit when not found;
                     raise exception 'free';
                 exception when raise_exception then
                     perform pg_sleep(0.001);
                 end;
             end loop;
             {sql};
         end $$"
    );
    tokio::spawn(async move {
        session.batch_execute(&statement).await.unwrap();
        session
    })
}

/// All sites have the same rows, and what was applied was applied once.
async fn once(cluster: &Cluster, transactions: usize) {
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        let trace = "select count(*) || ' ' || count(distinct n) from trace";
        let expected = format!("{transactions} {transactions}");
        assert_eq!(site.value(trace).await.unwrap(), expected);
        let conflicts = site.conflicts().await.unwrap();
        assert!(conflicts.is_empty(), "{conflicts:?}");
    }
}

/// Transactions at a, numbered from `first` on, each of which updates ten items of a thousand.
async fn updates(a: &Site, first: usize, count: usize) {
    let sql = a.sql().await.unwrap();
    for n in first..first + count {
        let transaction = format!(
            "begin; insert into trace values ({n}); \
             update items set n = {n}, note = 'of ' || {n} where id between {from} and {from} + 9; commit",
            from = (n % 100) * 10 + 1
        );
        sql.batch_execute(&transaction).await.unwrap();
    }
}

const SESSIONS: &str =
    "select count(*) from pg_stat_activity where application_name like 'everywrite replay %'";
const THOUSAND: &str = "insert into items select g, 0, 'begin' from generate_series(1, 1000) g";

#[tokio::test]
async fn a_backlog_is_applied_in_both_sessions() {
    let cluster = plan("20").start().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    a.execute(THOUSAND).await.unwrap();
    cluster.converged().await.unwrap();
    b.execute("select everywrite.pause('a')").await.unwrap();
    updates(a, 0, 400).await;
    cluster.received(1, 0).await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    once(&cluster, 400).await;
    assert!(said(b, BESIDE) > 3);
    let second = "select pg_replication_origin_progress('everywrite_1_2', false) > '0/0'";
    assert_eq!(b.value(second).await.unwrap(), "t");
    let held =
        "select everywrite.wait_for('a', pg_replication_origin_progress('everywrite_1_2', false))";
    assert_eq!(b.value(held).await.unwrap(), "t");
    cluster.finish().unwrap();
}

/// Nobody sees the second group before the first, whichever is written sooner.
#[tokio::test]
async fn the_second_group_is_seen_behind_the_first() {
    let cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "select from items where id = 1 for update").await;
    beside_each_other(
        &cluster,
        [
            "update items set n = 1 where id <= 10",
            "update items set n = 2 where id between 11 and 20",
        ],
    )
    .await;
    let state = "select min(n) || ' ' || max(n) from items where id <= 20";
    assert_eq!(b.value(state).await.unwrap(), "0 0");
    holder.batch_execute("commit").await.unwrap();
    once(&cluster, 0).await;
    assert_eq!(b.value(state).await.unwrap(), "1 2");
    cluster.finish().unwrap();
}

/// What both write is written of the second when the first is committed.
#[tokio::test]
async fn groups_have_some_keys_in_common() {
    let cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "select from items where id = 1 for update").await;
    beside_each_other(
        &cluster,
        [
            "update items set n = n + 1 where id <= 12; delete from items where id = 13; insert into items values (200, 7, 'new')",
            "update items set n = n * 10 + 2 where id between 10 and 30; insert into items values (13, 13, 'again'); \
             delete from items where id = 200",
        ],
    )
    .await;
    holder.batch_execute("commit").await.unwrap();
    once(&cluster, 0).await;
    let state =
        "select string_agg(n::text, ' ' order by id) from items where id in (9, 10, 13, 30, 200)";
    assert_eq!(b.value(state).await.unwrap(), "1 12 13 2");
    assert_eq!(said(b, BEHIND), 0);
    cluster.finish().unwrap();
}

/// Then the second is chained to the first, in the same session.
#[tokio::test]
async fn groups_have_most_keys_in_common() {
    let cluster = start().await;
    let (a, b) = (cluster.site(0), cluster.site(1));
    let before = said(b, BESIDE);
    let holder = hold(b, "select from items where id = 1 for update").await;
    a.execute("update items set n = n + 1 where id <= 10")
        .await
        .unwrap();
    a.execute("update items set n = n * 10 + 2 where id <= 10")
        .await
        .unwrap();
    waits_for_a_lock(b, FIRST).await;
    b.wait_logged(BEHIND).await.unwrap();
    session(b, SECOND, "state = 'idle'").await;
    holder.batch_execute("commit").await.unwrap();
    once(&cluster, 0).await;
    let state = "select min(n) || ' ' || max(n) from items where id <= 10";
    assert_eq!(b.value(state).await.unwrap(), "12 12");
    assert_eq!(said(b, BESIDE), before);
    cluster.finish().unwrap();
}

/// The first gives away what the second takes; the rest of the second is written at once.
#[tokio::test]
async fn a_second_unique_value_changes_hands() {
    let cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "select from codes where id = 1 for update").await;
    beside_each_other(
        &cluster,
        [
            "update codes set code = 1000 + id where id <= 3",
            "update codes set code = 2 where id = 50; insert into codes values (200, 3); \
             update items set n = 5 where id <= 10",
        ],
    )
    .await;
    holder.batch_execute("commit").await.unwrap();
    once(&cluster, 0).await;
    let state =
        "select string_agg(code::text, ' ' order by id) from codes where id in (2, 50, 200)";
    assert_eq!(b.value(state).await.unwrap(), "1002 2 3");
    cluster.finish().unwrap();
}

/// The server sees no deadlock: that the second group waits for the first is known to the daemon only.
#[tokio::test]
async fn a_user_holds_a_row_of_the_first_and_wants_one_of_the_second() {
    let cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "select from items where id = 1 for update").await;
    let wants = once_locked(holder, 2, "perform from items where id = 2 for update");
    beside_each_other(
        &cluster,
        [
            "update items set n = 1 where id = 1; insert into trace values (1)",
            "update items set n = 2 where id = 2; insert into trace values (2)",
        ],
    )
    .await;
    // If the second group did not give way this would wait for ever.
    let holder = tokio::time::timeout(Duration::from_secs(60), wants).await;
    let holder = holder.expect("the user gets the row").unwrap();
    assert_eq!(said(b, GIVES_WAY), 1);
    let state = "select string_agg(n::text, ' ' order by id) from items where id <= 2";
    assert_eq!(b.value(state).await.unwrap(), "0 0");
    holder.batch_execute("commit").await.unwrap();
    once(&cluster, 2).await;
    assert_eq!(b.value(state).await.unwrap(), "1 2");
    cluster.finish().unwrap();
}

/// The index of b does not know that the row `gone` is gone: one of two groups that are written at once finds nothing to
/// update, and both are there in the end. `aborted`: the second is heard of before the first is answered.
async fn a_guard_fails(gone: i32, aborted: bool) {
    let cluster = start().await;
    let b = cluster.site(1);
    b.execute_unseen(&format!("delete from items where id = {gone}"))
        .await
        .unwrap();
    let holder = hold(b, "select from items where id = 1 for update").await;
    beside_each_other(
        &cluster,
        [
            "update items set n = 1 where id <= 2; insert into trace values (1)",
            "update items set n = 3 where id = 3; insert into trace values (2)",
        ],
    )
    .await;
    if aborted {
        session(b, SECOND, "state = 'idle in transaction (aborted)'").await;
    }
    holder.batch_execute("commit").await.unwrap();
    cluster.converged().await.unwrap();
    let state = "select string_agg(n::text, ' ' order by id) from items where id <= 3";
    assert_eq!(b.value(state).await.unwrap(), "1 1 3");
    let trace = "select string_agg(n::text, ' ' order by n) from trace";
    assert_eq!(b.value(trace).await.unwrap(), "1 2");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn the_guard_of_the_first_fails() {
    a_guard_fails(2, false).await;
}

/// It is decided behind the first.
#[tokio::test]
async fn the_guard_of_the_second_fails() {
    a_guard_fails(3, true).await;
}

/// b's application writes a row of the first and one of the second, which were written by then or are about to be.
#[tokio::test]
async fn the_application_writes_the_same_rows() {
    let cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "update items set n = 100, note = 'b' where id = 1").await;
    // Waits for the second group, and sees it or what it replaces.
    let other = b.sql().await.unwrap();
    let update = "update items set note = note || ', b' where id in (3, 5)";
    let late = once_locked(other, 3, update);
    beside_each_other(
        &cluster,
        [
            "update items set n = 1 where id <= 2; insert into trace values (1)",
            "update items set n = 3 where id between 3 and 5; insert into trace values (2)",
        ],
    )
    .await;
    holder.batch_execute("commit").await.unwrap();
    late.await.unwrap();
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        let state =
            "select string_agg(n || ' ' || note, '; ' order by id) from items where id <= 4";
        let state = site.value(state).await.unwrap();
        assert!(state.starts_with("100 b; 1 begin; "), "{state}");
        let trace = "select string_agg(n::text, ' ' order by n) from trace";
        assert_eq!(site.value(trace).await.unwrap(), "1 2");
    }
    cluster.finish().unwrap();
}

/// Both kinds of crash, in the middle of backlogs: what was committed in either session is not applied again, and what was
/// written in one of them only is gone.
#[tokio::test]
async fn daemons_and_servers_are_killed_in_mid_backlog() {
    let mut cluster = plan("5").start().await.unwrap();
    cluster.site(0).execute(THOUSAND).await.unwrap();
    cluster.converged().await.unwrap();
    let mut random = Random::new(23);
    let (mut written, mut beside) = (0, 0);
    for round in 0..8 {
        cluster.site_mut(1).node.crash();
        updates(cluster.site(0), written, 250).await;
        written += 250;
        cluster.site_mut(1).node.start().unwrap();
        cluster.site(1).node.wait_ready().await.unwrap();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(random.below(250))).await;
            let b = cluster.site_mut(1);
            if round % 2 == 0 {
                b.node.crash();
                b.node.start().unwrap();
            } else {
                b.server.stop_immediately().unwrap();
                b.server.start().await.unwrap();
            }
            b.node.wait_ready().await.unwrap();
        }
        beside = beside.max(said(cluster.site(1), BESIDE));
    }
    once(&cluster, written).await;
    assert!(beside > 0);
}

/// What the second session has applied counts although there is no second session any more.
#[tokio::test]
async fn one_session_goes_on_behind_two() {
    let mut cluster = start().await;
    let b = cluster.site(1);
    let holder = hold(b, "select from items where id = 1 for update").await;
    beside_each_other(
        &cluster,
        [
            "update items set n = 1 where id = 1; insert into trace values (1)",
            "update items set n = 2 where id = 2; insert into trace values (2)",
        ],
    )
    .await;
    holder.batch_execute("commit").await.unwrap();
    // Whether all is there is asked with a transaction of a, which would be further.
    b.wait_value("select count(*) from trace", "2")
        .await
        .unwrap();
    let further = "select pg_replication_origin_progress('everywrite_1_2', false) \
        > pg_replication_origin_progress('everywrite_1', false)";
    assert_eq!(b.value(further).await.unwrap(), "t");
    for (transactions, sessions) in [(3, "1"), (4, "2")] {
        let b = cluster.site_mut(1);
        b.node.stop().unwrap();
        b.node
            .set_config("replication", "sessions", sessions)
            .unwrap();
        b.node.start().unwrap();
        let more = format!("insert into trace values ({transactions})");
        cluster.site(0).execute(&more).await.unwrap();
        once(&cluster, transactions).await;
        cluster
            .site(1)
            .wait_value(SESSIONS, sessions)
            .await
            .unwrap();
    }
    cluster.finish().unwrap();
}

/// There is room for one origin of each peer, and the repairs' one.
#[tokio::test]
async fn a_server_has_no_room_for_a_second_session() {
    let mut cluster = plan("1").prepare().await.unwrap();
    let b = cluster.site_mut(1);
    let name = "select coalesce((select name from pg_settings where name = 'max_active_replication_origins'), \
        'max_replication_slots')";
    let name = b.value(name).await.unwrap();
    b.execute(&format!("alter system set {name} = 2"))
        .await
        .unwrap();
    b.server.restart().await.unwrap();
    for site in &mut cluster.sites {
        site.node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    let (a, b) = (cluster.site(0), cluster.site(1));
    a.execute(THOUSAND).await.unwrap();
    once(&cluster, 0).await;
    b.wait_value(SESSIONS, "1").await.unwrap();
    b.wait_logged("the server has no room for a second session")
        .await
        .unwrap();
    b.execute("select everywrite.pause('a')").await.unwrap();
    updates(a, 0, 20).await;
    cluster.received(1, 0).await.unwrap();
    b.execute("select everywrite.resume('a')").await.unwrap();
    once(&cluster, 20).await;
    assert_eq!(said(b, BESIDE), 0);
    cluster.finish().unwrap();
}
