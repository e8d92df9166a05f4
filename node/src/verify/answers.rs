//! Answers questions from the local server: one session, one question at a time, so that however
//! many ask, a site never gives more than one backend to it.
//!
//! The session may only read, but for two things: the mark that makes its readings comparable
//! (`everywrite.last_commit()`), and repairs, which are transactions of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Vector};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::sync::Mutex;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row as SqlRow};

use super::disputes::KEYS_MAX;
use super::error::Error;
use super::question::{
    Answer, Asked, Behind, Boundaries, Column, Digest, Hashes, History, Key, Keys, Question,
    RangeDigest, Read, Repair, RepairRow, Repaired, Row, RowHash, RowHashes, RowVersion, Rows,
    Said, Spec, Table, TableList, TooMany, Written, marks, vector,
};
use super::shape::{Shape, TABLES, places};
use crate::journal::Journal;
use crate::link::QuestionSource;
use crate::pg::Target;
use crate::replay::key_of;
use crate::settle::{Ledger, origins};

/// The session: read only; one backend without helpers; ranges by way of the key's index, in its
/// order, whatever the planner believes of the table; texts that are alike everywhere and lose nothing. It is closed by the server when nobody has asked for a minute. A statement that takes
/// longer than 20 s is about a range that must be smaller; a lock is never waited for long.
pub(super) const SESSION: &str = "
set default_transaction_read_only = on;
set idle_session_timeout = '60s';
set statement_timeout = '20s';
set lock_timeout = '5s';
set idle_in_transaction_session_timeout = '20s';
set max_parallel_workers_per_gather = 0;
set jit = off;
set enable_seqscan = off;
set enable_bitmapscan = off;
set enable_sort = off;
set enable_hashjoin = off;
set enable_mergejoin = off;
set datestyle = 'ISO, YMD';
set intervalstyle = 'postgres';
set timezone = 'UTC';
set extra_float_digits = 3;
set bytea_output = 'hex';
set xmlbinary = 'base64';
set lc_monetary = 'C';
set search_path = pg_catalog, pg_temp";

/// A table's shape is read again after so long: a column may have come or gone.
const SHAPE_KEPT: Duration = Duration::from_secs(10);
/// Tables whose shapes are kept.
const SHAPES_MAX: usize = 64;
/// The longest wait for what others had.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// From a landed group or a captured transaction to the look that it asks for: two steps of tasks.
const NOTICE: Duration = Duration::from_millis(5);
/// Between two looks at what has to pass.
const POLL: Duration = Duration::from_millis(5);
/// The site's own decisions may take so long to pass.
const DECISIONS: Duration = Duration::from_secs(5);

/// What stands in the way of answering at all; `None`: nothing.
pub type Waiting = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// See the module.
pub struct Answers {
    me: NodeId,
    members: Vec<NodeId>,
    target: Target,
    ledger: Arc<Ledger>,
    journal: Journal,
    waiting: Waiting,
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    client: Option<Client>,
    shapes: HashMap<Spec, (Instant, Arc<Shape>)>,
}

impl Answers {
    /// `journal` is the own one; `members` are all sites.
    pub fn new(
        me: NodeId,
        members: Vec<NodeId>,
        target: &Target,
        ledger: Arc<Ledger>,
        journal: Journal,
        waiting: Waiting,
    ) -> Arc<Self> {
        Arc::new(Answers {
            me,
            members,
            target: target.named("everywrite verify"),
            ledger,
            journal,
            waiting,
            session: Mutex::default(),
        })
    }

    /// Answers one question. Dropping it ends the question, but for what the server is doing.
    pub async fn answer(&self, question: Question) -> Answer {
        let (said, took) = match self.said(question).await {
            Ok(answered) => answered,
            Err((error, large, took)) => (error.answer(large), took),
        };
        Answer {
            took_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            said: Some(said),
        }
    }

