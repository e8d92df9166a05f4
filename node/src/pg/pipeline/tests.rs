//! Batches against real servers.

use std::time::Duration;

use super::*;
use crate::pg::sqlstate::Class;
use crate::pg::test_server::{OLDEST, TestServer};
use crate::pg::{Error, Target};

const INT4: u32 = 23;
const BYTEA: u32 = 17;

async fn session(target: &Target) -> Session {
    Session::connect(target, &[]).await.unwrap()
}

/// A session on every version, in a database with a table `t(id int primary key, v text)`.
async fn sessions() -> Vec<(std::sync::Arc<TestServer>, Target, Session)> {
    let mut all = Vec::new();
    for server in TestServer::all() {
        let target = server.database().await;
        let mut session = session(&target).await;
        session
            .query_simple("create table t (id int primary key, v text)")
            .await
            .unwrap();
        all.push((server, target, session));
    }
    all
}

/// The first cell of the only row.
async fn one(session: &mut Session, sql: &str) -> String {
    let outcomes = session.query_simple(sql).await.unwrap();
    let cell = outcomes[0].rows[0][0].clone().unwrap();
    String::from_utf8(cell.to_vec()).unwrap()
}

fn statement_error(result: Result<Vec<Outcome>, Error>) -> (usize, String) {
    match result {
        Err(Error::Statement { index, error, .. }) => (index, error.code),
        other => panic!("expected the error of a statement, got {other:?}"),
    }
}

#[tokio::test]
async fn a_group_is_one_write_and_one_transaction() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        for round in 0..2_i32 {
            assert_eq!(batch.execute_sql("begin"), 0);
            if !session.is_prepared("ins") {
                batch.parse(
                    "ins",
                    "insert into t values ($1, $2) returning id, v",
                    &[INT4, 25],
                );
            }
            for i in 0..300_i32 {
                let id = (round * 300 + i).to_be_bytes();
                batch
                    .bind("ins")
                    .binary(Some(&id))
                    .text(Some(b"text"))
                    .execute();
            }
            assert_eq!(batch.execute_sql("commit"), 301);
            let outcomes = session.run(&mut batch).await.unwrap();
            assert_eq!(outcomes.len(), 302);
            assert!(batch.is_empty() && session.is_prepared("ins"));
            assert_eq!(outcomes[0], Outcome::default());
            for (i, outcome) in outcomes[1..=300].iter().enumerate() {
                assert_eq!(outcome.affected, 1);
                let id = round * 300 + i32::try_from(i).unwrap();
                let row = &outcome.rows[0];
                assert_eq!(row[0].as_deref(), Some(&id.to_be_bytes()[..]), "binary");
                assert_eq!(row[1].as_deref(), Some(&b"text"[..]));
            }
        }
        assert_eq!(one(&mut session, "select count(*) from t").await, "600");
        assert_eq!(session.status(), TransactionStatus::Idle);
    }
}

#[tokio::test]
async fn parameters_of_all_kinds() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        batch.parse(
            "",
            "select $1::int4, $2::int4, $3::text, $4::bytea, $5::int4",
            &[],
        );
        batch
            .bind("")
            .binary(Some(&7_i32.to_be_bytes()))
            .text(Some(b"-8"))
            .text(None)
            .param_with(Format::Binary, |out| out.extend_from_slice(b"\0\xff"))
            .param(Format::Text, Some(b"9"))
            .text_rows()
            .execute();
        batch.parse("", "select 1 where $1::int4 is null", &[]);
        batch.bind("").binary(None).execute();
        batch.execute_sql("");
        let outcomes = session.run(&mut batch).await.unwrap();
        let cells: Vec<_> = outcomes[0].rows[0].iter().map(Option::as_deref).collect();
        assert_eq!(
            cells,
            [
                Some(&b"7"[..]),
                Some(b"-8"),
                None,
                Some(b"\\x00ff"),
                Some(b"9")
            ]
        );
        assert_eq!((outcomes[1].affected, outcomes[1].rows.len()), (1, 1));
        assert_eq!(outcomes[2], Outcome::default(), "an empty statement");
    }
}

