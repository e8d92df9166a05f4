//! Streams of real servers.

use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::{Lsn, Stamp};
use pg_walstream::protocol::{LogicalReplicationMessage as Theirs, LogicalReplicationParser};

use super::*;
use crate::pg::pgoutput::{self, Cell, Message, Tuple};
use crate::pg::pipeline::Session;
use crate::pg::sqlstate::Class;
use crate::pg::test_server::TestServer;
use crate::pg::{Error, Target};

/// A database with a publication of everything and a slot, and a session in it.
async fn publisher(server: &TestServer) -> (Target, Session, String) {
    let target = server.database().await;
    let mut session = Session::connect(&target, &[]).await.unwrap();
    session
        .query_simple("create publication everywrite for all tables")
        .await
        .unwrap();
    // Slots have names of the whole server.
    let slot = format!("slot_{}", target.database);
    let client = target.client().await.unwrap();
    create_slot(&client, &slot).await.unwrap();
    (target, session, slot)
}

fn options() -> Options {
    Options::new("everywrite")
}

/// The end of the server's WAL.
async fn wal_end(session: &mut Session) -> Lsn {
    let rows = session
        .query_simple("select pg_current_wal_lsn()")
        .await
        .unwrap();
    let cell = rows[0].rows[0][0].clone().unwrap();
    std::str::from_utf8(&cell).unwrap().parse().unwrap()
}

/// All payloads up to the message with this content.
async fn until(stream: &mut Stream, feedback: &Feedback, end: &[u8]) -> Vec<Bytes> {
    let mut payloads = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.next());
        match next.await.unwrap().unwrap().unwrap() {
            Event::Data { payload, .. } => {
                let done = payload.first() == Some(&b'M') && payload.ends_with(end);
                payloads.push(payload);
                if done {
                    return payloads;
                }
            }
            Event::Keepalive {
                reply_requested: true,
                ..
            } => {
                feedback.send(Lsn(1), Lsn(1), Lsn(1), false).await.unwrap();
            }
            Event::Keepalive { .. } => {}
        }
    }
}

const END: &str = "select pg_logical_emit_message(false, 'test', 'the end')";

const WORKLOAD: &str = r#"
create type mood as enum ('sad', 'happy');
create table plain (id int primary key, t text, b bytea, n numeric, j jsonb, a int[], at timestamptz, m mood, p point);
create table "Whole ""row" (a int, b text, c xid8);
alter table "Whole ""row" replica identity full;
create table nokey (a int, b text);
create table toasted (id int primary key, big text, small int);
alter table toasted alter big set storage external;
create schema "grüße"; create table "grüße"."täble" (schlüssel text primary key);
create table none ();
insert into plain values (1, 'one', '\x00ff', 1.5e20, '{"a": [1, null]}', '{1,null,3}', '2026-01-02 03:04:05.678901+00', 'happy', '(1,2)'),
                         (2, null, null, 'NaN', null, '{}', '-infinity', null, null), (3, '', '', 0, '""', null, 'infinity', 'sad', null);
update plain set t = 'uno' where id = 1;
update plain set id = 10 where id = 2;
delete from plain where id = 3;
insert into "Whole ""row" values (1, 'x', '5'), (2, null, null);
update "Whole ""row" set b = 'y' where a = 1;
delete from "Whole ""row";
insert into nokey values (1, 'a');
insert into toasted values (1, repeat('0123456789', 1000), 1);
update toasted set small = 2;
update toasted set big = repeat('9876543210', 1000);
update toasted set id = 2;
insert into "grüße"."täble" values ('ä');
insert into none default values;
begin; insert into plain (id) values (100); savepoint a; insert into plain (id) values (101); rollback to a;
insert into plain (id) values (102); commit;
select pg_logical_emit_message(true, 'everywrite', 'in a transaction');
select pg_logical_emit_message(false, 'everywrite', '\x0001'::bytea);
truncate plain, toasted restart identity cascade;
truncate nokey;
alter table nokey add column c int default 7;
insert into nokey values (2);
"#;

