//! Batches → statements of one session. Everything of a group goes into one buffer, so that the
//! usual group costs one write and one answer.

use bytes::Bytes;
use everywrite_conflict::{KeyHash, Lsn, NodeId, Position, Stamp, Vector, Version};

use super::Error;
use super::arrays::Arrays;
use super::batch::{RowKey, TableBatch};
use super::history::{self, set::Common};
use super::image::Image;
use super::mapping::{Mapping, Statement};
use super::wal_position::wal_position;
use crate::admin::schema::{INSERT_LEFT_OUT, INSERT_LEFT_OUT_TYPES, key_bytes};
use crate::pg;
use crate::pg::oid::{BYTEA, INT4, LSN, TEXT, TIMESTAMPTZ};
use crate::pg::pgoutput::Cell;
use crate::pg::pipeline::{self, Array, Bind, Format, Outcome, Session};
use crate::settle::LeavesOut;

/// From this many rows on a set is written as arrays; below, a statement a row is as cheap.
const SET_ROWS: usize = 4;
/// From this many rows on what is updated is found all at once, if the key allows it; below, it is not worth
/// two statements more.
const LARGE_SET_ROWS: usize = 128;
/// From this many rows on `COPY` wins over arrays: it is parsed anew each time.
const COPY_ROWS: usize = 24;

/// Gives a transaction its origin's position and time.
const POSITION: &str = "select pg_catalog.pg_replication_origin_xact_setup($1, $2)";

/// How rows are protected from being written blindly over something newer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {
    /// Rows that a local transaction from this id on wrote are not touched.
    Horizon(u32),
    /// The rows are locked and decided.
    Decided,
}

/// How a transaction failed.
pub(super) enum Failed {
    /// Before the commit: nothing of it stands.
    Before(Error),
    /// The server has answered the commit with an error: nothing of it stands.
    Refused(Error),
    /// Nobody has answered: it may be committed.
    Unknown(Error),
}

/// A replay session and the statements on their way to it.
pub(super) struct Writer {
    session: Session,
    /// The replication origin that it bears.
    origin: String,
    out: pipeline::Batch,
}

impl Writer {
    /// Takes over a session that is set up.
    pub(super) fn new(session: Session, origin: impl Into<String>) -> Self {
        Writer {
            session,
            origin: origin.into(),
            out: pipeline::Batch::new(),
        }
    }

