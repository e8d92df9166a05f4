//! Against real servers: what is found in a server as it comes, in one full of traps, that the
//! SQL that is printed mends what it says, and that a role with just the printed grants can do
//! all the daemon does.

use tokio_postgres::Client;

use super::test_server::TestServer;
use super::*;

const READY: [&str; 2] = ["wal_level = logical", "track_commit_timestamp = on"];

fn site() -> Site {
    Site {
        node: Some(1),
        peers: vec![2, 3],
        sessions: 2,
    }
}

async fn look(client: &Client) -> Report {
    inspect(client, &site()).await.unwrap()
}

/// The one finding about that object with that in its text.
#[track_caller]
fn find<'a>(report: &'a Report, object: &str, what: &str) -> &'a Finding {
    let mut all = report
        .findings
        .iter()
        .filter(|f| f.object == object && f.what.contains(what));
    match (all.next(), all.next()) {
        (Some(finding), None) => finding,
        (first, _) => panic!(
            "{object} {what}: {} found in\n{}",
            if first.is_some() { "two" } else { "none" },
            report.table(false)
        ),
    }
}

#[track_caller]
fn expect(report: &Report, level: Level, object: &str, what: &str) {
    let finding = find(report, object, what);
    assert_eq!(finding.level, level, "{finding:?}");
    if level == Level::Error {
        assert!(
            !finding.why.is_empty() && !finding.mend.is_empty(),
            "{finding:?}"
        );
    }
}

/// Runs what the findings of that level say, as a superuser would paste it.
async fn mend(client: &Client, report: &Report, level: Level) {
    for finding in report.findings.iter().filter(|f| f.level == level) {
        for line in finding.mend.iter().filter(|line| !line.starts_with("--")) {
            client
                .simple_query(line)
                .await
                .unwrap_or_else(|error| panic!("{line}: {}", connect::explain(&error)));
        }
    }
}

async fn a_server_as_it_comes(major: u32) {
    let Some(server) =
        TestServer::start(major, &["max_replication_slots = 2", "max_wal_senders = 0"])
    else {
        return;
    };
    let client = server.client("postgres", "postgres").await;
    let report = look(&client).await;
    assert!(report.must_change());
    expect(
        &report,
        Level::Ok,
        "version",
        &format!("PostgreSQL {major}"),
    );
    expect(&report, Level::Error, "wal_level", "is replica");
    expect(&report, Level::Error, "track_commit_timestamp", "is off");
    expect(
        &report,
        Level::Error,
        "max_wal_senders",
        "0 of 0 senders used, 1 needed",
    );
    expect(&report, Level::Ok, "max_replication_slots", "0 of 2 slots");
    // Two of each of two peers', and the repairs'; since 18 the origins have a setting of their own.
    let level = if major < 18 { Level::Error } else { Level::Ok };
    expect(&report, level, "replication origins", "5 needed");
    // It works without the second ones.
    let one_peer = Site {
        peers: vec![2],
        ..site()
    };
    let fewer = inspect(&client, &one_peer).await.unwrap();
    let level = if major < 18 {
        Level::Warning
    } else {
        Level::Ok
    };
    expect(&fewer, level, "replication origins", "3 needed");
    expect(&report, Level::Ok, "encoding", "UTF8");
    expect(&report, Level::Warning, "fsync", "is off");
    assert!(find(&report, "wal_level", "").restart);
    let text = report.table(false);
    assert!(text.contains("restart PostgreSQL once"), "{text}");
    assert!(!text.contains('\x1b'));
    assert!(report.table(true).contains("\x1b["));

    mend(&client, &report, Level::Error).await;
    drop(client);
    server.restart();
    let client = server.client("postgres", "postgres").await;
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["errors"], 0);
    assert_eq!(json["findings"][0]["level"], "ok");
}