#[tokio::test]
async fn an_error_names_its_statement_and_the_session_goes_on() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        batch.execute_sql("begin");
        batch.parse("before", "insert into t values ($1, 'a')", &[INT4]);
        batch
            .bind("before")
            .binary(Some(&1_i32.to_be_bytes()))
            .execute();
        let failing = batch
            .bind("before")
            .binary(Some(&1_i32.to_be_bytes()))
            .execute();
        batch.parse("after", "select 1", &[]);
        batch.bind("after").execute();
        batch.execute_sql("commit");
        let result = session.run(&mut batch).await;
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.class(), Class::Park);
        let server = error.server().unwrap();
        assert_eq!(server.constraint.as_deref(), Some("t_pkey"));
        assert_eq!(server.table.as_deref(), Some("t"));
        assert!(server.detail.as_deref().unwrap().contains("(id)=(1)"));
        assert_eq!(statement_error(result), (failing, "23505".to_owned()));
        assert_eq!(session.status(), TransactionStatus::Failed);
        assert!(session.is_prepared("before") && !session.is_prepared("after"));
        assert!(!session.is_broken());

        batch.execute_sql("rollback");
        batch
            .bind("before")
            .binary(Some(&2_i32.to_be_bytes()))
            .execute();
        let outcomes = session.run(&mut batch).await.unwrap();
        assert_eq!(outcomes[1].affected, 1);
        assert_eq!(
            one(&mut session, "select min(id) || ',' || max(id) from t").await,
            "2,2"
        );

        // The implicit transaction rolls back as a whole.
        batch.execute_sql("insert into t values (3)");
        batch.execute_sql("select 1/0");
        batch.execute_sql("insert into t values (4)");
        assert_eq!(
            statement_error(session.run(&mut batch).await),
            (1, "22012".to_owned())
        );
        assert_eq!(session.status(), TransactionStatus::Idle);
        assert_eq!(one(&mut session, "select count(*) from t").await, "1");

        // A statement that cannot even be parsed counts like one that fails.
        batch.execute_sql("select 1");
        batch.parse("bad", "selekt", &[]);
        batch.bind("bad").execute();
        assert_eq!(
            statement_error(session.run(&mut batch).await),
            (1, "42601".to_owned())
        );
        assert!(!session.is_prepared("bad"));
    }
}

#[tokio::test]
async fn names_are_known_while_in_flight_and_forgotten_when_closed() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        batch.parse("a", "select 1", &[]);
        assert!(batch.parses("a") && !session.is_prepared("a"));
        session.send(&mut batch).await.unwrap();
        assert!(!batch.parses("a") && session.is_prepared("a"));
        batch.bind("a").execute();
        session.send(&mut batch).await.unwrap();
        assert_eq!(session.in_flight(), 2);
        assert_eq!(session.receive().await.unwrap(), []);
        assert_eq!(session.receive().await.unwrap().len(), 1);
        assert_eq!(session.in_flight(), 0);

        batch.close("a");
        batch.close("never there");
        session.send(&mut batch).await.unwrap();
        assert!(!session.is_prepared("a"));
        session.receive().await.unwrap();
        batch.parse("a", "select 2", &[]);
        session.run(&mut batch).await.unwrap();

        batch.parse("a", "select 3", &[]);
        let error = session.run(&mut batch).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (Some("42P05"), Class::Retry));
        assert!(session.is_prepared("a"));
        assert!(
            matches!(session.receive().await, Err(Error::Protocol(_))),
            "nothing was asked"
        );
        assert!(!session.is_broken());
    }
}

#[tokio::test]
async fn groups_in_one_write_fail_and_succeed_on_their_own() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        for id in [1, 2, 1, 3] {
            batch.execute_sql(&format!("insert into t values ({id})"));
            batch.sync();
        }
        // Recovery without a round trip.
        batch.execute_sql("begin");
        batch.execute_sql("insert into t values (10)");
        batch.execute_sql("savepoint s");
        batch.execute_sql("insert into t values (1)");
        batch.sync();
        batch.execute_sql("rollback to s");
        batch.execute_sql("insert into t values (11)");
        batch.execute_sql("commit");
        session.send(&mut batch).await.unwrap();
        assert_eq!(session.in_flight(), 6);
        assert!(session.receive().await.is_ok());
        assert!(session.receive().await.is_ok());
        assert_eq!(
            statement_error(session.receive().await),
            (0, "23505".to_owned())
        );
        assert!(session.receive().await.is_ok());
        assert_eq!(
            statement_error(session.receive().await),
            (3, "23505".to_owned())
        );
        assert_eq!(session.receive().await.unwrap().len(), 3);
        let ids = one(
            &mut session,
            "select string_agg(id::text, ',' order by id) from t",
        )
        .await;
        assert_eq!(ids, "1,2,3,10,11");
    }
}