    /// Sends what was written so far; [`receive`](Self::receive) gets the answer.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        Ok(self.session.send(&mut self.out).await?)
    }

    /// Sends it without waiting until the system has taken all of it.
    pub(super) fn send_behind(&mut self) -> Result<(), Error> {
        Ok(self.session.send_behind(&mut self.out)?)
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether the session is lost.
    pub(super) fn is_broken(&self) -> bool {
        self.session.is_broken()
    }

    /// The server process behind the session.
    pub(super) fn process_id(&self) -> i32 {
        self.session.process_id().unwrap_or_default()
    }

    /// The outcomes of what was sent.
    pub(super) async fn receive(&mut self) -> Result<Vec<Outcome>, Error> {
        self.session.receive().await.map_err(guard_failed)
    }

    /// Both.
    pub(super) async fn run(&mut self) -> Result<Vec<Outcome>, Error> {
        self.session.run(&mut self.out).await.map_err(guard_failed)
    }

    /// Gives up an open transaction.
    pub(super) async fn rollback(&mut self) -> Result<(), Error> {
        self.out.clear();
        if self.session.status() != pipeline::TransactionStatus::Idle {
            self.out.execute_sql("rollback");
            self.session.run(&mut self.out).await?;
        }
        Ok(())
    }

    /// Forgets what was written and not sent.
    pub(super) fn clear(&mut self) {
        self.out.clear();
    }

    /// Plain SQL.
    pub(super) fn sql(&mut self, sql: &str) -> usize {
        self.out.execute_sql(sql)
    }

    /// A prepared statement by name.
    pub(super) fn bind(&mut self, name: &str, sql: &str, types: &[u32]) -> Bind<'_> {
        if !self.session.is_prepared(name) && !self.out.parses(name) {
            self.out.parse(name, sql, types);
        }
        self.out.bind(name)
    }

    fn statement(&mut self, mapping: &Mapping, statement: &Statement) -> Bind<'_> {
        let name = mapping.statement_name(statement);
        if !self.session.is_prepared(&name) && !self.out.parses(&name) {
            let (sql, types) = mapping.sql(statement);
            self.out.parse(&name, &sql, &types);
        }
        self.out.bind(&name)
    }

    /// Commits what was written so far with the origin's position and time (I1), and asks before and behind that where the
    /// WAL is: one answer, for [`committed`](Self::committed).
    ///
    /// From PostgreSQL 16 on a transaction that is *rolled back* moves the origin's progress as well,
    /// if it has a position. So it gets one only with the commit, in one message: whatever fails
    /// or breaks before takes nothing from the progress.
    pub(super) fn commit(&mut self, position: Lsn, stamp: Stamp) {
        self.wal_position();
        self.out.mark();
        if self.session.server_version() < 16 {
            self.bind("position", POSITION, &[LSN, TIMESTAMPTZ])
                .binary(Some(&position.0.to_be_bytes()))
                .binary(Some(&stamp.0.to_be_bytes()))
                .execute();
            self.bind("commit", "commit", &[]).execute();
        } else {
            let sql = format!(
                "select pg_catalog.pg_replication_origin_xact_setup('{position}', \
                 timestamptz '2000-01-01 00:00:00+00' + interval '{} microseconds'); commit",
                stamp.0
            );
            self.out.simple(&sql, 2);
        }
        self.wal_position();
        self.out.sync();
    }

    /// What became of a transaction that was sent with [`commit`](Self::commit): the WAL positions before and after
    /// its commit. May be cancelled.
    pub(super) async fn committed(&mut self) -> Result<(Lsn, Lsn), Failed> {
        let outcomes = match self.session.receive().await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let failed = match error {
                    pg::Error::Statement {
                        behind_mark: None, ..
                    } => Failed::Before,
                    // The position, or the commit itself.
                    pg::Error::Statement {
                        behind_mark: Some(0 | 1),
                        ..
                    } => Failed::Refused,
                    _ => Failed::Unknown,
                };
                return Err(failed(guard_failed(error)));
            }
        };
        // Behind the first of the two come the position and the commit.
        let until = |end: usize| wal_position(outcomes.get(..end).unwrap_or_default());
        let all = outcomes.len();
        Ok((until(all.saturating_sub(3)), until(all)))
    }

    /// The answers to a transaction that was chained to one which has failed.
    pub(super) async fn failed(&mut self) -> Result<(), Error> {
        match self.committed().await {
            Err(Failed::Before(_)) => Ok(()),
            Err(Failed::Unknown(error)) => Err(error),
            Ok(_) | Err(Failed::Refused(_)) => Err(Error::Again(
                "a group was committed although the one before it was not",
            )),
        }
    }

    /// The transaction takes the name `this`, which stands only if it is committed; and fails unless
    /// that of the transaction `before` stands.
    pub(super) fn chain(&mut self, before: Option<Lsn>, this: Lsn) {
        if let Some(before) = before {
            let sql = "select everywrite.expect((pg_catalog.current_setting('everywrite.group', true) \
                       operator(pg_catalog.=) $1)::int::bigint, 1)";
            self.bind("chained", sql, &[TEXT])
                .text(Some(before.to_string().as_bytes()))
                .execute();
        }
        let sql = "select pg_catalog.set_config('everywrite.group', $1, false)";
        self.bind("chain", sql, &[TEXT])
            .text(Some(this.to_string().as_bytes()))
            .execute();
    }

    /// The commit was refused, and from PostgreSQL 16 on the origin's progress counts it all the
    /// same: sets it back to what is applied.
    pub(super) async fn refused(&mut self, applied: Lsn) -> Result<(), Error> {
        self.rollback().await?;
        let name = self.origin.clone();
        if self.session.server_version() < 16 {
            return Ok(());
        }
        for sql in [
            "select pg_replication_origin_session_reset()".to_owned(),
            format!("select pg_replication_origin_advance('{name}', '{applied}')"),
            format!("select pg_replication_origin_session_setup('{name}')"),
        ] {
            self.session.query_simple(&sql).await?;
        }
        Ok(())
    }

    /// The transaction's commit is flushed.
    pub(super) fn flushed(&mut self) {
        self.bind("flushed", "set local synchronous_commit = local", &[])
            .execute();
    }

    /// Keeps which rows are older than writes of them that were left out, and where what those lost to stands.
    pub(super) fn left_out(&mut self, left: &[LeavesOut]) {
        let array = |oid| Array::new(oid, left.len());
        let (mut keys, mut origins, mut befores) = (array(BYTEA), array(INT4), array(LSN));
        let (mut newer_origins, mut newer_positions) = (array(INT4), array(LSN));
        for one in left {
            let node = |node: NodeId| i32::from(node.0).to_be_bytes();
            keys.push(Some(&key_bytes(one.key)));
            origins.push(Some(&node(one.origin)));
            befores.push(Some(&one.before.0.to_be_bytes()));
            newer_origins.push(Some(&node(one.newer.origin)));
            newer_positions.push(Some(&one.newer.lsn.0.to_be_bytes()));
        }
        self.bind("left_out", INSERT_LEFT_OUT, &INSERT_LEFT_OUT_TYPES)
            .array(keys)
            .array(origins)
            .array(befores)
            .array(newer_origins)
            .array(newer_positions)
            .execute();
    }

    /// Gives the transaction an id, so that an empty group moves the origin's progress too.
    pub(super) fn force_xid(&mut self) {
        self.bind("force_xid", "select pg_catalog.pg_current_xact_id()", &[])
            .execute();
    }

    /// Asks where the WAL is. Its place among the outcomes.
    pub(super) fn wal_position(&mut self) -> usize {
        self.bind(
            "wal_position",
            "select pg_catalog.pg_current_wal_insert_lsn()",
            &[],
        )
        .execute()
    }

    /// Gives up what is open and begins a transaction that decides before it writes: it has an id at
    /// once. Returns a place of the local WAL behind which it commits.
    pub(super) async fn begin_deciding(&mut self) -> Result<Lsn, Error> {
        self.rollback().await?;
        self.begin();
        self.force_xid();
        self.wal_position();
        Ok(wal_position(&self.run().await?))
    }

    /// Asks whether somebody has a lock, or stands before it in the queue for one, that another server process waits for.
    pub(super) fn is_blocked(&mut self, process: i32) {
        let sql = "select pg_catalog.cardinality(pg_catalog.pg_blocking_pids($1)) operator(pg_catalog.>) 0";
        self.bind("is_blocked", sql, &[INT4])
            .binary(Some(&process.to_be_bytes()))
            .execute();
    }

    /// Asks how far the transactions are committed that two replication origins stand for.
    pub(super) fn progress(&mut self, first: &str, second: &str) -> usize {
        let sql = "select pg_catalog.max(pg_catalog.pg_replication_origin_progress(o.roname, false)) \
                   from pg_catalog.pg_replication_origin o \
                   where o.roname operator(pg_catalog.=) $1 or o.roname operator(pg_catalog.=) $2";
        self.bind("progress", sql, &[TEXT, TEXT])
            .text(Some(first.as_bytes()))
            .text(Some(second.as_bytes()))
            .text_rows()
            .execute()
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self) {
        self.bind("begin", "begin", &[]).execute();
    }

    /// Writes net changes of one table: deletes, then updates, then inserts, so that what a row
    /// gives up is free before another takes it.
    pub(super) fn write(
        &mut self,
        mapping: &Mapping,
        deletes: &[&RowKey],
        updates: &[&Image],
        inserts: &[&Image],
        guard: Guard,
    ) {
        self.delete(mapping, deletes, guard, true);
        self.update(mapping, updates, guard);
        self.insert(mapping, inserts);
    }

    /// A table's net changes as the fast path writes them, of the keys that are wanted and of rows that have none.
    pub(super) fn write_fast(
        &mut self,
        table: &TableBatch,
        horizon: u32,
        wanted: impl Fn(KeyHash) -> bool,
        appends: bool,
    ) {
        use everywrite_conflict::Net;
        let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
        let mut removes = Vec::new();
        let may_lose = !table.mapping.second_unique.is_empty();
        for slot in table.slots.iter().filter(|s| wanted(s.hash())) {
            match &slot.folded.net {
                Net::Insert(image) => inserts.push(image),
                Net::Update(image) | Net::Replace(image) => updates.push(image),
                Net::Delete => deletes.push(&slot.folded.key),
                Net::Nothing if may_lose => removes.push(&slot.folded.key),
                Net::Nothing => {}
            }
        }
        if appends {
            inserts.extend(&table.appends);
        }
        let guard = Guard::Horizon(horizon);
        self.remove(&table.mapping, &removes, guard);
        self.write(&table.mapping, &deletes, &updates, &inserts, guard);
    }

    /// Removes what is there of rows that a group has brought and taken. None stood where they were inserted, but one may
    /// here: one that had lost a second unique value there goes by a delete that does not leave if its key is written again.
    pub(super) fn remove(&mut self, mapping: &Mapping, rows: &[&RowKey], guard: Guard) {
        self.delete(mapping, rows, guard, false);
    }

    fn insert(&mut self, mapping: &Mapping, rows: &[&Image]) {
        let binary = rows.iter().all(|r| !r.has_text());
        if rows.len() >= COPY_ROWS && binary {
            let written = mapping.written();
            let whole = written.len() == mapping.columns.len();
            let mut copy = self.out.copy_in(&mapping.copy_sql()).binary();
            let count = u16::try_from(written.len()).unwrap_or(u16::MAX);
            for row in rows {
                copy.row(count);
                for (i, cell) in row.tuple().iter().enumerate() {
                    if whole || written.contains(&i) {
                        copy.field(mapping.binary(i, cell).as_deref());
                    }
                }
            }
            copy.finish();
        } else if rows.len() >= SET_ROWS && binary && mapping.sets {
            self.insert_set(mapping, rows);
        } else {
            let written = mapping.written();
            for row in rows {
                let cells: Vec<Cell<'_>> = row.tuple().iter().collect();
                let bind = self.statement(mapping, &Statement::Insert);
                bind_cells(bind, mapping, &written, &cells).execute();
            }
        }
    }

    /// Rows in binary form, as arrays in one statement.
    pub(super) fn insert_set(&mut self, mapping: &Mapping, rows: &[&Image]) {
        let arrays = Arrays::of(mapping, &mapping.written(), rows);
        arrays
            .bind(self.statement(mapping, &Statement::InsertSet))
            .execute();
    }

    fn update(&mut self, mapping: &Mapping, rows: &[&Image], guard: Guard) {
        let key: Vec<usize> = mapping.key_cells().collect();
        let in_sets = |r: &&&Image| mapping.sets && !r.incomplete() && !r.has_text();
        let sets: Vec<&Image> = rows.iter().filter(in_sets).copied().collect();
        let as_set = sets.len() >= SET_ROWS;
        if as_set {
            let mut all = mapping.updated(&[]);
            all.extend(&key);
            let arrays = Arrays::of(mapping, &all, &sets);
            let large = is_large(mapping, sets.len());
            let statement = match large {
                true => Statement::UpdateLargeSet,
                false => Statement::UpdateSet,
            };
            self.nested_loops(large, false);
            let bind = arrays.bind(self.statement(mapping, &statement));
            bind_guard(bind, guard)
                .binary(Some(&(sets.len() as i64).to_be_bytes()))
                .execute();
            self.nested_loops(large, true);
        }
        for row in rows.iter().filter(|r| !as_set || !in_sets(r)) {
            let missing = row.missing();
            let written = mapping.updated(&missing);
            let cells: Vec<Cell<'_>> = row.tuple().iter().collect();
            let bind = self.statement(mapping, &Statement::Update(missing));
            let bind = bind_cells(bind, mapping, &written, &cells);
            bind_guard(bind_cells(bind, mapping, &key, &cells), guard).execute();
        }
    }

    /// Around a large set: its rows are found first, all at once, and then joined with what is to become of them.
    fn nested_loops(&mut self, large: bool, on: bool) {
        let (name, sql) = match on {
            true => ("rows", "set local enable_nestloop to default"),
            false => ("sets", "set local enable_nestloop = off"),
        };
        if large {
            self.bind(name, sql, &[]).execute();
        }
    }

    /// Changes some columns of one row, which is locked.
    pub(super) fn merge(&mut self, mapping: &Mapping, old: &Image, new: &Image, taken: &Taken) {
        let Taken {
            values,
            differences,
            sets,
        } = taken;
        let key: Vec<usize> = mapping.key_cells().collect();
        let before: Vec<Cell<'_>> = old.tuple().iter().collect();
        let after: Vec<Cell<'_>> = new.tuple().iter().collect();
        let statement = Statement::Merge {
            values: values.clone(),
            differences: differences.clone(),
            sets: sets.iter().map(|set| set.cell).collect(),
        };
        let bind = self.statement(mapping, &statement);
        let mut bind = bind_cells(bind, mapping, values, &after);
        for cell in differences {
            bind = bind_cells(bind, mapping, &[*cell], &after);
            bind = bind_cells(bind, mapping, &[*cell], &before);
        }
        for set in sets {
            bind = bind.binary(Some(&set.goes)).binary(Some(&set.comes));
        }
        bind_cells(bind, mapping, &key, &after).execute();
    }

    /// Reports it if the difference has brought the row below the floor.
    pub(super) fn floor(&mut self, mapping: &Mapping, old: &Image, new: &Image, floor: &Floor<'_>) {
        let key: Vec<usize> = mapping.key_cells().collect();
        let before: Vec<Cell<'_>> = old.tuple().iter().collect();
        let after: Vec<Cell<'_>> = new.tuple().iter().collect();
        let (sql, types) = mapping.floor_sql(floor.cell);
        let name = format!("m{}f{}", mapping.number, floor.cell);
        let bind = self.bind(&name, &sql, &types);
        let bind = bind_cells(bind, mapping, &key, &after);
        let bind = bind_cells(bind, mapping, &[floor.cell], &after);
        let bind = bind_cells(bind, mapping, &[floor.cell], &before);
        let node = |n: NodeId| i32::from(n.0).to_be_bytes();
        bind.text(Some(floor.floor.as_bytes()))
            .binary(Some(&floor.version.stamp.0.to_be_bytes()))
            .binary(Some(&node(floor.version.origin)))
            .binary(Some(&node(floor.position.origin)))
            .binary(Some(&floor.position.lsn.0.to_be_bytes()))
            .binary(Some(&i64::from(floor.xid).to_be_bytes()))
            .execute();
    }

    /// `all`: each of them must be there.
    fn delete(&mut self, mapping: &Mapping, rows: &[&RowKey], guard: Guard, all: bool) {
        let (one, set) = match all {
            true => (Statement::Delete, Statement::DeleteSet),
            false => (Statement::Remove, Statement::RemoveSet),
        };
        let key: Vec<usize> = mapping.key_cells().collect();
        if rows.len() >= SET_ROWS && mapping.sets && rows.iter().all(|r| !r.image.has_text()) {
            let images: Vec<&Image> = rows.iter().map(|r| &r.image).collect();
            let arrays = Arrays::of(mapping, &key, &images);
            let mut bind = bind_guard(arrays.bind(self.statement(mapping, &set)), guard);
            if all {
                bind = bind.binary(Some(&(rows.len() as i64).to_be_bytes()));
            }
            bind.execute();
            return;
        }
        for row in rows {
            let cells: Vec<Cell<'_>> = row.image.tuple().iter().collect();
            let bind = self.statement(mapping, &one);
            bind_guard(bind_cells(bind, mapping, &key, &cells), guard).execute();
        }
    }

    /// Locks rows by key. Returns how many outcomes follow: one for a set (rows of ord, recent),
    /// else one a row (no row, or one of 1, recent).
    pub(super) fn lock(&mut self, mapping: &Mapping, rows: &[&Image], horizon: u32) -> Locks {
        let key: Vec<usize> = mapping.key_cells().collect();
        if rows.len() >= SET_ROWS && mapping.sets && rows.iter().all(|r| !r.has_text()) {
            let arrays = Arrays::of(mapping, &key, rows);
            let large = is_large(mapping, rows.len());
            let statement = match large {
                true => Statement::LockLargeSet,
                false => Statement::LockSet,
            };
            self.nested_loops(large, false);
            let bind = arrays.bind(self.statement(mapping, &statement));
            let at = bind_guard(bind, Guard::Horizon(horizon)).execute();
            self.nested_loops(large, true);
            return Locks::Set(at);
        }
        let mut first = None;
        for row in rows {
            let cells: Vec<Cell<'_>> = row.tuple().iter().collect();
            let bind = self.statement(mapping, &Statement::Lock);
            let at = bind_guard(
                bind_cells(bind, mapping, &key, &cells),
                Guard::Horizon(horizon),
            )
            .execute();
            first.get_or_insert(at);
        }
        Locks::Each(first.unwrap_or(0))
    }

    /// Reads columns of one row by key.
    pub(super) fn read(&mut self, mapping: &Mapping, key_row: &Image, columns: &[usize]) -> usize {
        let key: Vec<usize> = mapping.key_cells().collect();
        let cells: Vec<Cell<'_>> = key_row.tuple().iter().collect();
        let bind = self.statement(mapping, &Statement::Read(columns.to_vec()));
        bind_cells(bind, mapping, &key, &cells).execute()
    }

    /// Finds and locks the rows that hold a row's values of a unique index.
    pub(super) fn holders(
        &mut self,
        mapping: &Mapping,
        row: &Image,
        index: usize,
        horizon: u32,
    ) -> usize {
        let all: Vec<usize> = (0..mapping.columns.len()).collect();
        let cells: Vec<Cell<'_>> = row.tuple().iter().collect();
        let bind = self.statement(mapping, &Statement::Holders(index));
        bind_guard(
            bind_cells(bind, mapping, &all, &cells),
            Guard::Horizon(horizon),
        )
        .execute()
    }

    /// Writes entries of the conflict history.
    pub(super) fn histories(&mut self, mapping: &Mapping, entries: &[history::Entry<'_>]) {
        for (common, alike) in history::set::sets(mapping, entries) {
            let Some(common) = common.filter(|_| alike.len() >= SET_ROWS) else {
                alike.iter().for_each(|e| self.history(mapping, e));
                continue;
            };
            for part in alike.chunks(history::set::ROWS) {
                self.history_set(mapping, common, part);
            }
        }
    }

    fn history_set(&mut self, mapping: &Mapping, common: Common, entries: &[&history::Entry<'_>]) {
        let delete = common.is_delete();
        let key: Vec<usize> = mapping.key_cells().collect();
        let all: Vec<usize> = match delete {
            true => key.clone(),
            false => (0..mapping.columns.len()).collect(),
        };
        let rows: Vec<&Image> = entries.iter().map(|e| e.row.unwrap_or(e.key)).collect();
        let local: Vec<&Image> = entries.iter().map(|e| e.local_key).collect();
        let rows = Arrays::of(mapping, &all, &rows);
        let local = Arrays::of(mapping, &key, &local);
        let bind = self.statement(mapping, &Statement::HistorySet { delete });
        history::set::bind(local.bind(rows.bind(bind)), common, entries).execute();
    }

    /// Closes what is open of a key that a write of `origin` has won, whose transaction had seen `seen`.
    pub(super) fn superseded(
        &mut self,
        mapping: &Mapping,
        key_row: &Image,
        origin: NodeId,
        seen: &Vector,
    ) {
        let key: Vec<usize> = mapping.key_cells().collect();
        let cells: Vec<Cell<'_>> = key_row.tuple().iter().collect();
        let mut sites = Array::new(INT4, seen.iter().len());
        let mut places = Array::new(LSN, seen.iter().len());
        for (site, place) in seen.iter() {
            sites.push(Some(&i32::from(site.0).to_be_bytes()));
            places.push(Some(&place.0.to_be_bytes()));
        }
        let bind = self.statement(mapping, &Statement::Superseded);
        bind_cells(bind, mapping, &key, &cells)
            .binary(Some(&i32::from(origin.0).to_be_bytes()))
            .array(sites)
            .array(places)
            .execute();
    }

    /// Writes one entry of the conflict history.
    pub(super) fn history(&mut self, mapping: &Mapping, entry: &history::Entry<'_>) {
        let missing = entry.row.map_or_else(Vec::new, Image::missing);
        let statement = Statement::History {
            delete: entry.row.is_none(),
            missing: missing.clone(),
        };
        let key: Vec<usize> = mapping.key_cells().collect();
        let all: Vec<usize> = match entry.row {
            Some(_) => (0..mapping.columns.len())
                .filter(|i| !missing.contains(i))
                .collect(),
            None => key.clone(),
        };
        let row: Vec<Cell<'_>> = entry.row.unwrap_or(entry.key).tuple().iter().collect();
        let local: Vec<Cell<'_>> = entry.local_key.tuple().iter().collect();
        let bind = self.statement(mapping, &statement);
        let bind = bind_cells(bind, mapping, &all, &row);
        history::bind(bind_cells(bind, mapping, &key, &local), entry).execute();
    }
}

/// What of a row an update changes: cells, each kind in ascending order.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// They get new values.
    pub values: Vec<usize>,
    /// To these the difference between two values is added.
    pub differences: Vec<usize>,
    /// These are sets.
    pub sets: Vec<TakenSet>,
}

