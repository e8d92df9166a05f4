//! Random transactions from a seed, against one server or several, with a [`History`] of them.
//!
//! Every row carries the tag of the write that made it (`tag`), a number computed from it
//! (`amount`), and a large value computed from the tag of the write that gave it (`body_tag`), so
//! that a row put together from two writes shows. What a client overwrites it locks and reads
//! first: that tells which writes it has seen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::history::{Effect, History, Outcome, Transaction, Write};
use crate::merged::{self, session::Operation};
use crate::postgres::{self, DATABASE, SUPERUSER};
use crate::random::Random;

/// What `everywrite.set_policy` is told: the policy's name and its options.
pub type Policy = (&'static str, &'static str);

/// What the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each is what one write made of it.
    Rows,
    /// Put together from several writes, by columns.
    Columns,
    /// Sets, which a function unites.
    Things,
}

/// A table of the workload. All of a shape have the same columns.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What its rows are.
    pub shape: Shape,
    /// Whether rows are there from the beginning, and none ever goes or comes.
    pub kept: bool,
    /// How many keys are used.
    pub keys: u64,
    /// How many values the second unique key takes; 0 means the table has none.
    pub codes: u64,
    /// Whether rows have a value so large that it is stored out of line.
    pub large: bool,
    /// Whether primary keys change.
    pub moves: bool,
    /// Of a thousand operations so many are a TRUNCATE.
    pub truncated: u64,
    /// The policies that it is under: the first from the beginning, each of the others for a while.
    pub policies: &'static [Policy],
}

impl Table {
    /// A table whose rows are inserted, updated and deleted, and nothing else.
    pub const fn plain(name: &'static str, keys: u64) -> Table {
        Table {
            name,
            shape: Shape::Rows,
            kept: false,
            keys,
            codes: 0,
            large: false,
            moves: false,
            truncated: 0,
            policies: &[],
        }
    }

    /// Whether its policy changes in mid stream.
    pub fn is_turned(&self) -> bool {
        self.policies.len() > 1
    }

    /// Whether what loses a conflict is kept aside until a person decides.
    pub fn is_parked(&self) -> bool {
        matches!(self.policies, [("park", _)])
    }
}

/// Few keys, so that nearly everything is in conflict; many keys; a second unique key; large
/// values; TRUNCATE.
pub const TABLES: [Table; 5] = [
    Table {
        moves: true,
        ..Table::plain("few", 12)
    },
    Table::plain("many", 20_000),
    Table {
        codes: 40,
        moves: true,
        ..Table::plain("coded", 60)
    },
    Table {
        large: true,
        ..Table::plain("large", 60)
    },
    Table {
        truncated: 3,
        ..Table::plain("truncated", 100)
    },
];