/// Binary rows (id, v) for `t`.
fn copy_rows(copy: &mut CopyIn<'_>, ids: impl IntoIterator<Item = i32>, v: &[u8]) {
    for id in ids {
        copy.row(2);
        copy.field(Some(&id.to_be_bytes()));
        copy.field_with(|out| out.extend_from_slice(v));
    }
}

const COPY: &str = "copy t from stdin with (format binary)";

#[tokio::test]
async fn copy_in_the_middle_of_a_group() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        batch.execute_sql("begin");
        batch.execute_sql("insert into t values (-1, 'before')");
        let mut copy = batch.copy_in(COPY).binary();
        // Several messages, and one with a field that is longer than a message.
        copy_rows(&mut copy, 0..20_000, b"twenty bytes of text");
        copy_rows(&mut copy, 20_000..20_002, &vec![b'x'; 300_000]);
        let copied = copy.finish();
        let empty = batch.copy_in(COPY).binary().finish();
        let updated = batch.execute_sql("update t set v = 'after' where id < 100");
        let mut text = batch.copy_in("copy t from stdin");
        text.raw(b"30000\t\\N\n30001\t");
        text.raw(b"x\n");
        text.finish();
        batch.execute_sql("commit");
        let outcomes = session.run(&mut batch).await.unwrap();
        let affected: Vec<u64> = outcomes.iter().map(|outcome| outcome.affected).collect();
        assert_eq!(affected, [0, 1, 20_002, 0, 101, 2, 0]);
        assert_eq!((copied, empty, updated), (2, 3, 4));
        assert_eq!(one(&mut session, "select count(*) from t").await, "20005");
        let sum = "select sum(length(v)) from t where id >= 20000 and id < 30000";
        assert_eq!(one(&mut session, sum).await, "600000");
    }
}

#[tokio::test]
async fn a_copy_that_fails_leaves_the_session_usable() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        session
            .query_simple("insert into t values (15000)")
            .await
            .unwrap();
        for explicit in [false, true] {
            // Midway: a duplicate after much data, and much data after it.
            let first = usize::from(explicit);
            if explicit {
                batch.execute_sql("begin");
            }
            let mut copy = batch.copy_in(COPY).binary();
            copy_rows(&mut copy, 0..30_000, b"twenty bytes of text");
            copy.finish();
            batch.execute_sql("select 1");
            assert_eq!(
                statement_error(session.run(&mut batch).await),
                (first, "23505".to_owned())
            );
            if explicit {
                assert_eq!(session.status(), TransactionStatus::Failed);
                batch.execute_sql("rollback");
                session.run(&mut batch).await.unwrap();
            }

            // Before it begins: no such table.
            batch.execute_sql("select 1");
            let mut copy = batch
                .copy_in("copy nowhere from stdin (format binary)")
                .binary();
            copy_rows(&mut copy, 0..30_000, b"twenty bytes of text");
            copy.finish();
            assert_eq!(
                statement_error(session.run(&mut batch).await),
                (1, "42P01".to_owned())
            );

            // Skipped: what is before it fails.
            batch.execute_sql("select 1/0");
            let mut copy = batch.copy_in(COPY).binary();
            copy_rows(&mut copy, 0..30_000, b"twenty bytes of text");
            copy.finish();
            assert_eq!(
                statement_error(session.run(&mut batch).await),
                (0, "22012".to_owned())
            );

            // Not what the server understands.
            let mut copy = batch.copy_in(COPY);
            copy.raw(b"this is not the binary format");
            copy.finish();
            assert_eq!(
                statement_error(session.run(&mut batch).await),
                (0, "22P04".to_owned())
            );
        }
        assert_eq!(one(&mut session, "select count(*) from t").await, "1");
    }
}