/// More than `logical_decoding_work_mem`, so it comes in blocks before it ends.
const STREAMED: &str = "
begin;
insert into plain (id, t) select i, repeat('x', 200) from generate_series(1000, 3000) i;
savepoint a;
select pg_logical_emit_message(true, 'everywrite', 'streamed');
insert into plain (id, t) select i, repeat('y', 200) from generate_series(4000, 6000) i;
rollback to a;
savepoint b;
update plain set t = 'z' where id between 1000 and 2000;
delete from plain where id > 2990;
create table made_inside (id int primary key); insert into made_inside values (1);
release b;
";

#[tokio::test]
async fn both_decoders_read_the_same_from_what_real_servers_send() {
    for server in TestServer::all() {
        for (binary, streaming) in [(true, true), (false, true), (true, false)] {
            let (target, mut session, slot) = publisher(&server).await;
            for sql in [WORKLOAD, STREAMED, "commit", STREAMED, "rollback", END] {
                // "made_inside" must not be there twice.
                session.query_simple(sql).await.unwrap();
                if sql == "commit" {
                    session
                        .query_simple("drop table made_inside; truncate plain")
                        .await
                        .unwrap();
                }
            }
            let options = Options {
                binary,
                streaming,
                ..options()
            };
            let (mut stream, feedback) = start(&target, &slot, Lsn::ZERO, &options).await.unwrap();
            let payloads = until(&mut stream, &feedback, b"the end").await;
            compare(&payloads, if server.version >= 16 { 4 } else { 3 });

            let tags: std::collections::BTreeSet<char> = payloads
                .iter()
                .map(|payload| char::from(payload[0]))
                .collect();
            let expected = if streaming {
                "ABCDEIMRSTUYc"
            } else {
                "BCDIMRTUY"
            };
            assert_eq!(
                tags.into_iter().collect::<String>(),
                expected,
                "every message was seen"
            );
            feedback.finish().await.unwrap();
            while let Some(_rest) = stream.next().await.unwrap() {}
        }
    }
}

fn compare(payloads: &[Bytes], protocol: u32) {
    let mut parser = LogicalReplicationParser::with_protocol_version(protocol);
    let mut streaming = false;
    let mut unchanged = 0;
    for payload in payloads {
        let ours = pgoutput::decode(payload, streaming).unwrap();
        let theirs = parser.parse_wal_message(payload).unwrap();
        match ours {
            Message::StreamStart { .. } => streaming = true,
            Message::StreamStop => streaming = false,
            Message::Update { new, .. } => {
                unchanged += new.iter().filter(|cell| *cell == Cell::Unchanged).count();
            }
            _ => {}
        }
        same(&ours, theirs.xid, &theirs.message);
    }
    assert!(unchanged > 0, "a TOASTed value was left out");
}

/// A trap for whoever gathers streamed transactions: changes name the subtransaction that made them,
/// messages always the top-level one. The abort of a subtransaction does not tell which messages
/// went with it.
#[tokio::test]
async fn messages_in_a_stream_block_name_the_top_level_transaction() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        session
            .query_simple("create table plain (id int primary key, t text)")
            .await
            .unwrap();
        for sql in [STREAMED, "commit", END] {
            session.query_simple(sql).await.unwrap();
        }
        let (mut stream, feedback) = start(&target, &slot, Lsn::ZERO, &options()).await.unwrap();
        let payloads = until(&mut stream, &feedback, b"the end").await;
        let mut top = None;
        let mut inserters = std::collections::BTreeSet::new();
        let mut aborted = Vec::new();
        let mut messages = Vec::new();
        for payload in &payloads {
            match pgoutput::decode(payload, top.is_some()).unwrap() {
                Message::StreamStart { xid, .. } => top = Some(xid),
                Message::StreamStop => top = None,
                Message::Insert { xid, .. } => drop(inserters.insert(xid.unwrap())),
                Message::Message {
                    transactional: true,
                    xid,
                    ..
                } => messages.push((xid, top)),
                Message::StreamAbort { xid, subxid, .. } => aborted.push((xid, subxid)),
                _ => {}
            }
        }
        let [(xid, subxid)] = aborted[..] else {
            panic!("one subtransaction was rolled back: {aborted:?}")
        };
        assert!(xid != subxid && inserters.contains(&subxid) && inserters.contains(&xid));
        assert_eq!(messages, [(Some(xid), Some(xid))]);
    }
}

