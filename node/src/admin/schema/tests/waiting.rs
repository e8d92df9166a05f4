use std::time::{Duration, Instant};

use super::*;

/// The replication origins of the two sessions that b's transactions may be applied in.
const ORIGINS: [&str; 2] = ["everywrite_2", "everywrite_2_2"];

/// A session that writes as replay does: one of b's transactions.
async fn replay(server: &Server, database: &str, origin: &str) -> Client {
    let client = server.connect("postgres", database).await;
    client
        .batch_execute(&format!(
            "create table if not exists t (id bigint primary key);
             set synchronous_commit = off;
             set session_replication_role = replica;
             select pg_replication_origin_create('{origin}')
              where not exists (select from pg_replication_origin where roname = '{origin}');
             select pg_replication_origin_session_setup('{origin}')"
        ))
        .await
        .expect("replay session");
    client
}

/// One transaction of b, whose commit ended at `n` bytes of b's WAL.
fn transaction(n: u64) -> String {
    format!(
        "begin;
         select pg_replication_origin_xact_setup('{:X}/{:X}', clock_timestamp());
         insert into t values ({n});
         commit",
        n >> 32,
        n & 0xffff_ffff
    )
}

#[tokio::test]
async fn returns_once_the_position_is_applied() {
    for server in own_servers() {
        let client = set_up(&server, "shop").await;
        assert!(one::<bool>(&client, "select everywrite.wait_for('a', 'FF/0', '10 s')").await);

        let started = Instant::now();
        let never = "select everywrite.wait_for('b', '0/64', '60 ms')";
        assert!(
            !one::<bool>(&client, never).await,
            "b has no replication origin yet"
        );
        assert!(started.elapsed() >= Duration::from_millis(60));

        let first = replay(&server, "shop", ORIGINS[0]).await;
        first
            .batch_execute(&transaction(99))
            .await
            .expect("replays");
        assert!(!one::<bool>(&client, never).await, "one byte short");

        let wait = "select everywrite.wait_for('b', '0/64')";
        let started = Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            first
                .batch_execute(&transaction(100))
                .await
                .expect("replays");
        };
        let (reached, ()) = tokio::join!(one::<bool>(&client, wait), later);
        assert!(reached);
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(200) && took < Duration::from_secs(3),
            "{took:?}"
        );
        assert!(one::<bool>(&client, "select exists (select from t where id = 100)").await);

        // What comes next is applied in the second session.
        let never = "select everywrite.wait_for('b', '0/C8', '60 ms')";
        assert!(!one::<bool>(&client, never).await);
        let second = replay(&server, "shop", ORIGINS[1]).await;
        assert!(
            !one::<bool>(&client, never).await,
            "an origin without progress"
        );
        second
            .batch_execute(&transaction(200))
            .await
            .expect("replays");
        assert!(one::<bool>(&client, "select everywrite.wait_for('b', '0/C8')").await);
        assert!(one::<bool>(&client, wait).await, "and what came before");
    }
}

#[tokio::test]
async fn says_when_it_cannot_help() {
    for server in servers() {
        let client = set_up(&server, "refusals").await;
        let (text, _, hint) = refusal(&client, "select everywrite.wait_for('zz', '0/1')").await;
        assert_eq!(text, "there is no site named \"zz\"");
        assert_eq!(hint, "The sites are: a, b, c.");
        let kept = "begin isolation level repeatable read;
                    select everywrite.wait_for('b', '0/1')";
        let (text, _, hint) = refusal(&client, kept).await;
        assert!(text.contains("keeps its snapshot"), "{text}");
        assert!(hint.contains("READ COMMITTED"), "{hint}");
        client.batch_execute("rollback").await.expect("ends");

        let inside = "begin; create table mine (); select everywrite.last_commit()";
        let (text, _, hint) = refusal(&client, inside).await;
        assert!(text.contains("already written"), "{text}");
        assert!(hint.contains("Commit first"), "{hint}");
        client.batch_execute("rollback").await.expect("ends");
    }
}

#[tokio::test]
async fn last_commit_is_behind_what_was_committed_and_before_its_own_mark() {
    for server in servers() {
        let client = set_up(&server, "marks").await;
        client
            .batch_execute("create table mine (id int)")
            .await
            .expect("table");
        for n in 0..50 {
            client
                .batch_execute(&format!("insert into mine values ({n})"))
                .await
                .expect("write");
            let committed: tokio_postgres::types::PgLsn =
                one(&client, "select pg_current_wal_insert_lsn()").await;
            let named: tokio_postgres::types::PgLsn =
                one(&client, "select everywrite.last_commit()").await;
            let after: tokio_postgres::types::PgLsn =
                one(&client, "select pg_current_wal_insert_lsn()").await;
            assert!(
                committed <= named && named < after,
                "{committed} {named} {after}"
            );
        }
    }
}

