use bytes::Bytes;
use everywrite_conflict::{Lsn, Position, Stamp, Version};

use super::*;
use crate::admin::message::{Command, KeyColumn, TravellingDelete, WalMessage};
use crate::admin::schema::{EMIT_OUTBOX, INSERT_OUTBOX, paused, skipped};

/// Contents of the messages with our prefix that a slot gives, as pgoutput sends them.
async fn messages(client: &Client) -> Vec<WalMessage> {
    let rows = client
        .query(
            "select data from pg_logical_slot_get_binary_changes(current_database(), null, null,
                'proto_version', '1', 'publication_names', 'p', 'messages', 'true')",
            &[],
        )
        .await
        .expect("read slot");
    let contents = rows.iter().filter_map(|row| {
        // tag, flags, LSN, prefix, zero byte, length, content
        let data: &[u8] = row.get(0);
        let rest = data.strip_prefix(b"M\x01")?.get(8..)?;
        let content = rest.strip_prefix(b"everywrite\0")?.get(4..)?;
        Some(WalMessage::decode(content).expect("decodes"))
    });
    contents.collect()
}

/// Named like the database: slots belong to the whole server.
async fn slot(client: &Client) {
    client
        .batch_execute("create publication p")
        .await
        .expect("publication");
    let create = "select pg_create_logical_replication_slot(current_database(), 'pgoutput')";
    client.batch_execute(create).await.expect("slot");
}

#[tokio::test]
async fn what_functions_emit_is_what_the_daemon_reads() {
    for server in servers() {
        let client = set_up(&server, "messages").await;
        slot(&client).await;
        client
            .batch_execute(
                "select everywrite.pause('b');
                 select everywrite.pause('b');
                 select everywrite.resume('b');
                 select everywrite.pause('c');
                 select everywrite.skip_transaction('c', '16/B374D848')",
            )
            .await
            .expect("commands");
        let _: tokio_postgres::types::PgLsn = one(&client, "select everywrite.last_commit()").await;
        client
            .batch_execute("begin; select everywrite.pause('b'); rollback")
            .await
            .expect("taken back");

        let command = |c| WalMessage::Command(c);
        let pause = |peer: &str| command(Command::Pause { peer: peer.into() });
        assert_eq!(
            messages(&client).await,
            [
                pause("b"),
                pause("b"),
                command(Command::Resume { peer: "b".into() }),
                pause("c"),
                command(Command::SkipTransaction {
                    origin: "c".into(),
                    lsn: Lsn(0x16_B374_D848),
                }),
                WalMessage::Mark,
            ]
        );
        assert_eq!(paused(&client).await.expect("read"), [NodeId(3)].into());
        let position = Position {
            origin: NodeId(3),
            lsn: Lsn(0x16_B374_D848),
        };
        assert_eq!(skipped(&client).await.expect("read"), [position]);
    }
}

#[tokio::test]
async fn deletes_leave_the_outbox_once_and_in_order() {
    for server in servers() {
        let client = set_up(&server, "outbox").await;
        slot(&client).await;
        let deletes: Vec<_> = (0..3)
            .map(|n| {
                WalMessage::Delete(TravellingDelete {
                    version: Version::new(Stamp(n), NodeId(2)),
                    schema: "public".into(),
                    table: "account".into(),
                    key: vec![KeyColumn {
                        name: "id".into(),
                        type_oid: 23,
                        value: Bytes::from(vec![n as u8; 4]),
                    }],
                })
            })
            .collect();
        let contents: Vec<_> = deletes
            .iter()
            .map(|d| d.encode().expect("encodes").to_vec())
            .collect();
        let (schemas, tables) = (vec!["public"; 3], vec!["account"; 3]);
        client
            .execute(INSERT_OUTBOX, &[&schemas, &tables, &contents])
            .await
            .expect("insert");
        let taken = client.query(EMIT_OUTBOX, &[&2_i64]).await.expect("emit");
        assert_eq!(taken.len(), 2);
        let taken = client.query(EMIT_OUTBOX, &[&2_i64]).await.expect("emit");
        assert_eq!(taken.len(), 1);
        assert!(
            client
                .query(EMIT_OUTBOX, &[&2_i64])
                .await
                .expect("emit")
                .is_empty()
        );
        assert_eq!(messages(&client).await, deletes);
    }
}