/// Tables under policies that leave each row what one write made of it; the last one's changes in mid stream.
pub const UNDER_POLICIES: [Table; 4] = [
    Table {
        moves: true,
        policies: &[("park", "{}")],
        ..Table::plain("parked", 30)
    },
    Table {
        policies: &[("first_update_wins", "{}")],
        ..Table::plain("first_wins", 30)
    },
    Table {
        moves: true,
        policies: &[("node_priority", r#"{"order": ["b", "a"]}"#)],
        ..Table::plain("by_site", 30)
    },
    Table {
        truncated: 2,
        policies: &[
            ("first_update_wins", "{}"),
            ("last_update_wins", "{}"),
            ("node_priority", r#"{"order": ["c"]}"#),
            ("node_priority", r#"{"order": ["a", "c"]}"#),
        ],
        ..Table::plain("switched", 30)
    },
];

/// The statement that puts a table under a policy, from its place in the stream on.
pub fn set_policy(table: &Table, (policy, options): Policy) -> String {
    format!(
        "select everywrite.set_policy('{}', 'all', '{policy}', '{options}')",
        table.name
    )
}

/// Characters of a large value: more than 8 kB, so that it never stays in the row.
const BODY_REPEATS: u32 = 300;

/// The statements that make the tables.
pub fn schema(tables: &[Table]) -> String {
    let mut sql = String::new();
    for table in tables {
        if table.shape != Shape::Rows {
            sql.push_str(&merged::schema(table));
            continue;
        }
        let unique = if table.codes > 0 { " unique" } else { "" };
        sql.push_str(&format!(
            "create table {name} (id bigint primary key, code bigint{unique}, tag text not null, \
             amount int not null, body_tag text, body text);\n\
             alter table {name} alter column body set storage external;\n",
            name = table.name
        ));
    }
    sql
}

/// A query for a table's rows: key, tag, body_tag, code, and whether the row is all of one piece.
pub fn rows_query(table: &str) -> String {
    format!(
        "select id, tag, body_tag, code, amount = hashtext(tag) and \
         body is not distinct from repeat(md5(body_tag), {BODY_REPEATS}) from {table}"
    )
}

/// How a workload goes about.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is random.
    pub seed: u64,
    /// Sessions at each site.
    pub clients: usize,
    /// The tables.
    pub tables: Vec<Table>,
    /// The greatest number of operations in a transaction.
    pub operations: u64,
    /// A client's rest between transactions.
    pub rest: Duration,
    /// Starts every tag: workloads that share a history must not share tags.
    pub name: String,
}

impl Options {
    /// Two clients at each site, all tables.
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            clients: 2,
            tables: TABLES.to_vec(),
            operations: 6,
            rest: Duration::from_millis(2),
            name: String::new(),
        }
    }
}

/// A workload that runs until it is told to end.
#[derive(Debug)]
pub struct Workload {
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Workload {
    /// Starts clients at each server, named by the folder of its socket. A server that is away is
    /// tried again until it is back.
    pub fn start(servers: &[PathBuf], options: &Options) -> Workload {
        Workload::go_on(servers, options, Arc::default())
    }

    /// The same, adding to what another workload did.
    pub fn go_on(servers: &[PathBuf], options: &Options, history: Arc<History>) -> Workload {
        let stop = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        let random = Random::new(options.seed);
        for (site, server) in servers.iter().enumerate() {
            for number in 0..options.clients {
                let who = (site * options.clients + number) as u64;
                let session = Session {
                    site,
                    name: format!("{}s{site}c{number}", options.name),
                    server: server.clone(),
                    options: options.clone(),
                    random: random.fork(who),
                    history: Arc::clone(&history),
                    sequence: 0,
                };
                clients.spawn(session.run(Arc::clone(&stop), Arc::clone(&failed)));
            }
        }
        Workload {
            history,
            stop,
            failed,
            clients,
        }
    }

    /// What was done so far.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Transactions that failed so far: deadlocks, lost connections.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Lets every client end its transaction; the servers must be up.
    pub async fn end(mut self) -> anyhow::Result<Arc<History>> {
        self.stop.store(true, Ordering::Relaxed);
        let all = async { while self.clients.join_next().await.is_some() {} };
        tokio::time::timeout(crate::wait::LIMIT, all)
            .await
            .context("the workload's clients do not end")?;
        Ok(Arc::clone(&self.history))
    }
}

struct Session {
    site: usize,
    name: String,
    server: PathBuf,
    options: Options,
    random: Random,
    history: Arc<History>,
    sequence: u64,
}

/// A table and a key, or none for all of them.
type Place = (&'static str, Option<i64>);

/// What a transaction has written so far.
#[derive(Clone, Default)]
struct Pending {
    /// The last word for each key.
    rows: BTreeMap<Place, (Option<String>, Effect)>,
    /// The same of tables that are merged.
    merged: merged::writes::Pending,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.merged.is_empty()
    }
}

/// A row as it was found, and locked.
struct Found {
    tag: String,
    body_tag: Option<String>,
    code: Option<i64>,
}

impl Session {
    async fn run(mut self, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>) {
        let mut client: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(session) = client.as_ref().filter(|client| !client.is_closed()) else {
                client = postgres::connect(&self.server, SUPERUSER, DATABASE)
                    .await
                    .ok();
                if client.is_none() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                continue;
            };
            if self.transaction(session).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
                session.batch_execute("rollback").await.ok();
            }
            tokio::time::sleep(self.options.rest).await;
        }
    }

    async fn transaction(&mut self, client: &Client) -> anyhow::Result<()> {
        let first = self.sequence + 1;
        let xid = postgres::value(client, "begin; select pg_current_xact_id()").await?;
        let mut pending = Pending::default();
        let tables = self.tables();
        for _ in 0..=self.random.below(self.options.operations) {
            let before = pending.clone();
            if !self.in_savepoint(client, &tables, &mut pending).await? {
                pending = before;
            }
        }
        if pending.is_empty() {
            client.batch_execute("rollback").await?;
            return Ok(());
        }
        let answer = client.batch_execute("commit").await;
        let outcome = match &answer {
            Ok(()) => Outcome::Acknowledged,
            Err(err) if refused(err) => Outcome::RolledBack,
            Err(_) => Outcome::Unknown,
        };
        let write = |((table, key), (saw, effect))| Write {
            table,
            key,
            saw,
            effect,
        };
        let merged = |((table, key), effect)| merged::writes::Write { table, key, effect };
        let name = &self.name;
        let tags = (first..=self.sequence).map(|number| format!("{name}-{number}"));
        self.history.record(Transaction {
            site: self.site,
            xid: xid.parse().context("a transaction id")?,
            outcome,
            stamped: None,
            passing: tags
                .filter(|tag| !pending.rows.values().any(|(_, e)| leaves(e, tag)))
                .collect(),
            writes: pending.rows.into_iter().map(write).collect(),
            merged: pending.merged.into_iter().map(merged).collect(),
        });
        answer.context("commit")
    }

    /// The tables that a transaction writes to. What is merged is replayed one transaction at a time, so most
    /// of them write to no such table.
    fn tables(&mut self) -> Vec<Table> {
        let mut tables = self.options.tables.clone();
        if self.random.percent(60) && tables.iter().any(|t| t.shape == Shape::Rows) {
            tables.retain(|t| t.shape == Shape::Rows && !t.is_parked());
        }
        tables
    }

    /// One operation; false when a unique key stood in its way and nothing happened. A third of
    /// them are in subtransactions without need, because their rows carry other transaction ids.
    async fn in_savepoint(
        &mut self,
        client: &Client,
        tables: &[Table],
        pending: &mut Pending,
    ) -> anyhow::Result<bool> {
        let table = tables[self.random.index(tables.len())];
        let dice = self.random.below(100);
        let moves = table.moves && (dice >= 75 || table.shape != Shape::Rows);
        let risky = moves || table.codes > 0;
        let guarded = risky || self.random.percent(33);
        if guarded {
            client.batch_execute("savepoint s").await?;
        }
        match self.operation(client, table, dice, pending).await {
            Ok(()) if guarded => {
                client.batch_execute("release savepoint s").await?;
                Ok(true)
            }
            Ok(()) => Ok(true),
            Err(err) if guarded && is_duplicate(&err) => {
                client.batch_execute("rollback to savepoint s").await?;
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    async fn operation(
        &mut self,
        client: &Client,
        table: Table,
        dice: u64,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        if table.shape != Shape::Rows {
            let (key, other) = (self.key(table), self.key(table));
            let operation = Operation {
                client,
                table,
                key,
                other,
                tag: self.tag(),
                dice,
            };
            return operation.run(&mut self.random, &mut pending.merged).await;
        }
        if table.truncated > 0 && self.random.below(1_000) < table.truncated {
            return truncate(client, table, pending).await;
        }
        let key = self.key(table);
        match dice {
            0..30 => self.insert(client, table, key, pending).await,
            30..60 => self.update(client, table, key, pending).await,
            60..75 => delete(client, table, key, pending).await,
            75..85 if table.moves => self.change_key(client, table, key, pending).await,
            85..92 if table.codes > 0 => self.swap_codes(client, table, key, pending).await,
            90.. if table.is_parked() => self.unpark(client, table, pending).await,
            _ => self.update(client, table, key, pending).await,
        }
    }

    fn key(&mut self, table: Table) -> i64 {
        i64::try_from(self.random.below(table.keys)).unwrap_or(0)
    }

    fn tag(&mut self) -> String {
        self.sequence += 1;
        format!("{}-{}", self.name, self.sequence)
    }

    fn code(&mut self, table: Table) -> Option<i64> {
        (table.codes > 0 && self.random.percent(80))
            .then(|| i64::try_from(self.random.below(table.codes)).unwrap_or(0))
    }

    async fn insert(
        &mut self,
        client: &Client,
        table: Table,
        key: i64,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let (tag, code) = (self.tag(), self.code(table));
        let body_tag = table.large.then(|| tag.clone());
        let sql = format!(
            "insert into {} values ({key}, {}, '{tag}', hashtext('{tag}'), {}, {}) \
             on conflict do nothing returning id",
            table.name,
            number(code),
            text(body_tag.as_deref()),
            body(body_tag.as_deref()),
        );
        if !postgres::rows(client, &sql).await?.is_empty() {
            let row = Effect::Row {
                tag,
                body_tag,
                code,
            };
            note(pending, table, key, None, row);
        }
        Ok(())
    }

    async fn update(
        &mut self,
        client: &Client,
        table: Table,
        key: i64,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let Some(found) = find(client, table, key).await? else {
            return self.insert(client, table, key, pending).await;
        };
        let tag = self.tag();
        let mut set = format!("tag = '{tag}', amount = hashtext('{tag}')");
        let (mut body_tag, mut code) = (found.body_tag, found.code);
        if table.large && self.random.percent(30) {
            body_tag = Some(tag.clone());
            set.push_str(&format!(
                ", body_tag = '{tag}', body = {}",
                body(body_tag.as_deref())
            ));
        }
        if table.codes > 0 && self.random.percent(40) {
            code = self.code(table);
            set.push_str(&format!(", code = {}", number(code)));
        }
        change(client, table, key, &set).await?;
        let row = Effect::Row {
            tag,
            body_tag,
            code,
        };
        note(pending, table, key, Some(found.tag), row);
        Ok(())
    }

    async fn change_key(
        &mut self,
        client: &Client,
        table: Table,
        key: i64,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let other = self.key(table);
        let found = find(client, table, key).await?;
        let (Some(found), true) = (found, other != key) else {
            return Ok(());
        };
        let tag = self.tag();
        let set = format!("id = {other}, tag = '{tag}', amount = hashtext('{tag}')");
        change(client, table, key, &set).await?;
        let row = Effect::Row {
            tag,
            body_tag: found.body_tag,
            code: found.code,
        };
        note(pending, table, key, Some(found.tag), Effect::Gone);
        note(pending, table, other, None, row);
        Ok(())
    }

    async fn swap_codes(
        &mut self,
        client: &Client,
        table: Table,
        key: i64,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let other = self.key(table);
        if other == key {
            return Ok(());
        }
        let (one, two) = (key.min(other), key.max(other));
        let first = find(client, table, one).await?;
        let second = find(client, table, two).await?;
        let (Some(first), Some(second)) = (first, second) else {
            return Ok(());
        };
        change(client, table, one, "code = null").await?;
        for (key, row, code) in [(two, second.tag, first.code), (one, first.tag, second.code)] {
            let tag = self.tag();
            let set = format!(
                "code = {}, tag = '{tag}', amount = hashtext('{tag}')",
                number(code)
            );
            change(client, table, key, &set).await?;
            let effect = Effect::Row {
                tag,
                body_tag: None,
                code,
            };
            note(pending, table, key, Some(row), effect);
        }
        Ok(())
    }

    /// What a person does with something that is parked here: discards it, or has it written. The row is
    /// given a tag of its own then: no two writes may have the same.
    async fn unpark(
        &mut self,
        client: &Client,
        table: Table,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let sql = format!(
            "select id, key ->> 'id', incoming_row is null from everywrite.parked \
             where \"table\" = 'public.{}' order by id limit 20",
            table.name
        );
        let parked = postgres::rows(client, &sql).await?;
        let Some(one) = parked.get(self.random.index(parked.len())) else {
            return Ok(());
        };
        let [Some(id), Some(key), Some(delete)] = one.as_slice() else {
            bail!("an unexpected row of everywrite.parked: {one:?}");
        };
        if self.random.percent(30) {
            let discard = format!("select everywrite.discard({id})");
            return Ok(client.batch_execute(&discard).await?);
        }
        let key: i64 = key.parse().context("a key")?;
        let found = find(client, table, key).await?;
        let saw = found.as_ref().map(|found| found.tag.clone());
        let retry = format!("select everywrite.retry({id})");
        client.batch_execute(&retry).await?;
        if delete == "t" {
            if saw.is_some() {
                note(pending, table, key, saw, Effect::Gone);
            }
            return Ok(());
        }
        let tag = self.tag();
        let set = format!("tag = '{tag}', amount = hashtext('{tag}')");
        change(client, table, key, &set).await?;
        let row = Effect::Row {
            tag,
            body_tag: None,
            code: None,
        };
        note(pending, table, key, saw, row);
        Ok(())
    }
}

async fn truncate(client: &Client, table: Table, pending: &mut Pending) -> anyhow::Result<()> {
    client
        .batch_execute(&format!("truncate {}", table.name))
        .await?;
    pending.rows.retain(|(name, _), _| *name != table.name);
    pending
        .rows
        .insert((table.name, None), (None, Effect::Gone));
    Ok(())
}

async fn delete(
    client: &Client,
    table: Table,
    key: i64,
    pending: &mut Pending,
) -> anyhow::Result<()> {
    if let Some(found) = find(client, table, key).await? {
        let sql = format!("delete from {} where id = {key} returning id", table.name);
        if postgres::rows(client, &sql).await?.len() != 1 {
            bail!("a locked row was not there to be deleted");
        }
        note(pending, table, key, Some(found.tag), Effect::Gone);
    }
    Ok(())
}

/// Locks and reads a row.
async fn find(client: &Client, table: Table, key: i64) -> anyhow::Result<Option<Found>> {
    let sql = format!(
        "select tag, body_tag, code from {} where id = {key} for update",
        table.name
    );
    let rows = postgres::rows(client, &sql).await?;
    let Some(row) = rows.into_iter().next() else {
        return Ok(None);
    };
    let [Some(tag), body_tag, code] = row.as_slice() else {
        bail!("an unexpected row: {row:?}");
    };
    Ok(Some(Found {
        tag: tag.clone(),
        body_tag: body_tag.clone(),
        code: code.as_deref().and_then(|code| code.parse().ok()),
    }))
}

/// Updates a row that is locked.
async fn change(client: &Client, table: Table, key: i64, set: &str) -> anyhow::Result<()> {
    let sql = format!(
        "update {} set {set} where id = {key} returning id",
        table.name
    );
    if postgres::rows(client, &sql).await?.len() != 1 {
        bail!("a locked row was not there to be updated");
    }
    Ok(())
}

/// Keeps the last effect of a key, and the first row seen that is not the transaction's own.
fn note(pending: &mut Pending, table: Table, key: i64, saw: Option<String>, effect: Effect) {
    let entry = pending.rows.entry((table.name, Some(key)));
    entry
        .and_modify(|(_, last)| *last = effect.clone())
        .or_insert((saw, effect));
}

fn leaves(effect: &Effect, wanted: &str) -> bool {
    matches!(effect, Effect::Row { tag, .. } if tag == wanted)
}

fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("'{value}'"))
}

fn body(tag: Option<&str>) -> String {
    tag.map_or_else(
        || "null".to_owned(),
        |tag| format!("repeat(md5('{tag}'), {BODY_REPEATS})"),
    )
}

fn is_duplicate(err: &anyhow::Error) -> bool {
    err.downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::code)
        == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Whether the server has answered COMMIT with a no (and not merely fallen silent).
fn refused(err: &tokio_postgres::Error) -> bool {
    err.code().is_some_and(|code| {
        let class = code.code().get(..2);
        class == Some("23") || class == Some("40")
    })
}
