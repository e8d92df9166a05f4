//! Version, settings, slots, senders and origins.

use std::collections::HashMap;

use everywrite_conflict::NodeId;
use tokio_postgres::Client;

use super::{Error, Finding, Site};
use crate::settle::origins;

/// The oldest and the newest major that is known to work.
const MAJORS: std::ops::RangeInclusive<i32> = 15..=18;
/// Slot, publication and schema have this name.
const NAME: &str = "everywrite";
/// Less than this for a daemon that is down for a while is an accident waiting: a busy server
/// writes as much within minutes.
const SLOT_KEEP_MIN_MB: i64 = 4096;

/// What is asked again and again.
pub(super) struct Server {
    /// As in `server_version_num`.
    pub(super) version: i32,
    pub(super) version_text: String,
    pub(super) database: String,
    /// Quoted where needed.
    pub(super) database_ident: String,
    pub(super) role: String,
    /// Quoted where needed.
    pub(super) role_ident: String,
    pub(super) superuser: bool,
    pub(super) bypasses_row_security: bool,
    settings: HashMap<String, String>,
}

impl Server {
    pub(super) async fn read(client: &Client) -> Result<Server, Error> {
        let failed = Error::reading("the server's version and the role");
        let row = client
            .query_one(
                "select current_setting('server_version_num')::int,
                        current_setting('server_version'),
                        current_database()::text, quote_ident(current_database()),
                        r.rolname::text, quote_ident(r.rolname),
                        r.rolsuper, r.rolbypassrls or r.rolsuper
                   from pg_roles r where r.rolname = current_user",
                &[],
            )
            .await
            .map_err(failed)?;
        let settings = client
            .query(
                "select name, setting from pg_settings where setting is not null",
                &[],
            )
            .await
            .map_err(Error::reading("the server's settings"))?;
        Ok(Server {
            version: row.get(0),
            version_text: row.get(1),
            database: row.get(2),
            database_ident: row.get(3),
            role: row.get(4),
            role_ident: row.get(5),
            superuser: row.get(6),
            bypasses_row_security: row.get(7),
            settings: settings
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
        })
    }