#[tokio::test]
async fn names_are_checked_and_rights_are_narrow() {
    for server in servers() {
        let client = set_up(&server, "rights").await;
        let (text, code, hint) = refusal(&client, "select everywrite.pause('zz')").await;
        assert_eq!(text, "there is no site named \"zz\"");
        assert_eq!(code, "42704");
        assert_eq!(hint, "The sites are: a, b, c.");
        let (text, _, hint) = refusal(&client, "select everywrite.pause('a')").await;
        assert_eq!(text, "\"a\" is this site itself");
        assert_eq!(hint, "Name another site: b, c.");

        client
            .batch_execute("create role app login")
            .await
            .expect("role");
        let app = server.connect("app", "rights").await;
        for refused in [
            "select everywrite.pause('b')",
            "select everywrite.resume('b')",
            "select everywrite.skip_transaction('b', '0/1')",
            "select everywrite.forget_conflicts('1 day', null)",
            "select everywrite.emit_command('{}')",
            "select everywrite.expect(1, 2)",
            "select * from everywrite.conflicts",
            "select * from everywrite.conflict_history",
            "insert into everywrite.outbox values (default, 'a', 'b', '')",
            "select * from everywrite.peers",
            "create table everywrite.mine ()",
        ] {
            let (text, code, _) = refusal(&app, refused).await;
            assert_eq!(code, "42501", "{refused}: {text}");
        }
        for allowed in [
            "select * from everywrite.status",
            "select everywrite.last_commit()",
            "select everywrite.wait_for('b', '0/1', '1 ms')",
        ] {
            app.batch_execute(allowed).await.expect(allowed);
        }
        client
            .batch_execute("grant execute on function everywrite.pause(text) to app")
            .await
            .expect("grant");
        app.batch_execute("select everywrite.pause('b')")
            .await
            .expect("may now");
        let by: String = one(&client, "select paused_by from everywrite.paused").await;
        assert_eq!(by, "app");
    }
}

#[tokio::test]
async fn a_guard_that_does_not_hold_fails_its_statement() {
    for server in servers() {
        let client = set_up(&server, "guard").await;
        client
            .batch_execute(
                "create table t (id int primary key, v int); insert into t values (1, 0)",
            )
            .await
            .expect("table");
        let guarded = |expected: i64| {
            format!(
                "with u as (update t set v = v + 1 where id = any ('{{1,2}}') returning 1)
                 select everywrite.expect(count(*), {expected}) from u"
            )
        };
        let (text, code, _) = refusal(&client, &guarded(2)).await;
        assert_eq!((text.as_str(), code.as_str()), ("guard failed", "EW001"));
        client.batch_execute(&guarded(1)).await.expect("holds");
        assert_eq!(one::<i32>(&client, "select v from t").await, 1);
        let plan: Vec<String> = client
            .query(
                "explain verbose select everywrite.expect(count(*), 3) from t",
                &[],
            )
            .await
            .expect("explain")
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert!(plan.join("\n").contains("CASE WHEN"), "inlined: {plan:?}");
    }
}

#[tokio::test]
async fn former_members_keep_their_names() {
    for server in servers() {
        let client = set_up(&server, "members").await;
        let known = || async {
            let rows = client
                .query(
                    "select id || name || case when local then '!' else '' end
                            || case when left_at is null then '' else '-' end
                       from everywrite.nodes order by id",
                    &[],
                )
                .await
                .expect("read");
            rows.iter()
                .map(|r| r.get::<_, String>(0))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(known().await, "1a! 2b 3c");
        register_nodes(&client, NodeId(1), &sites(&["b", "a"]))
            .await
            .expect("exchange");
        assert_eq!(known().await, "1b! 2a 3c-");
        register_nodes(&client, NodeId(2), &sites(&["b", "a", "c"]))
            .await
            .expect("move");
        assert_eq!(known().await, "1b 2a! 3c");
        // A site that was lost comes back under its name with a new number.
        let rebuilt = [
            sites(&["b", "a"]),
            vec![Site {
                node: NodeId(4),
                name: "c".into(),
                address: String::new(),
            }],
        ]
        .concat();
        register_nodes(&client, NodeId(2), &rebuilt)
            .await
            .expect("rebuilt");
        assert_eq!(known().await, "1b 2a! 3c- 4c");
        let clash = [
            sites(&["b", "a"]),
            sites(&["b"])
                .into_iter()
                .map(|s| Site {
                    node: NodeId(9),
                    ..s
                })
                .collect(),
        ]
        .concat();
        register_nodes(&client, NodeId(2), &clash)
            .await
            .expect_err("two sites of one name");
        assert_eq!(known().await, "1b 2a! 3c- 4c", "nothing changed");
    }
}

/// The hardening that `SECURITY.md` gives.
#[tokio::test]
async fn functions_work_when_wal_messages_are_closed_to_public() {
    for server in servers() {
        let superuser = server.database("closed").await;
        let version: i32 = one(
            &superuser,
            "select current_setting('server_version_num')::int",
        )
        .await;
        let flush = if version >= 170_000 { ", boolean" } else { "" };
        superuser
            .batch_execute(&format!(
                "create role closed_owner login;
                 create role closed_app login;
                 create schema everywrite authorization closed_owner;
                 revoke execute on function pg_logical_emit_message(boolean, text, bytea{flush}) from public;
                 revoke execute on function pg_logical_emit_message(boolean, text, text{flush}) from public;
                 grant execute on function pg_logical_emit_message(boolean, text, bytea{flush}) to closed_owner"
            ))
            .await
            .expect("close");
        let owner = server.connect("closed_owner", "closed").await;
        migrate(&owner).await.expect("migrate");
        register_nodes(&owner, NodeId(1), &sites(&["a", "b"]))
            .await
            .expect("register");
        owner
            .batch_execute("select everywrite.pause('b')")
            .await
            .expect("the owner may");
        let app = server.connect("closed_app", "closed").await;
        let forged = "select pg_logical_emit_message(true, 'everywrite', '\\x0164'::bytea)";
        assert_eq!(refusal(&app, forged).await.1, "42501");
        app.batch_execute("select everywrite.last_commit()")
            .await
            .expect("still works");
    }
}