#[tokio::test]
async fn builders_that_are_dropped_leave_no_trace() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        drop(batch.bind("nothing").binary(None));
        drop(batch.copy_in("nothing").binary());
        assert!(batch.is_empty());
        assert_eq!(batch.statements(), 0);
        session.send(&mut batch).await.unwrap();
        assert_eq!(session.in_flight(), 0, "no Sync for nothing");

        batch.execute_sql("select 1");
        drop(batch.bind("nothing"));
        let mut copy = batch.copy_in(COPY).binary();
        copy.row(2);
        drop(copy);
        batch.execute_sql("select 2");
        assert_eq!(session.run(&mut batch).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn what_the_protocol_cannot_express_is_refused_before_it_is_sent() {
    let Some(server) = TestServer::shared(OLDEST) else {
        return;
    };
    let mut session = session(&server.unix("postgres")).await;
    let mut batch = Batch::new();
    batch.execute_sql("select 1");
    batch.execute_sql("select '\0'");
    let error = session.run(&mut batch).await.unwrap_err();
    assert!(matches!(error, Error::ZeroByte { .. }), "{error}");
    assert!(batch.is_empty());

    batch.parse("", "select 1", &[]);
    let mut bind = batch.bind("");
    for _ in 0..65_536 {
        bind = bind.binary(None);
    }
    bind.execute();
    let error = session.run(&mut batch).await.unwrap_err();
    assert!(
        matches!(error, Error::TooManyParameters { count: 65_536 }),
        "{error}"
    );
    assert_eq!(one(&mut session, "select 1").await, "1");
}

#[tokio::test]
async fn a_copy_without_data_is_an_error_and_not_a_hang() {
    let Some(server) = TestServer::shared(OLDEST) else {
        return;
    };
    let mut session = session(&server.database().await).await;
    session
        .query_simple("create table t (id int)")
        .await
        .unwrap();
    let mut batch = Batch::new();
    batch.execute_sql("copy t from stdin");
    let error = session.run(&mut batch).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    assert!(session.is_broken());
    assert!(matches!(session.receive().await, Err(Error::Closed)));
}

#[tokio::test]
async fn both_sides_may_talk_more_than_the_sockets_hold() {
    for server in TestServer::all() {
        for target in [server.unix("postgres"), server.tcp("tls", None)] {
            let mut session = session(&target).await;
            let mut batch = Batch::new();
            let mut value = vec![b'x'; 100_000];
            batch.parse("echo", "select $1::bytea", &[BYTEA]);
            for i in 0..300_u32 {
                value[..4].copy_from_slice(&i.to_be_bytes());
                batch.bind("echo").binary(Some(&value)).execute();
            }
            let outcomes = session.run(&mut batch).await.unwrap();
            for (i, outcome) in (0_u32..).zip(&outcomes) {
                let cell = outcome.rows[0][0].as_deref().unwrap();
                assert_eq!((cell.len(), &cell[..4]), (100_000, &i.to_be_bytes()[..]));
            }
            assert_eq!(outcomes.len(), 300);
        }
    }
}

#[tokio::test]
async fn a_value_of_200_megabytes() {
    let Some(server) = TestServer::shared(OLDEST) else {
        return;
    };
    let mut session = session(&server.database().await).await;
    let mut batch = Batch::new();
    let value = vec![7_u8; 200 << 20];
    batch.parse("", "select $1::bytea", &[BYTEA]);
    batch.bind("").binary(Some(&value)).execute();
    let outcomes = session.run(&mut batch).await.unwrap();
    assert!(outcomes[0].rows[0][0].as_deref() == Some(&value[..]));
}

#[tokio::test]
async fn nothing_is_lost_when_calls_are_cancelled() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        let value = vec![b'x'; 50_000];
        batch.parse(
            "ins",
            "insert into t values ($1, $2) returning v",
            &[INT4, 25],
        );
        for i in 0..400_i32 {
            batch
                .bind("ins")
                .binary(Some(&i.to_be_bytes()))
                .text(Some(&value))
                .execute();
            batch.sync();
        }
        let mut cancelled = 0;
        let mut received = 0;
        let sending = session.send(&mut batch);
        if tokio::time::timeout(Duration::from_micros(500), sending)
            .await
            .is_err()
        {
            cancelled += 1;
        }
        assert!(batch.is_empty());
        while received < 400 {
            match tokio::time::timeout(Duration::from_micros(200), session.receive()).await {
                Ok(outcomes) => {
                    let outcomes = outcomes.unwrap();
                    assert_eq!(outcomes[0].rows[0][0].as_deref(), Some(&value[..]));
                    received += 1;
                }
                Err(_) => cancelled += 1,
            }
        }
        assert!(cancelled > 1, "the test must cancel something");
        assert_eq!(session.in_flight(), 0);
        assert_eq!(one(&mut session, "select count(*) from t").await, "400");
    }
}