/// What becomes of a column that is a set, both in the column's type.
#[derive(Clone, Debug)]
pub(super) struct TakenSet {
    /// Its cell.
    pub cell: usize,
    /// Elements that are taken away.
    pub goes: Bytes,
    /// Elements that come.
    pub comes: Bytes,
}

/// A value below which a person is told, and who brought a difference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor<'a> {
    /// Of which column.
    pub cell: usize,
    /// The value.
    pub floor: &'a str,
    /// The version of the change.
    pub version: Version,
    /// Its transaction.
    pub position: Position,
    /// That one's id at its origin.
    pub xid: u32,
}

fn is_large(mapping: &Mapping, rows: usize) -> bool {
    rows >= LARGE_SET_ROWS && mapping.array_key().is_some()
}

/// Where the answers about locked rows are among the outcomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Locks {
    /// One outcome with a row for each row found.
    Set(usize),
    /// An outcome for each row, from this one on.
    Each(usize),
}

impl Locks {
    /// For each of `count` rows whether it is there and this site wrote it.
    pub(super) fn own(self, outcomes: &[Outcome], count: usize) -> Vec<bool> {
        let own =
            |row: &[Option<Bytes>]| matches!(row.get(2), Some(Some(own)) if own.as_ref() != [0]);
        match self {
            Locks::Set(at) => {
                let mut all = vec![false; count];
                for row in outcomes.get(at).map_or(&[][..], |o| &o.rows) {
                    if let Some(slot) = ord(row).and_then(|i| all.get_mut(i)) {
                        *slot = own(row);
                    }
                }
                all
            }
            Locks::Each(first) => (first..first + count)
                .map(|at| outcomes.get(at).and_then(|o| o.rows.first()))
                .map(|row| row.is_some_and(|row| own(row)))
                .collect(),
        }
    }