fn same(ours: &Message<'_>, change_xid: Option<u32>, theirs: &Theirs) {
    let message = format!("{ours:?}");
    match (*ours, theirs) {
        (
            Message::Begin {
                final_lsn,
                commit_time,
                xid,
            },
            Theirs::Begin {
                final_lsn: l,
                timestamp,
                xid: x,
            },
        ) => {
            assert_eq!(
                (final_lsn, commit_time, xid),
                (Lsn(*l), Stamp(*timestamp), *x)
            );
        }
        (
            Message::Commit {
                commit_lsn,
                end_lsn,
                commit_time,
            },
            Theirs::Commit {
                commit_lsn: c,
                end_lsn: e,
                timestamp,
                ..
            },
        ) => assert_eq!(
            (commit_lsn, end_lsn, commit_time),
            (Lsn(*c), Lsn(*e), Stamp(*timestamp))
        ),
        (
            Message::Relation(relation),
            Theirs::Relation {
                relation_id,
                namespace,
                relation_name,
                replica_identity,
                columns,
            },
        ) => {
            let owned = relation.to_owned();
            assert_eq!(
                (owned.id, owned.replica_identity),
                (*relation_id, *replica_identity)
            );
            assert_eq!(
                (&*owned.namespace, &*owned.name),
                (&**namespace, &**relation_name)
            );
            assert_eq!(owned.columns.len(), columns.len());
            for (ours, theirs) in owned.columns.iter().zip(columns) {
                assert_eq!((ours.key, &*ours.name), (theirs.is_key(), &*theirs.name));
                assert_eq!(
                    (ours.type_oid, ours.type_modifier),
                    (theirs.type_id, theirs.type_modifier)
                );
            }
        }
        (
            Message::Type {
                oid,
                namespace,
                name,
            },
            Theirs::Type {
                type_id,
                namespace: n,
                type_name,
            },
        ) => {
            assert_eq!((oid, namespace, name), (*type_id, &**n, &**type_name));
        }
        (Message::Insert { xid, relation, new }, Theirs::Insert { relation_id, tuple }) => {
            assert_eq!((xid, relation), (change_xid, *relation_id));
            same_tuple(&new, tuple);
        }
        (
            Message::Update {
                xid,
                relation,
                key,
                old,
                new,
            },
            Theirs::Update {
                relation_id,
                old_tuple,
                new_tuple,
                key_type,
            },
        ) => {
            assert_eq!((xid, relation), (change_xid, *relation_id));
            same_tuple(&new, new_tuple);
            let before = match key_type {
                Some('K') => key,
                Some('O') => old,
                _ => None,
            };
            assert_eq!(before.is_some(), old_tuple.is_some());
            assert_eq!(before.is_some(), key.or(old).is_some());
            if let (Some(ours), Some(theirs)) = (before, old_tuple) {
                same_tuple(&ours, theirs);
            }
        }
        (
            Message::Delete {
                xid,
                relation,
                key,
                old,
            },
            Theirs::Delete {
                relation_id,
                old_tuple,
                key_type,
            },
        ) => {
            assert_eq!((xid, relation), (change_xid, *relation_id));
            same_tuple(
                &if *key_type == 'K' { key } else { old }.unwrap(),
                old_tuple,
            );
        }
        (
            Message::Truncate {
                xid,
                relations,
                cascade,
                restart_identity,
            },
            Theirs::Truncate {
                relation_ids,
                flags,
            },
        ) => {
            assert_eq!(xid, change_xid);
            assert_eq!(relations.iter().collect::<Vec<_>>(), *relation_ids);
            assert_eq!(u8::from(cascade) + 2 * u8::from(restart_identity), *flags);
        }
        (
            Message::Message {
                xid,
                transactional,
                lsn,
                prefix,
                content,
            },
            Theirs::Message {
                flags,
                lsn: l,
                prefix: p,
                content: c,
            },
        ) => {
            assert_eq!(
                (xid, transactional, lsn),
                (change_xid, *flags == 1, Lsn(*l))
            );
            assert_eq!((prefix, content), (&**p, &**c));
        }
        (
            Message::StreamStart { xid, first },
            Theirs::StreamStart {
                xid: x,
                first_segment,
            },
        ) => {
            assert_eq!((xid, first), (*x, *first_segment));
        }
        (Message::StreamStop, Theirs::StreamStop) => {}
        (
            Message::StreamCommit {
                xid,
                commit_lsn,
                end_lsn,
                commit_time,
            },
            Theirs::StreamCommit {
                xid: x,
                commit_lsn: c,
                end_lsn: e,
                timestamp,
                ..
            },
        ) => assert_eq!(
            (xid, commit_lsn, end_lsn, commit_time),
            (*x, Lsn(*c), Lsn(*e), Stamp(*timestamp))
        ),
        (
            Message::StreamAbort {
                xid,
                subxid,
                abort_lsn,
                abort_time,
            },
            Theirs::StreamAbort {
                xid: x,
                subtransaction_xid,
                abort_lsn: l,
                abort_timestamp,
            },
        ) => {
            assert_eq!((xid, subxid), (*x, *subtransaction_xid));
            assert_eq!(abort_lsn, l.map(Lsn));
            assert_eq!(abort_time, abort_timestamp.map(Stamp));
        }
        (_, other) => panic!("{message} is for them {other:?}"),
    }
}