#[tokio::test]
async fn the_origin_and_its_commit_time_survive_a_pipelined_transaction() {
    const SETUP: &str = "select pg_replication_origin_xact_setup($1, $2)";
    for server in TestServer::all() {
        let target = server.database().await;
        let origin = format!("everywrite_{}", target.database);
        let mut session = Session::connect(&target, &[("session_replication_role", "replica")])
            .await
            .unwrap();
        session
            .query_simple("create table t (id int primary key)")
            .await
            .unwrap();
        session
            .query_simple(&format!("select pg_replication_origin_create('{origin}')"))
            .await
            .unwrap();
        session
            .query_simple(&format!(
                "select pg_replication_origin_session_setup('{origin}')"
            ))
            .await
            .unwrap();
        let mut batch = Batch::new();
        batch.parse("setup", SETUP, &[]);
        batch.parse("ins", "insert into t values ($1)", &[INT4]);
        // 2001-01-01 00:00 and two seconds more, in microseconds since 2000.
        let stamps = [0, 1, 2].map(|second| 31_622_400_000_000_i64 + second * 1_000_000);
        for (i, stamp) in (0_i32..).zip(stamps) {
            batch.execute_sql("begin");
            batch
                .bind("setup")
                .binary(Some(&(0x1000 + u64::try_from(i).unwrap()).to_be_bytes()))
                .binary(Some(&stamp.to_be_bytes()))
                .execute();
            batch.bind("ins").binary(Some(&i.to_be_bytes())).execute();
            let mut copy = batch.copy_in("copy t from stdin (format binary)").binary();
            copy.row(1);
            copy.field(Some(&(100 + i).to_be_bytes()));
            copy.finish();
            batch.execute_sql("commit");
        }
        session.run(&mut batch).await.unwrap();
        let times = "select string_agg(extract(epoch from o.timestamp - '2001-01-01 00:00Z')::int
                       || ':' || (r.roname = current_setting('test.origin')), ',' order by id)
                     from t, pg_xact_commit_timestamp_origin(xmin) o
                     left join pg_replication_origin r on r.roident = o.roident";
        session
            .query_simple(&format!("set test.origin = '{origin}'"))
            .await
            .unwrap();
        assert_eq!(
            one(&mut session, times).await,
            "0:true,1:true,2:true,0:true,1:true,2:true"
        );
        let progress = "select pg_replication_origin_session_progress(false)";
        assert_eq!(one(&mut session, progress).await, "0/1002");
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_says_why() {
    for (_server, target, mut victim) in sessions().await {
        let mut killer = session(&target).await;
        let kill = format!(
            "select pg_terminate_backend({})",
            victim.process_id().unwrap()
        );
        // While it waits for a statement,
        let mut batch = Batch::new();
        batch.execute_sql("select 1");
        batch.execute_sql("select pg_sleep(60)");
        victim.send(&mut batch).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        killer.query_simple(&kill).await.unwrap();
        let error = victim.receive().await.unwrap_err();
        assert!(matches!(error, Error::Server(_)), "{error}");
        assert_eq!((error.code(), error.class()), (Some("57P01"), Class::Retry));
        assert!(victim.is_broken());
        assert!(matches!(victim.run(&mut batch).await, Ok(none) if none.is_empty()));
        batch.execute_sql("select 1");
        assert!(matches!(victim.run(&mut batch).await, Err(Error::Closed)));

        // while it is idle, and while it is being written to.
        for bytes in [1, 50_000_000] {
            let mut victim = session(&target).await;
            let pid = victim.process_id().unwrap();
            killer
                .query_simple(&format!("select pg_terminate_backend({pid}, 5000)"))
                .await
                .unwrap();
            let mut batch = Batch::new();
            batch.parse("", "select $1::bytea", &[BYTEA]);
            batch.bind("").binary(Some(&vec![0; bytes])).execute();
            let error = victim.run(&mut batch).await.unwrap_err();
            assert_eq!(error.code(), Some("57P01"), "{error}");
            assert!(victim.is_broken());
        }
    }
}

#[tokio::test]
async fn a_running_statement_can_be_cancelled_from_elsewhere() {
    for server in TestServer::all() {
        for target in [server.unix("postgres"), server.tcp("tls", None)] {
            let mut session = session(&target).await;
            let canceller = session.canceller().unwrap();
            let mut batch = Batch::new();
            batch.execute_sql("select pg_sleep(60)");
            session.send(&mut batch).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            canceller.cancel().await.unwrap();
            assert_eq!(
                statement_error(session.receive().await),
                (0, "57014".to_owned())
            );
            assert_eq!(one(&mut session, "select 1").await, "1");
        }
    }
}

#[tokio::test]
async fn a_statement_that_a_new_shape_of_the_table_spoils_is_worth_another_try() {
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        batch.parse("all", "select * from t", &[]);
        batch.bind("all").execute();
        session.run(&mut batch).await.unwrap();
        session
            .query_simple("alter table t add column more int")
            .await
            .unwrap();
        batch.bind("all").execute();
        let error = session.run(&mut batch).await.unwrap_err();
        assert!(error.server().unwrap().is_stale_plan(), "{error}");
        assert_eq!(error.class(), Class::Retry);
    }
}

