//! One row's values, asked of another site or answered to one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everywrite_conflict::{Entry, KeyHash, NodeId, Position, RelationHash};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::image::Image;
use super::mapping::Mapping;
use super::table::Table;
use super::{Error, Toast, Values};
use crate::journal::Journal;
use crate::link::{FetchRow, Handle, RowSource};
use crate::pg::Target;
use crate::pg::pgoutput::{Cell, OwnedColumn, OwnedRelation};
use crate::pg::pipeline::{Batch, Session};
use crate::pg::quote::identifier;
use crate::settle::{Barriers, Beats, Identity, Ledger};

/// How long a site that is asked waits until it has the transaction. The asker tries others then.
const WAIT: Duration = Duration::from_secs(5);

/// Answers from the local server, and asks the others.
pub struct Rows {
    me: NodeId,
    target: Target,
    ledger: Arc<Ledger>,
    journal: Journal,
    beats: Arc<Beats>,
    links: Mutex<Option<Handle>>,
    barriers: Mutex<Option<Barriers>>,
}

impl Rows {
    /// `journal` is the own one.
    pub fn new(
        me: NodeId,
        target: Target,
        ledger: Arc<Ledger>,
        journal: Journal,
        beats: Arc<Beats>,
    ) -> Arc<Self> {
        Arc::new(Rows {
            me,
            target,
            ledger,
            journal,
            beats,
            links: Mutex::new(None),
            barriers: Mutex::new(None),
        })
    }

    /// The links are up; before, nobody can be asked.
    pub fn use_links(&self, handle: Handle) {
        *self.links.lock() = Some(handle);
    }

    /// Capture runs; before, nothing can be answered.
    pub fn use_barriers(&self, barriers: Barriers) {
        *self.barriers.lock() = Some(barriers);
    }

    async fn ask(
        &self,
        position: Position,
        mapping: &Mapping,
        key: &Image,
        columns: &[usize],
    ) -> Result<Option<Values>, Error> {
        let Some(links) = self.links.lock().clone() else {
            return Err(Error::Toast("the links are not up yet".to_owned()));
        };
        let cells: Vec<Cell<'_>> = key.tuple().iter().collect();
        let name = |i: usize| {
            mapping
                .columns
                .get(i)
                .map_or_else(String::new, |c| c.name.clone())
        };
        let value = |i: usize| match cells.get(i) {
            Some(Cell::Binary(bytes) | Cell::Text(bytes)) => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        };
        let row = FetchRow {
            schema: mapping.table.schema.clone(),
            table: mapping.table.name.clone(),
            key: mapping.key_cells().map(|i| (name(i), value(i))).collect(),
            columns: columns.iter().map(|&i| name(i)).collect(),
            at: position,
        };
        // The origin has the row; so has everybody who has applied the transaction.
        let mut sites = vec![position.origin];
        let others = self
            .beats
            .all()
            .into_iter()
            .filter(|b| b.applied.covers(position))
            .map(|b| b.node);
        sites.extend(others.filter(|n| *n != position.origin && *n != self.me));
        let mut why = String::new();
        for site in sites {
            match links.fetch_row(site, row.clone()).await {
                Ok(found) => return Ok(found.map(|f| f.values)),
                Err(error) => why = error.to_string(),
            }
        }
        Err(Error::Toast(why))
    }

    async fn answer(&self, row: FetchRow) -> Result<Option<Values>, String> {
        let wait = async {
            if row.at.origin == self.me {
                let mut end = self.journal.subscribe();
                end.wait_for(|end| *end >= row.at.lsn).await.is_ok()
            } else {
                let mut applied = self.ledger.watch_applied();
                applied.wait_for(|v| v.covers(row.at)).await.is_ok()
            }
        };
        match tokio::time::timeout(WAIT, wait).await {
            Ok(true) => {}
            _ => {
                return Err(format!(
                    "the transaction {} is not applied here yet",
                    row.at
                ));
            }
        }
        self.exactly(&row).await
    }

    /// The values, if the row is the very version that was asked for; `None` if that is replaced.
    /// Locks nothing: a session that asks holds locks itself, and two sites may ask each other.
    async fn exactly(&self, row: &FetchRow) -> Result<Option<Values>, String> {
        let barriers = self.barriers.lock().clone();
        let barriers = barriers.ok_or("capture does not run yet")?;
        let (found, relation, key) = self.read(row).await.map_err(|e| e.chain())?;
        // Whatever was written to the row before it was read is in the index after this.
        if !barriers.pass().await {
            return Err("the daemon is shutting down".to_owned());
        }
        // A large transaction is announced in parts: what it wrote before its TRUNCATE went with the table.
        if found.is_none() && self.ledger.truncated_at(relation, row.at) {
            return Ok(None);
        }
        let entry = self.ledger.known(relation, key);
        very(row.at, entry, found).map_err(str::to_owned)
    }