    pub(super) fn supported(&self) -> bool {
        self.version / 10_000 >= *MAJORS.start()
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> i64 {
        self.setting(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }
}

pub(super) async fn findings(
    client: &Client,
    server: &Server,
    site: &Site,
) -> Result<Vec<Finding>, Error> {
    let mut found = vec![version(server)];
    if !server.supported() {
        return Ok(found);
    }
    found.extend(place(client).await?);
    found.extend(wal(server));
    found.extend(safety(server));
    found.extend(session(server));
    found.extend(capacity(client, server, site).await?);
    found.extend(slot(client, server).await?);
    Ok(found)
}

fn version(server: &Server) -> Finding {
    let text = &server.version_text;
    let major = server.version / 10_000;
    if MAJORS.contains(&major) {
        Finding::ok("version", format!("PostgreSQL {text}"))
    } else if major < *MAJORS.start() {
        Finding::error("version", format!("PostgreSQL {text} is too old"))
            .why("before 15 a role without superuser cannot apply changes, and the stream lacks what is needed")
            .mend("-- upgrade the server to PostgreSQL 15, 16, 17 or 18")
    } else {
        Finding::warning(
            "version",
            format!("PostgreSQL {text} is newer than this program"),
        )
        .why("15 to 18 are tested")
        .mend("-- look for a newer release of Everywrite")
    }
}

/// The database: encoding, and whether it takes writes.
async fn place(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_one(
            "select pg_is_in_recovery(), pg_encoding_to_char(encoding)::text, datistemplate
               from pg_database where datname = current_database()",
            &[],
        )
        .await
        .map_err(Error::reading("the database's encoding"))?;
    let mut found = Vec::new();
    if row.get(0) {
        found.push(
            Finding::error("server", "is a standby")
                .why("a node writes what its peers send, and a standby takes no writes")
                .mend("-- name the primary in [postgres], or promote this server: select pg_promote()"),
        );
    }
    let encoding: String = row.get(1);
    found.push(if encoding == "UTF8" {
        Finding::ok("encoding", "UTF8")
    } else {
        Finding::error("encoding", format!("is {encoding}"))
            .why("text travels between sites as it is stored, so all must store UTF8")
            .mend("create database … encoding 'UTF8' template template0;")
            .mend("-- then move the data with pg_dump and psql")
    });
    Ok(found)
}

/// What the log must contain.
fn wal(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    let level = server.setting("wal_level").unwrap_or("");
    found.push(if level == "logical" {
        Finding::ok("wal_level", "logical")
    } else {
        Finding::error("wal_level", format!("is {level}"))
            .why("changes can be read from the WAL only when it is logical")
            .mend("alter system set wal_level = 'logical';")
            .restart()
    });
    found.push(if server.setting("track_commit_timestamp") == Some("on") {
        Finding::ok("track_commit_timestamp", "on")
    } else {
        Finding::error("track_commit_timestamp", "is off")
            .why("the last write wins by its commit time, which the server must keep")
            .mend("alter system set track_commit_timestamp = on;")
            .restart()
    });
    let keep = server.number("max_slot_wal_keep_size");
    found.push(if keep == -1 {
        Finding::ok("max_slot_wal_keep_size", "no limit")
    } else if keep < SLOT_KEEP_MIN_MB {
        Finding::warning("max_slot_wal_keep_size", format!("is {keep} MB"))
            .why("while the daemon is down the slot holds WAL; beyond this limit the server drops it, and this site must be joined anew (a peer that is away holds no WAL)")
            .mend("alter system set max_slot_wal_keep_size = '64GB';")
            .mend("select pg_reload_conf();")
    } else {
        Finding::note("max_slot_wal_keep_size", format!("is {keep} MB"))
            .why("a daemon that is down while more than this is written loses its slot, and this site must be joined anew")
    });
    if server.number("idle_replication_slot_timeout") != 0 {
        found.push(
            Finding::warning("idle_replication_slot_timeout", "is set")
                .why("the server drops the slot of a daemon that was down for so long, and this site must be joined anew")
                .mend("alter system set idle_replication_slot_timeout = 0;")
                .mend("select pg_reload_conf();"),
        );
    }
    found
}

/// What makes "committed" untrue.
fn safety(server: &Server) -> Vec<Finding> {
    ["fsync", "full_page_writes"]
        .into_iter()
        .filter(|name| server.setting(name) == Some("off"))
        .map(|name| {
            Finding::warning(name, "is off")
                .why("after a crash of the machine this site may have forgotten what its peers already have, and they cannot give it back in the right order")
                .mend(format!("alter system set {name} = on;"))
                .mend("select pg_reload_conf();")
        })
        .collect()
}

/// Settings of the role that would cut the daemon's sessions off.
fn session(server: &Server) -> Vec<Finding> {
    let role = &server.role_ident;
    let mut found: Vec<Finding> = [
        "statement_timeout",
        "transaction_timeout",
        "idle_session_timeout",
        "idle_in_transaction_session_timeout",
    ]
    .into_iter()
    .filter(|name| server.number(name) != 0)
    .map(|name| {
        Finding::warning(name, "is set for this role")
            .why("a large transaction of a peer, or a quiet hour, would end the daemon's sessions again and again")
            .mend(format!("alter role {role} set {name} = 0;"))
    })
    .collect();
    let read_only = "default_transaction_read_only";
    if server.setting(read_only) == Some("on") {
        found.push(
            Finding::error(read_only, "is on for this role")
                .why("the peers' changes could not be written")
                .mend(format!("alter role {role} set {read_only} = off;")),
        );
    }
    found
}

/// Free slots, senders and origins.
async fn capacity(client: &Client, server: &Server, site: &Site) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_one(
            "select (select count(*) from pg_replication_slots),
                    (select count(*) from pg_replication_slots where slot_name = $1),
                    (select count(*) from pg_stat_replication),
                    (select count(*) from pg_replication_slots where slot_name = $1 and active),
                    (select count(*) from pg_replication_origin),
                    (select coalesce(array_agg(roname), '{}') from pg_replication_origin)",
            &[&NAME],
        )
        .await
        .map_err(Error::reading("slots, senders and origins"))?;
    let (slots, own_slot): (i64, i64) = (row.get(0), row.get(1));
    let (senders, own_sender): (i64, i64) = (row.get(2), row.get(3));
    let (origins, names): (i64, Vec<String>) = (row.get(4), row.get(5));
    // Each peer's transactions have one or two, and repairs have one.
    let lacking = |wanted: &mut dyn Iterator<Item = String>| {
        let lacking = wanted.filter(|name| !names.contains(name)).count();
        i64::try_from(lacking).unwrap_or(i64::MAX)
    };
    let mut of_peers = site.peers.iter().map(|peer| origins::names(NodeId(*peer)));
    let repair = format!("{NAME}_repair");
    let lacking_firsts = lacking(&mut of_peers.clone().map(|[first, _]| first).chain([repair]));
    let lacking_seconds = match site.sessions {
        ..=1 => 0,
        _ => lacking(&mut of_peers.by_ref().map(|[_, second]| second)),
    };
    // Since 18 origins have a limit of their own.
    let origin_limit = if server.version >= 180_000 {
        "max_active_replication_origins"
    } else {
        "max_replication_slots"
    };
    Ok(vec![
        room(
            server,
            "max_replication_slots",
            "slots",
            slots,
            1 - own_slot,
        ),
        room(
            server,
            "max_wal_senders",
            "senders",
            senders,
            1 - own_sender,
        ),
        room_of_origins(
            server,
            origin_limit,
            origins,
            lacking_firsts,
            lacking_seconds,
        ),
    ])
}

/// Without the second ones the daemon works, but slower.
fn room_of_origins(
    server: &Server,
    setting: &str,
    used: i64,
    firsts: i64,
    seconds: i64,
) -> Finding {
    let what = "origins (for each peer as many as [replication] sessions, one for repairs)";
    let all = room(server, setting, what, used, firsts + seconds);
    let free = server.number(setting) - used;
    let found = match free >= firsts && free < firsts + seconds {
        false => all,
        true => Finding::warning(setting, all.what)
            .why("there is no room for second sessions: the peers' transactions are applied in one each")
            .mend(format!(
                "alter system set {setting} = {};",
                used + firsts + seconds + 5
            ))
            .restart(),
    };
    Finding {
        object: "replication origins".to_owned(),
        ..found
    }
}

fn room(server: &Server, setting: &str, what: &str, used: i64, needed: i64) -> Finding {
    let limit = server.number(setting);
    let free = limit - used;
    let state = format!("{used} of {limit} {what} used, {needed} needed");
    if free >= needed {
        return Finding::ok(setting, state);
    }
    Finding::error(setting, state)
        .why("the daemon needs them all the time")
        .mend(format!(
            "alter system set {setting} = {};",
            used + needed + 5
        ))
        .restart()
}

/// The slot, if it is there already.
async fn slot(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_opt(
            "select slot_type, plugin::text, database::text, active, wal_status, temporary,
                    pg_size_pretty(case when not pg_is_in_recovery()
                        then pg_current_wal_lsn() - confirmed_flush_lsn end)
               from pg_replication_slots where slot_name = $1",
            &[&NAME],
        )
        .await
        .map_err(Error::reading("the slot"))?;
    let object = format!("slot {NAME}");
    let Some(row) = row else {
        return Ok(vec![Finding::ok(
            object,
            "not there yet: the daemon makes it",
        )]);
    };
    let kind: String = row.get(0);
    let plugin: Option<String> = row.get(1);
    let database: Option<String> = row.get(2);
    let active: bool = row.get(3);
    let status: Option<String> = row.get(4);
    let behind: Option<String> = row.get(6);
    let drop = format!("select pg_drop_replication_slot('{NAME}');");
    let foreign = kind != "logical"
        || plugin.as_deref() != Some("pgoutput")
        || database.as_deref() != Some(server.database.as_str());
    if foreign {
        let plugin = plugin.unwrap_or_default();
        let database = database.unwrap_or_default();
        return Ok(vec![
            Finding::error(
                object,
                format!("is another one: {kind} {plugin} {database}"),
            )
            .why(
                "a server has one node, and its slot is a logical one of pgoutput in this database",
            )
            .mend(drop),
        ]);
    }
    if matches!(status.as_deref(), Some("lost")) {
        return Ok(vec![
            Finding::error(object, "has lost the WAL it needs")
                .why("the daemon was down for longer than the server keeps WAL: what was written here meanwhile can no longer be read")
                .mend("-- join this site anew under a new node id, then drop the slot:")
                .mend(drop),
        ]);
    }
    let state = if active {
        "in use by a daemon"
    } else {
        "there, not in use"
    };
    let behind = behind.map_or(String::new(), |size| format!(", {size} behind"));
    Ok(vec![Finding::ok(object, format!("{state}{behind}"))])
}