async fn a_database_full_of_traps(major: u32) {
    let Some(server) = TestServer::start(major, &READY) else {
        return;
    };
    let client = server.client("postgres", "postgres").await;
    client.batch_execute(TRAPS).await.unwrap();
    let report = look(&client).await;
    for (level, object, what) in [
        (Level::Error, "table public.nokey", "has no primary key"),
        (Level::Error, "table public.candidate", "has no primary key"),
        (
            Level::Error,
            "table public.\"Full Row\"",
            "replica identity full",
        ),
        (
            Level::Error,
            "table public.nothing",
            "replica identity nothing",
        ),
        (Level::Error, "table public.late", "deferrable primary key"),
        (
            Level::Note,
            "table public.by_index",
            "recognised by by_index_code",
        ),
        (Level::Warning, "table public.scratch", "is unlogged"),
        (Level::Error, "column public.odd.acls", "contains aclitem"),
        (Level::Warning, "column public.odd.acl", "no binary form"),
        (
            Level::Warning,
            "column public.odd.class",
            "numbers of this server's catalogs",
        ),
        (
            Level::Warning,
            "column public.odd.classes",
            "numbers of this server's catalogs",
        ),
        (
            Level::Warning,
            "column public.nocase.name",
            "nondeterministic collation",
        ),
        (
            Level::Warning,
            "column public.nocase.span",
            "with type interval",
        ),
        (
            Level::Note,
            "column public.nocase.amount",
            "with type numeric",
        ),
        (
            Level::Warning,
            "constraint booking_excl on public.booking",
            "excludes",
        ),
        (
            Level::Warning,
            "constraint rank_place_key on public.rank",
            "is deferrable",
        ),
        (
            Level::Note,
            "index rank_name on public.rank",
            "by an expression",
        ),
        (
            Level::Note,
            "index rank_first on public.rank",
            "part of the rows",
        ),
        (Level::Note, "foreign keys", "there are 1"),
        (
            Level::Warning,
            "trigger always on public.rank",
            "enable always",
        ),
        (Level::Warning, "rule also on public.rank", "enable replica"),
        (
            Level::Warning,
            "sequence public.numbered_id_seq",
            "numbers public.numbered.id",
        ),
        (
            Level::Warning,
            "sequence public.counter",
            "numbers public.numbered.other",
        ),
        (
            Level::Warning,
            "sequence public.numbered_always_seq",
            "numbers public.numbered.always",
        ),
        (Level::Ok, "sequence public.stepped", "in steps of 10"),
        (Level::Note, "sequence public.free", "no column's default"),
        (Level::Warning, "large objects", "there are 1"),
        (Level::Note, "materialized view public.summary", "refreshed"),
        (Level::Note, "foreign table public.far", "elsewhere"),
        (Level::Note, "role postgres", "superuser"),
        (
            Level::Warning,
            "function pg_logical_emit_message",
            "by every role",
        ),
        (Level::Warning, "subscription sub", "writes into"),
        (
            Level::Error,
            "publication everywrite",
            "is not for all tables",
        ),
    ] {
        expect(&report, level, object, what);
    }
    for fine in [
        "table public.good",
        "table public.part_1",
        "column public.nocase.fixed",
    ] {
        assert!(report.findings.iter().all(|f| f.object != fine), "{fine}");
    }
    let none = find(&report, "tables", "need no change");
    assert!(none.what.starts_with("9 of 16"), "{}", none.what);

    // What can be run as it is mends what it says; the primary key needs a person's choice.
    for finding in &report.findings {
        for line in &finding.mend {
            let left_to_a_person = line.contains('…')
                || line.starts_with("--")
                || line.starts_with("drop subscription")
                || finding.object.starts_with("role ");
            if !left_to_a_person {
                client
                    .simple_query(line)
                    .await
                    .unwrap_or_else(|error| panic!("{line}: {}", connect::explain(&error)));
            }
        }
    }
    client
        .batch_execute("alter table nokey add primary key (a)")
        .await
        .unwrap();
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    expect(
        &report,
        Level::Ok,
        "sequence public.numbered_id_seq",
        "in steps of 10",
    );
    let id = client
        .query_one(
            "insert into numbered default values returning id, always",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        id.get::<_, i32>(0) % 10,
        1,
        "the last digit is the node's id"
    );
    assert_eq!(id.get::<_, i64>(1) % 10, 1);
}

/// One of each.
const TRAPS: &str = r#"
create table good (id uuid primary key, t text);
create table nokey (a int, b text);
create table candidate (code text not null unique, b text);
create table "Full Row" (id uuid primary key);
alter table "Full Row" replica identity full;
create table nothing (id uuid primary key);
alter table nothing replica identity nothing;
create table late (id uuid, v text, primary key (id) deferrable);
create table by_index (code text not null);
create unique index by_index_code on by_index (code);
alter table by_index replica identity using index by_index_code;
create unlogged table scratch (id uuid primary key);
create table part (id uuid, region text, primary key (id, region)) partition by list (region);
create table part_1 partition of part for values in ('eu');
create type holder as (c regclass, n int);
create table odd (id uuid primary key, acl aclitem, acls aclitem[], class regclass, classes holder[]);
create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table nocase (name text collate nocase, span interval, amount numeric, fixed numeric(10, 2),
                     primary key (name, span, amount, fixed));