    async fn said(&self, question: Question) -> Result<(Said, Duration), (Error, bool, Duration)> {
        let none = Duration::ZERO;
        if let Some(reason) = (self.waiting)() {
            let error = Error::NotNow(format!("the node waits for {reason}"));
            return Err((error, false, none));
        }
        let Some(asked) = question.asked else {
            let why = "the node runs an older release that does not know this question: upgrade it";
            return Err((Error::Refused(why.to_owned()), false, none));
        };
        let large = matches!(asked, Asked::Digest(_) | Asked::Hashes(_));
        // Waiting for others costs the server nothing and holds nobody up.
        if let Asked::Read(read) = &asked
            && let Some(reason) = self.wait_for(read).await
        {
            return Ok((Said::Behind(Behind { reason }), none));
        }
        let mut kept = self.session.lock().await;
        let began = Instant::now();
        // After an error, or when whoever asked has gone in the middle of a transaction, the next
        // question begins with a fresh session: an old snapshot would answer for the past.
        let mut session = std::mem::take(&mut *kept);
        let answered = self.ask(&mut session, asked).await;
        if answered.is_ok() {
            *kept = session;
        }
        let took = began.elapsed();
        answered
            .map(|said| (said, took))
            .map_err(|error| (error, large, took))
    }

    async fn ask(&self, session: &mut Session, asked: Asked) -> Result<Said, Error> {
        if session.client.as_ref().is_none_or(Client::is_closed) {
            let client = self.target.client().await?;
            client.batch_execute(SESSION).await?;
            *session = Session {
                client: Some(client),
                shapes: HashMap::new(),
            };
        }
        let Session {
            client: Some(client),
            shapes,
        } = session
        else {
            return Err(Error::NotNow("no session".to_owned()));
        };
        let spec = match &asked {
            Asked::Tables(_) => return tables(client).await,
            Asked::Boundaries(Boundaries { spec, .. })
            | Asked::Digest(Digest { spec, .. })
            | Asked::Hashes(Hashes { spec, .. })
            | Asked::Read(Read { spec, .. })
            | Asked::History(History { spec, .. })
            | Asked::Repair(Repair { spec, .. }) => spec,
        };
        let shape = match shapes.get(spec) {
            Some((read, shape)) if read.elapsed() < SHAPE_KEPT => Arc::clone(shape),
            _ => {
                if shapes.len() >= SHAPES_MAX {
                    shapes.clear();
                }
                let shape = Arc::new(Shape::load(client, spec).await?);
                shapes.insert(spec.clone(), (Instant::now(), Arc::clone(&shape)));
                shape
            }
        };
        client
            .batch_execute(&format!("set search_path = {}", shape.search_path))
            .await?;
        match &asked {
            Asked::Tables(_) => Err(Error::Refused("no table".to_owned())),
            Asked::Boundaries(asked) => boundaries(client, &shape, asked).await,
            Asked::Digest(asked) => digest(client, &shape, asked).await,
            Asked::Hashes(asked) => hashes(client, &shape, asked).await,
            Asked::Read(asked) => self.read(client, &shape, asked).await,
            Asked::History(asked) => history(client, &shape, asked).await,
            Asked::Repair(asked) => repair(client, &shape, asked).await,
        }
    }

    /// Waits until all that `read` names is applied here, and captured if it is this site's own; why
    /// not, if that takes too long.
    async fn wait_for(&self, read: &Read) -> Option<String> {
        let after = vector(&read.after);
        let limit = Duration::from_millis(read.wait_ms.into()).min(WAIT_MAX);
        let all = async {
            let own = after.get(self.me);
            let mut end = self.journal.subscribe();
            let captured = end.wait_for(|end| *end >= own).await.is_ok();
            let mut applied = self.ledger.watch_applied();
            let there = |v: &Vector| self.missing(v, &after).is_none();
            captured && applied.wait_for(there).await.is_ok()
        };
        if tokio::time::timeout(limit, all).await == Ok(true) {
            return self.look().await;
        }
        let missing = self.missing(&self.ledger.applied(), &after);
        Some(match missing {
            Some((origin, lsn)) => format!(
                "it has not applied the transactions of node {origin} up to {lsn}; `everywrite status` there says why"
            ),
            None => "its own capture is behind; `everywrite status` there says why".to_owned(),
        })
    }

    /// Waits until every row is looked at again that what is applied and captured here gives a reason
    /// to: until then it may stand although it is gone by its version. Why not, if that takes too long.
    async fn look(&self) -> Option<String> {
        // Who notices asks a moment after it is applied or captured.
        tokio::time::sleep(NOTICE).await;
        let (asked, _) = self.ledger.looks();
        let done = async {
            while self.ledger.looks().1 < asked {
                tokio::time::sleep(POLL).await;
            }
        };
        let late = tokio::time::timeout(DECISIONS, done).await.is_err();
        late.then(|| "it has rows to look at a second time, which takes long".to_owned())
    }