    async fn read(&self, row: &FetchRow) -> Result<(Option<Values>, RelationHash, KeyHash), Error> {
        let target = self.target.named("everywrite rows");
        let client = target.client().await?;
        let no = |what: String| Error::Schema {
            table: format!("{}.{}", row.schema, row.table),
            what,
        };
        let table = Table::load(&client, &row.schema, &row.table).await?;
        let table = table.ok_or_else(|| no("it does not exist here".to_owned()))?;
        let mut types = Vec::new();
        let mut condition = Vec::new();
        for (n, (name, _)) in row.key.iter().enumerate() {
            let column = table
                .column(name)
                .ok_or_else(|| no(format!("the column \"{name}\" does not exist here")))?;
            types.push(column.type_oid);
            condition.push(format!("{} = ${}", column.quoted, n + 1));
        }
        let (relation, key) = key_of(&row.schema, &row.table, &row.key, &types)?;
        let columns: Vec<String> = row.columns.iter().map(|c| identifier(c)).collect();
        let sql = format!(
            "select {} from {} where {}",
            columns.join(", "),
            table.quoted,
            condition.join(" and ")
        );
        let mut session = Session::connect(&target, &[]).await?;
        let mut batch = Batch::new();
        batch.parse("row", &sql, &types);
        let mut bind = batch.bind("row");
        for (_, value) in &row.key {
            bind = bind.binary(Some(value));
        }
        let at = bind.execute();
        let mut outcomes = session.run(&mut batch).await?;
        let found = outcomes.get_mut(at).and_then(|o| o.rows.pop());
        Ok((found, relation, key))
    }
}

/// The values that were found, if the index says that their row is the very version: see
/// [`Rows::exactly`]. An error: somebody else may know, or this site a little later.
fn very(
    at: Position,
    entry: Option<Entry>,
    found: Option<Values>,
) -> Result<Option<Values>, &'static str> {
    // Who asks has not replayed the transaction, so it is not stable, and its key not forgotten. If it is
    // nevertheless, nothing says which version the row is: that must not be guessed.
    let entry = entry.ok_or("the index does not know the row's version any more")?;
    match found {
        _ if entry.undecided() => Err("the row is being decided"),
        _ if entry.source != Some(at) || entry.deleted => Ok(None),
        Some(values) if !entry.in_flight() => Ok(Some(values)),
        // Committed, and not visible for a moment.
        _ => Err("the row is not visible yet"),
    }
}

/// How the index knows a row: by the names, binary values and types of its key's columns.
pub(crate) fn key_of(
    schema: &str,
    table: &str,
    key: &[(String, Bytes)],
    types: &[u32],
) -> Result<(RelationHash, KeyHash), Error> {
    let column = |((name, _), type_oid): (&(String, Bytes), &u32)| OwnedColumn {
        key: true,
        name: name.clone(),
        type_oid: *type_oid,
        type_modifier: -1,
    };
    let relation = OwnedRelation {
        id: 0,
        namespace: schema.to_owned(),
        name: table.to_owned(),
        replica_identity: b'd',
        columns: key.iter().zip(types).map(column).collect(),
    };
    let identity = Identity::of(&relation, None);
    let cells: Vec<Cell<'_>> = key.iter().map(|(_, v)| Cell::Binary(v)).collect();
    let image = Image::from_cells(cells.into_iter());
    let hash = identity.hash(&image.tuple());
    let hash = hash.map_err(|source| Error::Key {
        table: format!("{schema}.{table}"),
        source,
    })?;
    let hash = hash.ok_or_else(|| Error::NoKey(format!("{schema}.{table}")))?;
    Ok((identity.relation, hash))
}

/// The same, shared: answering outlives the call that asked.
#[derive(Clone)]
pub struct Answers(pub Arc<Rows>);

impl RowSource for Answers {
    fn fetch(
        &self,
        row: FetchRow,
    ) -> BoxFuture<'static, Result<Option<Vec<Option<Bytes>>>, String>> {
        let rows = Arc::clone(&self.0);
        async move { rows.answer(row).await }.boxed()
    }
}

impl Toast for Rows {
    fn fetch<'a>(
        &'a self,
        position: Position,
        mapping: &'a Mapping,
        key: &'a Image,
        columns: &'a [usize],
    ) -> BoxFuture<'a, Result<Option<Values>, Error>> {
        self.ask(position, mapping, key, columns).boxed()
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::{Lsn, Stamp, Version};

    use super::*;

    const AT: Position = Position {
        origin: NodeId(2),
        lsn: Lsn(10),
    };

    fn entry(source: Option<Position>, deleted: bool, local_lsn: Lsn) -> Option<Entry> {
        let version = Version::new(Stamp(5), NodeId(2));
        Some(Entry {
            version,
            source,
            deleted,
            local_lsn,
        })
    }

    fn found() -> Option<Values> {
        Some(vec![Some(Bytes::from_static(b"large"))])
    }

    #[test]
    fn values_only_of_the_very_version() {
        let standing = entry(Some(AT), false, Lsn(7));
        assert_eq!(very(AT, standing, found()), Ok(found()));
        let later = Position { lsn: Lsn(11), ..AT };
        let replaced = entry(Some(later), false, Lsn(7));
        assert_eq!(very(AT, replaced, found()), Ok(None));
        assert_eq!(very(AT, entry(Some(AT), true, Lsn(7)), None), Ok(None));
    }

    #[test]
    fn a_version_that_is_not_known_is_not_guessed() {
        assert!(very(AT, None, found()).is_err());
        assert!(very(AT, None, None).is_err());
    }

    #[test]
    fn what_is_open_is_asked_for_again() {
        assert!(very(AT, entry(None, true, Lsn::MAX), found()).is_err());
        assert!(very(AT, entry(Some(AT), false, Lsn::MAX), found()).is_err());
        assert!(very(AT, entry(Some(AT), false, Lsn(7)), None).is_err());
    }
}