create table booking (id uuid primary key, during tsrange, constraint booking_excl exclude using gist (during with &&));
create table rank (id uuid primary key, place int constraint rank_place_key unique deferrable initially deferred,
                   name text, first boolean, parent uuid references good);
create unique index rank_name on rank (lower(name));
create unique index rank_first on rank (place) where first;
create function nop() returns trigger language plpgsql as 'begin return new; end';
create trigger always before insert on rank for each row execute function nop();
alter table rank enable always trigger always;
create trigger usual before insert on rank for each row execute function nop();
create rule also as on delete to rank do also select 1;
alter table rank enable replica rule also;
create sequence counter;
create table numbered (id serial primary key, other int default nextval('counter'),
                       always bigint generated always as identity, step int);
create sequence stepped increment by 10 start with 1 owned by numbered.step;
create sequence free;
select lo_create(0);
create materialized view summary as select count(*) from good;
create foreign data wrapper fdw;
create server far foreign data wrapper fdw;
create foreign table far (a int) server far;
create temp table passing (a int);
create table rest_1 (id uuid primary key);
create table rest_2 (id uuid primary key);
insert into numbered default values;
create subscription sub connection 'host=/nowhere' publication p with (connect = false);
create publication everywrite for table good;
"#;

/// A role that has nothing is told what lacks; with just that it can do what the daemon does.
async fn the_printed_grants_are_enough(major: u32) {
    let Some(server) = TestServer::start(major, &READY) else {
        return;
    };
    let admin = server.client("postgres", "postgres").await;
    for statement in [
        "create role \"Every Write\" login",
        "create role owner",
        "create database shop",
    ] {
        admin.simple_query(statement).await.unwrap();
    }
    let admin = server.client("postgres", "shop").await;
    admin.batch_execute(SHOP).await.unwrap();

    let client = server.client("Every Write", "shop").await;
    let report = look(&client).await;
    let role = "role \"Every Write\"";
    expect(&report, Level::Error, role, "REPLICATION");
    expect(&report, Level::Error, role, "session_replication_role");
    expect(&report, Level::Error, role, "12 functions");
    expect(&report, Level::Error, role, "other sessions");
    expect(&report, Level::Error, "schema everywrite", "cannot be made");
    expect(&report, Level::Error, "schema public", "1 of its 1 tables");
    expect(
        &report,
        Level::Error,
        "schema \"Sales\"",
        "2 of its 2 tables",
    );
    expect(
        &report,
        Level::Error,
        "table \"Sales\".secret",
        "hides rows",
    );
    expect(
        &report,
        Level::Error,
        "publication everywrite",
        "is not there",
    );

    mend(&admin, &report, Level::Error).await;
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    // Tables that come later are covered.
    admin
        .batch_execute("create table later (id int primary key); set role owner; create table \"Sales\".later (id int primary key); reset role")
        .await
        .unwrap();
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    // The daemon alone may write messages.
    let open = find(&report, "function pg_logical_emit_message", "by every role");
    for line in &open.mend {
        admin.simple_query(line).await.unwrap();
    }
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    let object = "function pg_logical_emit_message";
    assert!(report.findings.iter().all(|f| f.object != object));
    drop(client);

    do_what_the_daemon_does(&server, "Every Write").await;
}

/// What a superuser is shown, run from a fresh start, is enough too.
async fn the_grants_shown_to_a_superuser_are_enough(major: u32) {
    let Some(server) = TestServer::start(major, &READY) else {
        return;
    };
    let admin = server.client("postgres", "postgres").await;
    for statement in ["create role owner", "create database shop"] {
        admin.simple_query(statement).await.unwrap();
    }
    let admin = server.client("postgres", "shop").await;
    admin.batch_execute(SHOP).await.unwrap();
    let report = look(&admin).await;
    mend(&admin, &report, Level::Note).await;
    let client = server.client("everywrite", "shop").await;
    let report = look(&client).await;
    assert!(!report.must_change(), "{}", report.table(false));
    drop(client);
    do_what_the_daemon_does(&server, "everywrite").await;
}

const SHOP: &str = r#"
create table t (id int primary key, v text);
create schema "Sales" authorization owner;
set role owner;
create table "Sales".orders (id int primary key, v text);
create table "Sales".secret (id int primary key, v text);
alter table "Sales".secret enable row level security;
alter table "Sales".secret force row level security;
reset role;
"#;

