//! What a workload did, in its own words: every transaction, what it wrote, what it had read of the
//! rows it overwrote, and whether the server said that it was committed. The journals add its version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, bail};
use everywrite_conflict::policy::Epoch;
use everywrite_conflict::policy::columns::Column;
use everywrite_conflict::{KeyHash, KeyHasher, Lsn, NodeId, RelationHash, Stamp, Vector, Version};
use everywrite_node::journal::columns::Columns;
use everywrite_node::journal::ranks::Ranks;
use everywrite_node::journal::record::Header;
use parking_lot::Mutex;
use tokio_postgres::Client;

use crate::journals::{self, Extras, Journals};
use crate::{merged, postgres};

/// What a transaction left behind for one key, or for a whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A row. Every write has a tag that no other write has.
    Row {
        /// The write that made the row what it is.
        tag: String,
        /// The write that gave it its large column.
        body_tag: Option<String>,
        /// Its second unique key.
        code: Option<i64>,
    },
    /// No row.
    Gone,
}

/// One key of one table, as a transaction left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub table: &'static str,
    /// The key; none means all of them (TRUNCATE).
    pub key: Option<i64>,
    /// The tag of the row that it replaced, read under a lock in the same transaction.
    pub saw: Option<String>,
    /// What it left.
    pub effect: Effect,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT was answered.
    Acknowledged,
    /// COMMIT was sent and never answered.
    Unknown,
    /// It is committed, and was not acknowledged (found out later).
    Committed,
    /// It never was, and never will be.
    RolledBack,
}

/// What capture made of a transaction.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// What decides, where no policy does.
    pub version: Version,
    /// Its end in its site's stream.
    pub position: Lsn,
    /// What its site had of the others.
    pub vector: Vector,
    /// What comes before the version in tables that have had a policy.
    pub ranks: Arc<Ranks>,
    /// How its updates are merged, in tables that are merged by columns.
    pub columns: Arc<Columns>,
}

impl Stamped {
    /// The version of its write of a row of a workload's table, or of its TRUNCATE of the table.
    pub fn version_of(&self, table: &str, key: Option<i64>) -> Version {
        if self.ranks.is_empty() {
            return self.version;
        }
        let relation = RelationHash::new("public", table);
        let key = key.map(|key| hash(relation, key));
        self.ranks.greatest(relation, key, self.version)
    }

    /// Under which change of the table's policy its updates are merged by columns; none if they are whole rows.
    pub fn epoch(&self, table: &str) -> Option<Epoch> {
        let merges = self.columns.of(RelationHash::new("public", table));
        merges.map(|merges| merges.epoch)
    }

    /// How high its change of a column stands; none if it was not captured as one that is merged.
    pub fn height(&self, table: &str, key: i64, column: &str) -> Option<i64> {
        let relation = RelationHash::new("public", table);
        self.columns.of(relation)?;
        let column = Column::named(column);
        Some(self.columns.height(hash(relation, key), column))
    }
}

fn hash(relation: RelationHash, key: i64) -> KeyHash {
    let mut hasher = KeyHasher::new(relation);
    hasher.cell(BIGINT, Some(&key.to_be_bytes()), true).finish()
}

/// The type of the workload's keys.
const BIGINT: u32 = 20;

/// A transaction of the workload.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The site it was run at.
    pub site: usize,
    /// Its id there, with epoch.
    pub xid: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Its version; known once resolved, if a journal has it.
    pub stamped: Option<Stamped>,
    /// What it left, one entry a key.
    pub writes: Vec<Write>,
    /// The same of tables that are merged.
    pub merged: Vec<merged::writes::Write>,
    /// The tags of rows that it wrote and replaced or removed itself.
    pub passing: Vec<String>,
}

/// Everything that a workload did.
#[derive(Debug, Default)]
pub struct History {
    transactions: Mutex<Vec<Transaction>>,
}

impl History {
    /// Adds a transaction. One of the same id at the same site, whose COMMIT was not answered, was lost in
    /// a crash: a server that comes back gives the ids of what it has lost a second time, and what it says of
    /// such an id it says of the later transaction.
    pub fn record(&self, transaction: Transaction) {
        let mut transactions = self.transactions.lock();
        let same = |t: &&mut Transaction| (t.site, t.xid) == (transaction.site, transaction.xid);
        for lost in transactions.iter_mut().rev().filter(same) {
            if lost.outcome == Outcome::Unknown {
                lost.outcome = Outcome::RolledBack;
            }
        }
        transactions.push(transaction);
    }