/// Lets commits of sessions with `synchronous_commit = on` hang: they have moved the progress and
/// show no row yet. The server needs a moment to take the setting, so tries until one hangs.
async fn hanging_commit(client: &Client, replay: Client) -> (u64, tokio::task::JoinHandle<()>) {
    let hang = "alter system set synchronous_standby_names = 'nobody'";
    client.batch_execute(hang).await.expect("set");
    one::<bool>(client, "select pg_reload_conf()").await;
    let settings = "set synchronous_commit = on";
    replay.batch_execute(settings).await.expect("set");
    let replay = Arc::new(replay);
    let mut number = 100;
    loop {
        let session = Arc::clone(&replay);
        let text = transaction(number);
        let commit =
            tokio::spawn(async move { session.batch_execute(&text).await.expect("commits") });
        while !commit.is_finished() {
            let hangs = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
            if one::<bool>(client, hangs).await {
                return (number, commit);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        number += 1;
    }
}

#[tokio::test]
async fn a_commit_that_is_not_visible_yet_is_waited_for() {
    for (server, origin) in ORIGINS
        .iter()
        .flat_map(|origin| own_servers().map(move |server| (server, origin)))
    {
        let client = set_up(&server, "shop").await;
        let replay = replay(&server, "shop", origin).await;
        client
            .batch_execute("set synchronous_commit = off")
            .await
            .expect("set");
        let (number, commit) = hanging_commit(&client, replay).await;

        let progress =
            format!("select pg_replication_origin_progress('{origin}', false) = '0/{number:X}'");
        assert!(one::<bool>(&client, &progress).await, "progress has moved");
        let there = format!("select exists (select from t where id = {number})");
        assert!(!one::<bool>(&client, &there).await, "the row is invisible");
        let short = format!("select everywrite.wait_for('b', '0/{number:X}', '300 ms')");
        assert!(!one::<bool>(&client, &short).await);

        let release = "alter system reset synchronous_standby_names";
        client.batch_execute(release).await.expect("reset");
        one::<bool>(&client, "select pg_reload_conf()").await;
        let wait = format!("select everywrite.wait_for('b', '0/{number:X}', '20 s')");
        assert!(one::<bool>(&client, &wait).await);
        assert!(one::<bool>(&client, &there).await);
        commit.await.expect("commits in the end");
    }
}

#[tokio::test]
async fn what_was_waited_for_can_be_read() {
    for server in own_servers() {
        let client = set_up(&server, "shop").await;
        let first = replay(&server, "shop", ORIGINS[0]).await;
        let second = replay(&server, "shop", ORIGINS[1]).await;
        let transactions = async {
            for n in 1..=300 {
                let turn = if n % 3 == 0 { &second } else { &first };
                turn.batch_execute(&transaction(n)).await.expect("replays");
            }
        };
        let waits = async {
            for n in 1..=300 {
                let wait = format!("select everywrite.wait_for('b', '0/{n:X}', '20 s')");
                assert!(one::<bool>(&client, &wait).await);
                let there = format!("select exists (select from t where id = {n})");
                assert!(one::<bool>(&client, &there).await, "transaction {n}");
            }
        };
        tokio::join!(transactions, waits);
    }
}

/// The rights that `docs/guide/real-servers.md` lists are enough, and the daemon's role sees what
/// its own sessions are doing.
#[tokio::test]
async fn works_for_an_owner_without_superuser() {
    for server in own_servers() {
        let superuser = server.database("shop").await;
        superuser
            .batch_execute(
                "create role everywrite login replication;
                 create schema everywrite authorization everywrite;
                 create schema data authorization everywrite;
                 grant set on parameter session_replication_role to everywrite;
                 grant execute on function
                     pg_replication_origin_create(text),
                     pg_replication_origin_drop(text),
                     pg_replication_origin_oid(text),
                     pg_replication_origin_progress(text, boolean),
                     pg_replication_origin_advance(text, pg_lsn),
                     pg_replication_origin_session_setup(text),
                     pg_replication_origin_session_reset(),
                     pg_replication_origin_session_is_setup(),
                     pg_replication_origin_session_progress(boolean),
                     pg_replication_origin_xact_setup(pg_lsn, timestamp with time zone),
                     pg_replication_origin_xact_reset()
                     to everywrite;
                 create role app login;
                 grant usage on schema data to app",
            )
            .await
            .expect("rights");
        let daemon = server.connect("everywrite", "shop").await;
        migrate(&daemon).await.expect("migrate");
        register_nodes(&daemon, NodeId(1), &sites(&["a", "b"]))
            .await
            .expect("register");
        let replay = server.connect("everywrite", "shop").await;
        replay
            .batch_execute(
                "create table data.t (id bigint primary key);
                 grant select on data.t to app;
                 set search_path = data;
                 set synchronous_commit = off;
                 set session_replication_role = replica;
                 select pg_replication_origin_create('everywrite_2');
                 select pg_replication_origin_session_setup('everywrite_2')",
            )
            .await
            .expect("replay session");
        let app = server.connect("app", "shop").await;
        let transactions = async {
            for n in 1..=100 {
                replay
                    .batch_execute(&transaction(n))
                    .await
                    .expect("replays");
            }
        };
        let waits = async {
            for n in 1..=100 {
                let wait = format!("select everywrite.wait_for('b', '0/{n:X}', '20 s')");
                assert!(one::<bool>(&app, &wait).await);
                let there = format!("select exists (select from data.t where id = {n})");
                assert!(one::<bool>(&app, &there).await, "transaction {n}");
            }
        };
        tokio::join!(transactions, waits);
        app.batch_execute("select everywrite.last_commit()")
            .await
            .expect("any role may");
    }
}