async fn do_what_the_daemon_does(server: &TestServer, user: &str) {
    let client = server.client(user, "shop").await;
    client
        .batch_execute(
            "create schema everywrite;
             create table everywrite.outbox (id int primary key);
             grant select on everywrite.outbox to pg_monitor;
             create function everywrite.f() returns int language sql security definer as 'select 1'",
        )
        .await
        .unwrap();
    client
        .query(
            "select pg_create_logical_replication_slot('everywrite', 'pgoutput')",
            &[],
        )
        .await
        .unwrap();

    // A write of this site, then one that replay makes.
    client
        .batch_execute("insert into t values (1, 'local')")
        .await
        .unwrap();
    let replay = server.client(user, "shop").await;
    replay
        .batch_execute(
            "set session_replication_role = replica;
             set synchronous_commit = off;
             select pg_replication_origin_create('everywrite_2');
             select pg_replication_origin_session_setup('everywrite_2');
             begin;
             select pg_replication_origin_xact_setup('0/10', '2020-01-01 00:00:00+00');
             insert into t values (2, 'b');
             insert into \"Sales\".orders values (1, 'b');
             insert into \"Sales\".secret values (1, 'b');
             update t set v = 'c' where id = 2;
             commit;
             begin;
             select pg_replication_origin_xact_setup('0/20', '2020-01-01 00:00:01+00');
             lock table \"Sales\".orders in share row exclusive mode;
             delete from \"Sales\".secret;
             truncate \"Sales\".orders;
             commit",
        )
        .await
        .unwrap();
    let sink = replay
        .copy_in("copy \"Sales\".secret from stdin")
        .await
        .unwrap();
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from_static(b"7\tx\n"))
        .await
        .unwrap();
    assert_eq!(
        sink.finish().await.unwrap(),
        1,
        "COPY into a table with row security"
    );
    let row = replay
        .query_one(
            "select pg_replication_origin_session_progress(true)::text,
                    pg_replication_origin_progress('everywrite_2', true)::text,
                    (select count(*) from pg_show_replication_origin_status()),
                    (select o.timestamp::text || ' ' || (o.roident = pg_replication_origin_oid('everywrite_2'))
                       from t, pg_xact_commit_timestamp_origin(t.xmin) o where id = 2),
                    (pg_current_wal_flush_lsn() <= pg_current_wal_insert_lsn())",
            &[],
        )
        .await
        .unwrap();
    // The COPY after it had no position of its own.
    assert_eq!(row.get::<_, &str>(0), "0/20");
    assert_eq!(row.get::<_, &str>(1), "0/20");
    assert_eq!(row.get::<_, i64>(2), 1);
    let stamp: &str = row.get(3);
    assert!(
        stamp.starts_with("2020-01-01") && stamp.ends_with("true"),
        "{stamp}"
    );

    // Another role's open transaction is seen.
    let other = server.client("postgres", "shop").await;
    other
        .batch_execute("begin; select pg_current_xact_id()")
        .await
        .unwrap();
    let row = client
        .query_one(
            "select count(*) from pg_stat_get_activity(null) a
              where a.backend_xid is not null and a.pid <> pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    other.batch_execute("rollback").await.unwrap();

    // Messages and the stream: through SQL, with the options the daemon uses; the walsender
    // makes the same checks.
    client
        .batch_execute("select pg_logical_emit_message(true, 'everywrite', '\\x01'::bytea)")
        .await
        .unwrap();
    let changes = client
        .query(
            "select data from pg_logical_slot_get_binary_changes('everywrite', null, null,
                'proto_version', '3', 'publication_names', 'everywrite',
                'binary', 'true', 'messages', 'true')",
            &[],
        )
        .await
        .unwrap();
    let tags: Vec<u8> = changes
        .iter()
        .map(|row| row.get::<_, &[u8]>(0)[0])
        .collect();
    for tag in [b'I', b'U', b'D', b'T', b'M', b'O'] {
        assert!(tags.contains(&tag), "{}", String::from_utf8_lossy(&tags));
    }
    start_replication(server, user).await;

    replay
        .batch_execute(
            "select pg_replication_origin_xact_reset();
             select pg_replication_origin_session_is_setup();
             select pg_replication_origin_session_reset();
             select pg_replication_origin_advance('everywrite_2', '0/30');
             select pg_replication_origin_drop('everywrite_2')",
        )
        .await
        .unwrap();
    client
        .query("select pg_drop_replication_slot('everywrite')", &[])
        .await
        .unwrap();
}