/// As replay commits: statements, a simple query that the server runs only if they have succeeded, and one more.
#[tokio::test]
async fn a_group_with_a_simple_query_has_one_answer() {
    fn group(batch: &mut Batch, ids: &[i32], simple: &str, behind: &str) {
        batch.execute_sql("begin");
        for id in ids {
            batch.parse("", "insert into t values ($1)", &[INT4]);
            batch.bind("").binary(Some(&id.to_be_bytes())).execute();
        }
        batch.mark();
        batch.simple(simple, 2);
        batch.execute_sql(behind);
        batch.sync();
    }
    fn rollback(batch: &mut Batch) {
        batch.execute_sql("rollback");
        batch.sync();
    }
    let failed = |result: Result<Vec<Outcome>, Error>| match result {
        Err(Error::Statement {
            index,
            behind_mark,
            error,
        }) => (index, behind_mark, error.code),
        other => panic!("expected the error of a statement, got {other:?}"),
    };
    let text = |outcomes: &[Outcome], n: usize| outcomes[n].rows[0][0].clone().unwrap();
    for (_server, _target, mut session) in sessions().await {
        let mut batch = Batch::new();
        // All of them are on their way at once. The second fails before the simple query, of which nothing is run;
        group(&mut batch, &[1, 2], "select 'a'; commit", "select 'b'");
        group(&mut batch, &[3, 1, 4], "commit; select 1", "select 2");
        rollback(&mut batch);
        // the next one within it, before the commit, and behind it; and one behind all that.
        group(&mut batch, &[5], "select 1/0; commit", "select 3");
        rollback(&mut batch);
        group(&mut batch, &[6], "commit; select 1/0", "select 'c'");
        group(&mut batch, &[7], "select 4; commit", "select 1/0");
        batch.simple("select 'd'; select 5", 2);
        session.send(&mut batch).await.unwrap();
        assert_eq!(session.in_flight(), 8);
        let outcomes = session.receive().await.unwrap();
        assert_eq!(outcomes.len(), 6);
        assert_eq!(text(&outcomes, 3), "a");
        assert_eq!(text(&outcomes, 5), "b");
        let (unique, by_zero) = ("23505".to_owned(), "22012".to_owned());
        assert_eq!(failed(session.receive().await), (2, None, unique));
        session.receive().await.unwrap();
        assert_eq!(failed(session.receive().await).1, Some(0));
        session.receive().await.unwrap();
        assert_eq!(failed(session.receive().await), (3, Some(1), by_zero));
        assert_eq!(failed(session.receive().await).1, Some(2));
        let outcomes = session.receive().await.unwrap();
        assert_eq!((text(&outcomes, 0), outcomes.len()), ("d".into(), 2));
        assert_eq!(session.in_flight(), 0);
        assert_eq!(session.status(), TransactionStatus::Idle);
        let stands = "select string_agg(id::text, ',' order by id) from t";
        assert_eq!(one(&mut session, stands).await, "1,2,6,7");
    }
}

#[tokio::test]
async fn simple_queries_of_several_statements() {
    for (_server, _target, mut session) in sessions().await {
        let outcomes = session
            .query_simple("insert into t values (1), (2); select id, v from t order by id; ")
            .await
            .unwrap();
        assert_eq!(outcomes.len(), 2);
        assert_eq!((outcomes[0].affected, outcomes[1].affected), (2, 2));
        assert_eq!(outcomes[1].rows[1][0].as_deref(), Some(&b"2"[..]));
        assert_eq!(outcomes[1].rows[1][1], None);
        let result = session.query_simple("select 1; select 1/0; select 2").await;
        assert_eq!(statement_error(result), (1, "22012".to_owned()));
        session
            .query_simple("do $$ begin raise notice 'nobody hears it'; end $$")
            .await
            .unwrap();
    }
}