    /// For each of `count` rows: `None` if it is not there, else whether something local that may
    /// not be captured yet wrote it.
    pub(super) fn found(self, outcomes: &[Outcome], count: usize) -> Vec<Option<bool>> {
        let recent = |row: &[Option<Bytes>]| {
            row.get(1)
                .and_then(|c| c.as_ref())
                .is_none_or(|c| c.as_ref() != [0])
        };
        match self {
            Locks::Set(at) => {
                let mut found = vec![None; count];
                for row in outcomes.get(at).map_or(&[][..], |o| &o.rows) {
                    if let Some(slot) = ord(row).and_then(|i| found.get_mut(i)) {
                        *slot = Some(recent(row));
                    }
                }
                found
            }
            Locks::Each(first) => (first..first + count)
                .map(|at| {
                    outcomes
                        .get(at)
                        .and_then(|o| o.rows.first())
                        .map(|r| recent(r))
                })
                .collect(),
        }
    }
}

/// Which row of a set an answer is about.
fn ord(row: &[Option<Bytes>]) -> Option<usize> {
    let ord = row.first()?.as_ref()?.as_ref().try_into().ok();
    usize::try_from(i64::from_be_bytes(ord?))
        .ok()?
        .checked_sub(1)
}

fn guard_failed(error: crate::pg::Error) -> Error {
    match error.code() {
        // The guard itself; a row that is there already.
        Some("EW001" | "23505") => Error::Guard,
        _ => Error::Postgres(error),
    }
}

fn bind_guard(bind: Bind<'_>, guard: Guard) -> Bind<'_> {
    let (decided, horizon) = match guard {
        Guard::Decided => (1, 0),
        Guard::Horizon(horizon) => (0, horizon),
    };
    bind.binary(Some(&[decided]))
        .binary(Some(&horizon.to_be_bytes()))
}

fn bind_cells<'a>(
    mut bind: Bind<'a>,
    mapping: &Mapping,
    wanted: &[usize],
    cells: &[Cell<'_>],
) -> Bind<'a> {
    for &i in wanted {
        bind = match cells.get(i) {
            Some(Cell::Text(text)) => bind.param(Format::Text, Some(text)),
            Some(cell) => bind.param(Format::Binary, mapping.binary(i, *cell).as_deref()),
            None => bind.param(Format::Binary, None),
        };
    }
    bind
}