fn same_tuple(ours: &Tuple<'_>, theirs: &pg_walstream::protocol::TupleData) {
    assert_eq!(ours.len(), theirs.column_count());
    for (ours, theirs) in ours.iter().zip(&theirs.columns) {
        match ours {
            Cell::Null => assert!(theirs.is_null()),
            Cell::Unchanged => assert!(theirs.is_unchanged()),
            Cell::Text(value) => assert!(theirs.is_text() && theirs.as_bytes() == value),
            Cell::Binary(value) => assert!(theirs.is_binary() && theirs.as_bytes() == value),
        }
    }
}

#[tokio::test]
async fn the_three_positions_reach_the_server_apart_and_at_once() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        session
            .query_simple("create table t (id int primary key); insert into t values (1)")
            .await
            .unwrap();
        let end = wal_end(&mut session).await;
        let positions = [end.0, end.0 - 16, end.0 - 32].map(Lsn);

        let named = target.named(format!("feedback_{slot}"));
        let (stream, feedback) = start(&named, &slot, Lsn::ZERO, &options()).await.unwrap();
        // Nobody reads the stream, and clones of the sender work from other tasks.
        let [write, flush, apply] = positions;
        let clone = feedback.clone();
        tokio::spawn(async move { clone.send(write, flush, apply, false).await })
            .await
            .unwrap()
            .unwrap();
        let sql = format!(
            "select coalesce(write_lsn || ' ' || flush_lsn || ' ' || replay_lsn, '')
               from pg_stat_replication where application_name = 'feedback_{slot}'"
        );
        let expected = format!("{write} {flush} {apply}");
        let seen = async {
            loop {
                let rows = session.query_simple(&sql).await.unwrap();
                let seen = rows[0].rows[0][0].clone().unwrap();
                if seen == expected.as_bytes() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .unwrap();

        let client = target.client().await.unwrap();
        let found = find_slot(&client, &slot).await.unwrap().unwrap();
        assert_eq!(found.confirmed_flush, Some(flush));
        assert_eq!(found.plugin.as_deref(), Some("pgoutput"));
        assert_eq!(found.database.as_deref(), Some(&*target.database));
        assert!(found.active_pid.is_some() && found.restart_lsn.is_some());
        drop(stream);
    }
}

#[tokio::test]
async fn feedback_keeps_a_stream_alive_that_nobody_reads() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        session
            .query_simple("create table t (id int, v text)")
            .await
            .unwrap();
        // More than the sockets hold, so the walsender is blocked for longer than its timeout (3 s).
        let fill = "insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i";
        session.query_simple(fill).await.unwrap();
        session.query_simple(END).await.unwrap();
        let (mut stream, feedback) = start(&target, &slot, Lsn::ZERO, &options()).await.unwrap();
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            feedback.send(Lsn(1), Lsn(1), Lsn(1), false).await.unwrap();
        }
        let payloads = until(&mut stream, &feedback, b"the end").await;
        assert_eq!(
            payloads.iter().filter(|payload| payload[0] == b'I').count(),
            20_000
        );
    }
}