/// A real walsender: `pg_recvlogical` of any major speaks to all of them.
async fn start_replication(server: &TestServer, user: &str) {
    let program = "/usr/lib/postgresql/15/bin/pg_recvlogical";
    if !std::path::Path::new(program).exists() {
        return;
    }
    let settings = server.settings(user, "shop");
    let mut child = tokio::process::Command::new(program)
        .args([
            "-h",
            &settings.host,
            "-U",
            user,
            "-d",
            "shop",
            "-S",
            "everywrite",
        ])
        .args(["--start", "--no-loop", "-f", "/dev/null"])
        .args([
            "-o",
            "proto_version=3",
            "-o",
            "publication_names=everywrite",
        ])
        .args([
            "-o",
            "binary=true",
            "-o",
            "messages=true",
            "-o",
            "streaming=on",
        ])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = server.client(user, "shop").await;
    let active =
        "select active_pid is not null from pg_replication_slots where slot_name = 'everywrite'";
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let row = client.query_one(active, &[]).await.unwrap();
        if row.get(0) {
            break;
        }
        assert!(child.try_wait().unwrap().is_none(), "the walsender refused");
        assert!(
            tokio::time::Instant::now() < deadline,
            "no walsender after 20 s"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    child.kill().await.unwrap();
    while client.query_one(active, &[]).await.unwrap().get(0) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the walsender stays"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_lets_nobody_in() {
    let nobody = Postgres {
        host: "/tmp/nowhere-at-all".to_owned(),
        ..Postgres::default()
    };
    let error = connect(&nobody).await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "cannot connect to database postgres at /tmp/nowhere-at-all:5432 as everywrite: "
        ),
        "{error}"
    );
    assert!(error.contains("is the server running"), "{error}");

    let Some(server) = TestServer::start(15, &[]) else {
        return;
    };
    let refused = |user: &'static str, database: &'static str| {
        let settings = server.settings(user, database);
        async move { connect(&settings).await.unwrap_err().to_string() }
    };
    let error = refused("postgres", "nodb").await;
    assert!(
        error.contains("database \"nodb\" does not exist\n  = help: correct `database`"),
        "{error}"
    );
    let error = refused("nobody", "postgres").await;
    assert!(
        error.contains("role \"nobody\" does not exist\n  = help: create the role"),
        "{error}"
    );
}

#[tokio::test]
async fn passwords_and_pg_hba() {
    let Some(server) = TestServer::start(15, &[]) else {
        return;
    };
    let client = server.client("postgres", "postgres").await;
    let set = "create role ew login replication password 'geheim'";
    client.batch_execute(set).await.unwrap();
    let mut settings = server.settings("ew", "postgres");

    server.let_in("local all postgres trust\n");
    let error = until_refused(&settings, "no pg_hba.conf entry").await;
    assert!(
        error.contains("let it in with a line in pg_hba.conf"),
        "{error}"
    );

    server.let_in("local all postgres trust\nlocal all all scram-sha-256\n");
    let error = until_refused(&settings, "password missing").await;
    assert!(
        error.contains("set `password` or `password-file`"),
        "{error}"
    );
    settings.password = Some("wrong-one".into());
    let error = connect(&settings).await.unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    assert!(error.contains("correct `password`"), "{error}");
    assert!(!error.contains("wrong-one"), "{error}");
    settings.password = Some("geheim".into());
    assert!(connect(&settings).await.is_ok());
}

/// A reload of pg_hba.conf is seen a moment later.
async fn until_refused(settings: &Postgres, reason: &str) -> String {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let refusal = connect(settings).await.err().map(|error| error.to_string());
        if let Some(error) = refusal.as_ref().filter(|error| error.contains(reason)) {
            return error.clone();
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{reason}: {refusal:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_command_says_what_is_wrong_with_its_arguments() {
    let args = |config: &str, postgres: Option<&str>| CheckArgs {
        config: config.into(),
        postgres: postgres.map(str::to_owned),
        json: false,
    };
    let error = check(&args("/nowhere/ew.toml", None)).await.unwrap_err();
    assert!(error.contains("everywrite init"), "{error}");
    let error = check(&args("x", Some("mysql://"))).await.unwrap_err();
    assert!(error.contains("postgres://"), "{error}");
}

/// The same tests for each major.
macro_rules! on {
    ($($name:ident: $major:literal,)+) => {$(
        mod $name {
            #[tokio::test]
            async fn a_server_as_it_comes() {
                super::a_server_as_it_comes($major).await;
            }
            #[tokio::test]
            async fn a_database_full_of_traps() {
                super::a_database_full_of_traps($major).await;
            }
            #[tokio::test]
            async fn the_printed_grants_are_enough() {
                super::the_printed_grants_are_enough($major).await;
            }
            #[tokio::test]
            async fn the_grants_shown_to_a_superuser_are_enough() {
                super::the_grants_shown_to_a_superuser_are_enough($major).await;
            }
        }
    )+};
}

on! {
    postgres_15: 15,
    postgres_16: 16,
    postgres_17: 17,
    postgres_18: 18,
}