    /// What `here` lacks of what the others had.
    fn missing(&self, here: &Vector, after: &Vector) -> Option<(NodeId, Lsn)> {
        after.iter().find(|&(origin, lsn)| {
            origin != self.me && self.members.contains(&origin) && here.get(origin) < lsn
        })
    }

    async fn read(&self, client: &Client, shape: &Shape, asked: &Read) -> Result<Said, Error> {
        let behind = |reason: &str| {
            let reason = reason.to_owned();
            Ok(Said::Behind(Behind { reason }))
        };
        if asked.keys.len() > KEYS_MAX {
            return Err(Error::Refused("too many keys in one question".to_owned()));
        }
        // The ledger may not have noticed yet that the server has forgotten something in a crash.
        let after = vector(&asked.after);
        if self.missing(&progress(client).await?, &after).is_some() {
            return behind("its server has just been restarted");
        }
        client
            .batch_execute("begin isolation level repeatable read read only")
            .await?;
        let sql = shape.read();
        let keys: Vec<Vec<&str>> = (0..shape.key_columns())
            .map(|n| {
                asked
                    .keys
                    .iter()
                    .map(|key| key.values.get(n).map_or("", String::as_str))
                    .collect()
            })
            .collect();
        let shown = i32::try_from(asked.shown).unwrap_or(i32::MAX);
        let mut params: Vec<&(dyn ToSql + Sync)> =
            keys.iter().map(|k| k as &(dyn ToSql + Sync)).collect();
        params.push(&shown);
        let found = client.query(&sql, &params).await?;
        let leaving: Vec<i64> = client
            .query_one(
                "select coalesce(array_agg(id), '{}') from everywrite.outbox",
                &[],
            )
            .await?
            .try_get(0)?;
        // Behind the snapshot, so it covers whatever that has seen.
        let mut seen = progress(client).await?;
        client.batch_execute("commit").await?;
        // What the snapshot shows of its own decisions is in its stream once it has left: then
        // the mark stands behind it.
        if !left(client, &leaving).await? {
            return behind("deletes that it has decided do not leave it");
        }
        client.batch_execute("begin read write").await?;
        let own: i64 = client
            .query_one(
                "select (everywrite.last_commit() - '0/0'::pg_lsn)::bigint",
                &[],
            )
            .await?
            .try_get(0)?;
        client.batch_execute("commit").await?;
        seen.set(self.me, Lsn(own.unsigned_abs()));
        let rows = found
            .iter()
            .map(|row| self.row(row, shape, &asked.spec))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Said::Rows(Rows {
            rows,
            seen: marks(&seen),
        }))
    }

    fn row(&self, found: &SqlRow, shape: &Shape, spec: &Spec) -> Result<Row, Error> {
        let xmin: Option<i64> = found.try_get(0)?;
        let version = match xmin {
            Some(xmin) => Some(RowVersion {
                xmin: u32::try_from(xmin).unwrap_or(0),
                sha256: found.try_get(1)?,
                shown: found.try_get(2)?,
            }),
            None => None,
        };
        let at: Option<i64> = found.try_get(3)?;
        let origin: Option<&str> = found.try_get(4)?;
        let ours: Option<bool> = found.try_get(5)?;
        let named = origin
            .and_then(origins::node_of)
            .filter(|node| self.members.contains(node))
            .map(|node| node.0);
        let origin = match ours {
            Some(true) => Some(self.me.0),
            _ => named,
        };
        // A row of a session with another origin was never in a site's stream: it has no version.
        let by_server = at.zip(origin).map(|(stamp, origin)| Written {
            stamp,
            origin: u32::from(origin),
            exact: false,
            deleted: false,
        });
        // What the index says of another state than the one that stands here decides nothing.
        let by_index = self.indexed(found, shape, spec)?.filter(|w| {
            let by = origin.map(u32::from);
            w.deleted == version.is_none() && (at.is_none() || by == Some(w.origin))
        });
        Ok(Row {
            version,
            written: by_index.or(by_server),
        })
    }

    /// What the conflict index knows of the key.
    fn indexed(
        &self,
        found: &SqlRow,
        shape: &Shape,
        spec: &Spec,
    ) -> Result<Option<Written>, Error> {
        let Some(types) = shape.binary_key() else {
            return Ok(None);
        };
        let mut key = Vec::with_capacity(types.len());
        for (n, name) in spec.key.iter().enumerate() {
            let Raw(bytes) = found.try_get(6 + n)?;
            key.push((name.clone(), Bytes::copy_from_slice(bytes)));
        }
        let Ok((relation, hash)) = key_of(&spec.schema, &spec.table, &key, &types) else {
            return Ok(None);
        };
        let entry = self.ledger.known(relation, hash);
        Ok(entry.filter(|e| !e.in_flight()).map(|e| Written {
            stamp: e.version.stamp.0,
            origin: u32::from(e.version.origin.0),
            exact: true,
            deleted: e.deleted,
        }))
    }
}