#[tokio::test]
async fn a_stream_ends_cleanly_and_goes_on_where_it_was_confirmed() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        session
            .query_simple("create table t (id int primary key); insert into t values (1)")
            .await
            .unwrap();
        session.query_simple(END).await.unwrap();
        let (mut stream, feedback) = start(&target, &slot, Lsn::ZERO, &options()).await.unwrap();
        assert_eq!(stream.server_version(), server.version);
        let payloads = until(&mut stream, &feedback, b"the end").await;
        let position = payloads
            .iter()
            .find_map(|payload| match pgoutput::decode(payload, false) {
                Ok(Message::Commit { end_lsn, .. }) => Some(end_lsn),
                _ => None,
            });
        let position = position.unwrap();
        feedback
            .send(position, position, position, true)
            .await
            .unwrap();
        // A reply was asked for.
        loop {
            if let Event::Keepalive { sent_at, .. } = stream.next().await.unwrap().unwrap() {
                assert!(sent_at > Stamp(0));
                break;
            }
        }
        feedback.finish().await.unwrap();
        while let Some(_event) = stream.next().await.unwrap() {}
        assert_eq!(stream.next().await.unwrap(), None);
        drop((stream, feedback));

        session
            .query_simple("insert into t values (2)")
            .await
            .unwrap();
        let end = "select pg_logical_emit_message(false, 'test', 'the second end')";
        session.query_simple(end).await.unwrap();
        let (mut stream, feedback) = again(&target, &slot).await;
        let payloads = until(&mut stream, &feedback, b"the second end").await;
        let inserts = payloads.iter().filter(|payload| payload[0] == b'I').count();
        assert_eq!(inserts, 1, "the first one was confirmed");
    }
}