    /// All transactions, as far as they are known.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.transactions.lock().clone()
    }

    /// How many transactions were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let of = |t: &&Transaction| t.outcome == Outcome::Acknowledged;
        self.transactions.lock().iter().filter(of).count()
    }

    /// Finds out what became of the transactions of a site whose COMMIT was not answered, at its
    /// server, and the version of each in the journals of `origin`, as the site is called there. An
    /// acknowledged one that the server does not know as committed is an error: then it is the server, or
    /// its disk, that loses data. What is wrong otherwise is returned.
    pub async fn resolve(
        &self,
        site: usize,
        origin: NodeId,
        client: &Client,
        journals: &Journals,
    ) -> anyhow::Result<Vec<String>> {
        let headers = journals.of(origin);
        let commits: BTreeSet<i64> = headers
            .values()
            .map(|h| h.commit_time.to_unix_us())
            .collect();
        let mut wrong = Vec::new();
        let wanted: Vec<(u64, usize)> = {
            let transactions = self.transactions.lock();
            let here = transactions.iter().enumerate();
            here.filter(|(_, t)| t.site == site && t.outcome != Outcome::RolledBack)
                .map(|(index, t)| (t.xid, index))
                .collect()
        };
        for part in wanted.chunks(5_000) {
            let xids: Vec<String> = part.iter().map(|(xid, _)| xid.to_string()).collect();
            let sql = format!(
                "select pg_xact_status(x::xid8), \
                 (extract(epoch from pg_xact_commit_timestamp(x::xid8::xid)) * 1000000)::bigint \
                 from unnest('{{{}}}'::text[]) with ordinality as u (x, n) order by n",
                xids.join(",")
            );
            let rows = postgres::rows(client, &sql).await?;
            for (&(xid, index), row) in part.iter().zip(rows) {
                let [status, at] = row.as_slice() else {
                    bail!("unexpected answer about transactions: {row:?}");
                };
                let at = at.as_deref().and_then(|at| at.parse().ok());
                // The journals name transactions without their epoch.
                let header = u32::try_from(xid & u64::from(u32::MAX))
                    .ok()
                    .and_then(|xid| headers.get(&xid).copied());
                // A server that comes back gives the ids of what it has lost a second time, also to the
                // subtransactions of a later transaction, and they commit when that one does.
                let another = header.is_none() && at.is_some_and(|at| commits.contains(&at));
                let status = match another {
                    true => Some("aborted"),
                    false => status.as_deref(),
                };
                let extras = header.map(|h| journals.extras(origin, h.position));
                let found = header.zip(extras);
                wrong.extend(self.settle(index, status, at, origin, found)?);
            }
        }
        Ok(wrong)
    }

    fn settle(
        &self,
        index: usize,
        status: Option<&str>,
        committed_at_us: Option<i64>,
        origin: NodeId,
        found_in_journal: Option<(&Header, Extras)>,
    ) -> anyhow::Result<Option<String>> {
        let mut transactions = self.transactions.lock();
        let found = transactions
            .get_mut(index)
            .context("a transaction that is gone")?;
        match (status, found.outcome) {
            (Some("committed"), outcome) => {
                if outcome == Outcome::Unknown {
                    found.outcome = Outcome::Committed;
                }
            }
            (Some("aborted"), Outcome::Unknown) => {
                found.outcome = Outcome::RolledBack;
                let told = format!("rolled back, and in a journal: {found:?}");
                return Ok(found_in_journal.map(|(header, _)| format!("{told} {header:?}")));
            }
            (status, outcome) => bail!(
                "transaction {} of site {} is {outcome:?}, its server says {status:?}",
                found.xid,
                found.site
            ),
        }
        let Some((header, Extras { ranks, columns })) = found_in_journal else {
            return Ok(Some(format!("committed, and in no journal: {found:?}")));
        };
        found.stamped = Some(Stamped {
            version: journals::version(origin, header),
            position: header.position,
            vector: header.vector.clone(),
            ranks,
            columns,
        });
        let committed_at = committed_at_us.map(Stamp::from_unix_us);
        let told = format!(
            "committed at {committed_at:?}, the journal says {header:?}: {:?}",
            found.writes
        );
        Ok((committed_at != Some(header.commit_time)).then_some(told))
    }

    /// The transaction that wrote each tag, committed or not; rows that it replaced itself among them.
    pub fn writers(&self) -> BTreeMap<String, Transaction> {
        let transactions = self.transactions.lock();
        let mut writers = BTreeMap::new();
        for transaction in transactions.iter() {
            for tag in &transaction.passing {
                writers.insert(tag.clone(), transaction.clone());
            }
            for write in &transaction.writes {
                if let Effect::Row { tag, .. } = &write.effect {
                    writers.insert(tag.clone(), transaction.clone());
                }
            }
        }
        writers
    }

    /// The transactions that are committed, acknowledged or not.
    pub fn committed(&self) -> Vec<Transaction> {
        let committed = |t: &&Transaction| {
            matches!(t.outcome, Outcome::Acknowledged | Outcome::Committed)
                && !(t.writes.is_empty() && t.merged.is_empty())
        };
        let transactions = self.transactions.lock();
        transactions.iter().filter(committed).cloned().collect()
    }
}