impl QuestionSource for Shared {
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let answers = Arc::clone(&self.0);
        async move {
            let question =
                Question::decode(question).map_err(|err| format!("not a question: {err}"))?;
            Ok(answers.answer(question).await.encode_to_vec().into())
        }
        .boxed()
    }
}

/// The same, for the link: answering outlives the call that asked.
pub struct Shared(pub Arc<Answers>);

/// A value's own bytes, of any type.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Waits until these deletes have left the outbox; false if that takes too long.
async fn left(client: &Client, ids: &[i64]) -> Result<bool, Error> {
    let began = Instant::now();
    while !ids.is_empty() {
        let there: bool = client
            .query_one(
                "select exists (select from everywrite.outbox where id = any($1))",
                &[&ids],
            )
            .await?
            .try_get(0)?;
        if !there {
            break;
        }
        if began.elapsed() > DECISIONS {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

async fn progress(client: &Client) -> Result<Vector, Error> {
    let rows = client
        .query(
            "select o.roname::text, (pg_replication_origin_progress(o.roname, false) - '0/0'::pg_lsn)::bigint \
               from pg_replication_origin o where o.roname like 'everywrite\\_%'",
            &[],
        )
        .await?;
    let mut progress = Vector::new();
    for row in rows {
        let (name, lsn): (String, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(lsn) = lsn {
            origins::raise(&mut progress, &name, Lsn(lsn.unsigned_abs()));
        }
    }
    Ok(progress)
}

async fn tables(client: &Client) -> Result<Said, Error> {
    let rows = client.query(TABLES, &[]).await?;
    let table = |row: &SqlRow| {
        let (names, types): (Vec<String>, Vec<String>) = (row.try_get(3)?, row.try_get(4)?);
        let rows: i64 = row.try_get(5)?;
        Ok(Table {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            key: row.try_get(2)?,
            columns: names
                .into_iter()
                .zip(types)
                .map(|(name, type_name)| Column { name, type_name })
                .collect(),
            estimated_rows: rows.unsigned_abs(),
            sorted_by: row.try_get(6)?,
        })
    };
    let tables = rows
        .iter()
        .map(table)
        .collect::<Result<_, tokio_postgres::Error>>()?;
    Ok(Said::Tables(TableList { tables }))
}

/// The texts of the first columns of a row.
fn key(row: &SqlRow, columns: usize) -> Result<Key, tokio_postgres::Error> {
    let values = (0..columns)
        .map(|n| row.try_get(n))
        .collect::<Result<_, _>>()?;
    Ok(Key { values })
}

/// Every place must have as many values as its question's parameters.
fn checked<'a>(
    shape: &Shape,
    range: &'a super::question::Range,
) -> Result<Vec<&'a (dyn ToSql + Sync)>, Error> {
    let whole = |key: &Key| key.values.len() == shape.place_columns();
    if !range.after.iter().chain(&range.upto).all(whole) {
        return Err(Error::Refused(
            "a range is not of this table's key".to_owned(),
        ));
    }
    Ok(places(range)
        .into_iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect())
}

async fn boundaries(client: &Client, shape: &Shape, asked: &Boundaries) -> Result<Said, Error> {
    let sql = shape.boundaries(&asked.range, asked.step.max(1), asked.at_most);
    let rows = client.query(&sql, &checked(shape, &asked.range)?).await?;
    let keys = rows
        .iter()
        .map(|row| key(row, shape.place_columns()))
        .collect::<Result<_, _>>()?;
    Ok(Said::Keys(Keys { keys, last: 0 }))
}

async fn digest(client: &Client, shape: &Shape, asked: &Digest) -> Result<Said, Error> {
    let sql = shape.digest(&asked.range, asked.at_most);
    let row = client
        .query_one(&sql, &checked(shape, &asked.range)?)
        .await?;
    let (rows, digest): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if rows > i64::from(asked.at_most) {
        return Ok(Said::TooMany(TooMany {}));
    }
    Ok(Said::Digest(RangeDigest {
        rows: rows.unsigned_abs(),
        digest: digest.cast_unsigned(),
    }))
}

async fn hashes(client: &Client, shape: &Shape, asked: &Hashes) -> Result<Said, Error> {
    let sql = shape.hashes(&asked.range, asked.at_most);
    let rows = client.query(&sql, &checked(shape, &asked.range)?).await?;
    if rows.len() > asked.at_most as usize {
        return Ok(Said::TooMany(TooMany {}));
    }
    let columns = shape.key_columns();
    let row = |row: &SqlRow| {
        let hash: i64 = row.try_get(columns)?;
        Ok(RowHash {
            key: key(row, columns)?,
            hash: hash.cast_unsigned(),
        })
    };
    let rows = rows
        .iter()
        .map(row)
        .collect::<Result<_, tokio_postgres::Error>>()?;
    Ok(Said::Hashes(RowHashes { rows }))
}

async fn history(client: &Client, shape: &Shape, asked: &History) -> Result<Said, Error> {
    let spec = &asked.spec;
    let rows = client
        .query(
            &shape.history(spec, asked.at_most),
            &[&spec.schema, &spec.table, &asked.after],
        )
        .await?;
    // Nothing more is in the history: no last batch. Nothing of a portion has a key: one row of nulls.
    let last: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in &rows {
        let values = (1..=shape.key_columns())
            .map(|n| row.try_get(n))
            .collect::<Result<Vec<Option<String>>, _>>()?;
        let values: Option<Vec<String>> = values.into_iter().collect();
        keys.extend(values.map(|values| Key { values }));
    }
    let last = last.unwrap_or(0);
    Ok(Said::Keys(Keys { keys, last }))
}

/// Whether rows of a table are merged by columns.
async fn merged(client: &Client, spec: &Spec) -> Result<bool, Error> {
    let found = client
        .query_opt(
            "select from everywrite.policies where schema_name = $1 and table_name = $2 and policy = 'column_wise'",
            &[&spec.schema, &spec.table],
        )
        .await?;
    Ok(found.is_some())
}

async fn repair(client: &Client, shape: &Shape, asked: &Repair) -> Result<Said, Error> {
    let fits = |row: &RepairRow| row.key.values.len() == shape.key_columns();
    if asked.rows.len() > KEYS_MAX || !asked.rows.iter().all(fits) {
        return Err(Error::Refused("these are not this table's keys".to_owned()));
    }
    if merged(client, &asked.spec).await? {
        return Err(Error::Refused(
            "its rows are merged by columns, and one that is written as it is changes no column: set the policy \
             last_update_wins first"
                .to_owned(),
        ));
    }
    let Some(sql) = shape.repair(asked.delete) else {
        return Err(Error::Refused(
            "the table has no column that may be written".to_owned(),
        ));
    };
    client.batch_execute("begin read write").await?;
    // A row that is written as it is has nothing to tell the application's triggers. A delete has:
    // foreign keys must refuse it, or follow it.
    if !asked.delete {
        client
            .batch_execute("set local session_replication_role = replica")
            .await?;
    }
    let statement = client.prepare(&sql).await?;
    let mut done = Vec::with_capacity(asked.rows.len());
    for row in &asked.rows {
        let xmin = row.xmin.to_string();
        let values = row.key.values.iter().map(|v| v as &(dyn ToSql + Sync));
        let params: Vec<&(dyn ToSql + Sync)> =
            values.chain([&xmin as &(dyn ToSql + Sync)]).collect();
        done.push(client.execute(&statement, &params).await? > 0);
    }
    client.batch_execute("commit").await?;
    Ok(Said::Repaired(Repaired { done }))
}