/// Starts, also while the server has not noticed yet that the last stream is over.
async fn again(target: &Target, slot: &str) -> (Stream, Feedback) {
    loop {
        match start(target, slot, Lsn::ZERO, &options()).await {
            Ok(started) => return started,
            Err(error) => {
                assert_eq!(
                    (error.code(), error.class()),
                    (Some("55006"), Class::Retry),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test]
async fn what_was_replayed_from_elsewhere_is_left_out_or_marked() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        let origin = format!("everywrite_{}", target.database);
        let sql = format!(
            "create table t (id int primary key);
             select pg_replication_origin_create('{origin}');
             select pg_replication_origin_session_setup('{origin}');
             begin; select pg_replication_origin_xact_setup('0/99', '2001-01-01');
             insert into t values (1); commit;
             select pg_replication_origin_session_reset();
             insert into t values (2);"
        );
        session.query_simple(&sql).await.unwrap();
        session.query_simple(END).await.unwrap();
        for origin_none in [true, false] {
            let options = Options {
                origin_none,
                ..options()
            };
            let (mut stream, feedback) = loop {
                match start(&target, &slot, Lsn::ZERO, &options).await {
                    Ok(started) => break started,
                    Err(error) => assert_eq!(error.code(), Some("55006"), "{error}"),
                }
            };
            let payloads = until(&mut stream, &feedback, b"the end").await;
            let filtered = origin_none && server.version >= 16;
            let inserts = payloads.iter().filter(|payload| payload[0] == b'I').count();
            assert_eq!(inserts, if filtered { 1 } else { 2 });
            let marks: Vec<_> = payloads
                .iter()
                .filter_map(|payload| match pgoutput::decode(payload, false) {
                    Ok(Message::Origin { lsn, name }) => Some((lsn, name.to_owned())),
                    _ => None,
                })
                .collect();
            let expected = if filtered {
                vec![]
            } else {
                vec![(Lsn(0x99), origin.clone())]
            };
            assert_eq!(marks, expected);
        }
    }
}

#[tokio::test]
async fn a_large_value_comes_whole_and_in_order() {
    for server in TestServer::all() {
        let (target, mut session, slot) = publisher(&server).await;
        let sql = "create table t (id int primary key, v text);
                   alter table t alter v set storage external;
                   insert into t values (1, 'small'), (2, repeat('x', 20000000)), (3, 'small')";
        session.query_simple(sql).await.unwrap();
        session.query_simple(END).await.unwrap();
        let options = Options {
            streaming: false,
            ..options()
        };
        let (mut stream, feedback) = start(&target, &slot, Lsn::ZERO, &options).await.unwrap();
        let payloads = until(&mut stream, &feedback, b"the end").await;
        let sizes: Vec<usize> = payloads
            .iter()
            .filter_map(|payload| match pgoutput::decode(payload, false) {
                Ok(Message::Insert { new, .. }) => new.iter().nth(1),
                _ => None,
            })
            .map(|cell| match cell {
                Cell::Text(value) | Cell::Binary(value) => value.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(sizes, [5, 20_000_000, 5]);
    }
}

#[tokio::test]
async fn next_may_be_cancelled_at_any_time() {
    let Some(server) = TestServer::all().next() else {
        return;
    };
    let (target, mut session, slot) = publisher(&server).await;
    session
        .query_simple("create table t (id int, v text)")
        .await
        .unwrap();
    let fill = "insert into t select i, repeat('x', i % 5000) from generate_series(1, 5000) i";
    session.query_simple(fill).await.unwrap();
    session.query_simple(END).await.unwrap();
    let options = Options {
        streaming: false,
        ..options()
    };
    let (mut stream, _feedback) = start(&target, &slot, Lsn::ZERO, &options).await.unwrap();
    let (mut inserts, mut cancelled) = (0, 0);
    loop {
        let next = tokio::time::timeout(Duration::from_micros(100), stream.next()).await;
        match next {
            Ok(Ok(Some(Event::Data { payload, .. }))) => match pgoutput::decode(&payload, false) {
                Ok(Message::Insert { .. }) => inserts += 1,
                Ok(Message::Message { .. }) => break,
                other => drop(other.unwrap()),
            },
            Ok(other) => drop(other.unwrap()),
            Err(_) => cancelled += 1,
        }
        while let Some(event) = stream.buffered().unwrap() {
            if let Event::Data { payload, .. } = event {
                inserts += usize::from(payload[0] == b'I');
                if payload[0] == b'M' {
                    assert_eq!(inserts, 5000);
                    return;
                }
            }
        }
    }
    assert!(inserts == 5000 && cancelled > 0);
}

#[tokio::test]
async fn an_exported_snapshot_sees_what_the_slot_does_not_bring() {
    for server in TestServer::all() {
        let (target, mut session, _slot) = publisher(&server).await;
        session
            .query_simple("create table t (id int); insert into t values (1)")
            .await
            .unwrap();
        let name = format!("exported_{}", target.database);
        let exported = create_slot_exporting(&target, &name).await.unwrap();
        session
            .query_simple("insert into t values (2)")
            .await
            .unwrap();
        let sql = format!(
            "begin isolation level repeatable read; set transaction snapshot '{}';
             select count(*) from t; commit",
            exported.snapshot
        );
        let outcomes = session.query_simple(&sql).await.unwrap();
        assert_eq!(outcomes[2].rows[0][0].as_deref(), Some(&b"1"[..]));
        let client = target.client().await.unwrap();
        let slot = find_slot(&client, &name).await.unwrap().unwrap();
        assert_eq!(slot.confirmed_flush, Some(exported.start));
        drop_slot(&client, &name).await.unwrap();
        assert_eq!(find_slot(&client, &name).await.unwrap(), None);
    }
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    for server in TestServer::all() {
        let target = server.database().await;
        let error = start(&target, "no_such_slot", Lsn::ZERO, &options())
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), Some("42704"), "{error}");
        let client = target.client().await.unwrap();
        let error = drop_slot(&client, "no_such_slot").await.unwrap_err();
        assert!(matches!(error, Error::Query(_)));
        assert_eq!(error.code(), Some("42704"), "{error}");
        assert!(error.to_string().contains("no_such_slot"), "{error}");
    }
}
