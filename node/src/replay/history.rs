//! An entry of the conflict history on its way.
//!
//! Entries that are alike are written together, as a row of arrays ([`set`]); the others one by one.

pub(super) mod set;

use everywrite_conflict::policy::Aside;
use everywrite_conflict::{Entry as Stored, Kind, NodeId, Position, Version};

use super::image::Image;
use super::mapping::Mapping;
use crate::pg::oid::{BOOL, INT4, INT4_ARRAY, INT8, LSN, LSN_ARRAY, TEXT, TIMESTAMPTZ, XID};
use crate::pg::pipeline::Bind;
use crate::pg::quote::literal;

/// What became of an incoming change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is applied; what was there lost.
    Applied,
    /// It lost.
    KeptLocal,
    /// It lost, and is still to be merged or waits for a person.
    Aside(Aside),
    /// Something of both stays.
    Merged,
}

impl Outcome {
    /// One row stays whole, the other goes; `aside`: what becomes of an incoming one that goes.
    pub(super) fn of(applied: bool, aside: Option<Aside>) -> Self {
        match applied {
            true => Outcome::Applied,
            false => aside.map_or(Outcome::KeptLocal, Outcome::Aside),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::KeptLocal => "kept local",
            Outcome::Aside(Aside::Merge) => "merging",
            Outcome::Aside(Aside::Park) => "parked",
            Outcome::Merged => "merged",
        }
    }
}

/// One decision. Both rows are read in the transaction that decides, before it writes.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// What kind of conflict.
    pub kind: Kind,
    /// What became of the incoming change.
    pub outcome: Outcome,
    /// The incoming row; `None` for a delete.
    pub row: Option<&'a Image>,
    /// A row with the incoming change's key.
    pub key: &'a Image,
    /// A row with the key of the local row it met: its own, or that of the holder of a unique value.
    pub local_key: &'a Image,
    /// The lost row is the local one under `local_key`, not the incoming one.
    pub names_local: bool,
    /// What the index says of the local row.
    pub local: Option<Stored>,
    /// The incoming version.
    pub version: Version,
    /// The transaction that brings it.
    pub position: Position,
    /// Its transaction id at its origin.
    pub xid: u32,
    /// The local row is not locked: it is left out if a local transaction from this id on wrote it,
    /// because then it may be newer than what the index says.
    pub unlocked: Option<u32>,
}

/// The types of what an entry says besides its rows, in the order of [`Entry::facts`].
const FACTS: [u32; 13] = [
    TEXT,
    TEXT,
    TIMESTAMPTZ,
    INT4,
    INT4,
    LSN,
    TIMESTAMPTZ,
    INT4,
    INT4,
    LSN,
    INT8,
    BOOL,
    XID,
];

/// A fact in binary form.
enum Fact {
    Null,
    Text(&'static str),
    Bool(bool),
    Int4([u8; 4]),
    Int8([u8; 8]),
}

impl Fact {
    fn node(node: Option<NodeId>) -> Self {
        node.map_or(Fact::Null, |n| Fact::Int4(i32::from(n.0).to_be_bytes()))
    }

    fn stamp(version: Option<Version>) -> Self {
        version.map_or(Fact::Null, |v| Fact::Int8(v.stamp.0.to_be_bytes()))
    }

    fn lsn(position: Option<Position>) -> Self {
        position.map_or(Fact::Null, |p| Fact::Int8(p.lsn.0.to_be_bytes()))
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Fact::Null => None,
            Fact::Text(text) => Some(text.as_bytes()),
            Fact::Bool(true) => Some(&[1]),
            Fact::Bool(false) => Some(&[0]),
            Fact::Int4(bytes) => Some(bytes),
            Fact::Int8(bytes) => Some(bytes),
        }
    }
}

impl Entry<'_> {
    /// Kind, decision; stamp, origin and position of the local row; the same of the incoming one; the
    /// incoming transaction's id; whether the local key names the entry; up to which transaction id
    /// the local row is looked at.
    fn facts(&self) -> [Fact; 13] {
        let local = self.local.map(|l| l.version);
        let source = self.local.and_then(|l| l.source);
        let (version, position) = (Some(self.version), Some(self.position));
        [
            Fact::Text(self.kind.as_str()),
            Fact::Text(self.outcome.as_str()),
            Fact::stamp(local),
            Fact::node(local.map(|v| v.origin)),
            Fact::node(source.map(|p| p.origin)),
            Fact::lsn(source),
            Fact::stamp(version),
            Fact::node(version.map(|v| v.origin)),
            Fact::node(position.map(|p| p.origin)),
            Fact::lsn(position),
            Fact::Int8(i64::from(self.xid).to_be_bytes()),
            Fact::Bool(self.names_local),
            self.unlocked
                .map_or(Fact::Null, |xid| Fact::Int4(xid.to_be_bytes())),
        ]
    }
}

/// The parameters behind those of the rows: see [`sql`].
pub(super) fn bind<'b>(bind: Bind<'b>, entry: &Entry<'_>) -> Bind<'b> {
    let facts = entry.facts();
    facts.iter().fold(bind, |bind, f| bind.binary(f.bytes()))
}

/// Writes one entry. Parameters are the incoming row's cells (those of its key for a delete), without
/// the missing ones, the local row's key, then the facts.
pub(super) fn sql(mapping: &Mapping, delete: bool, missing: &[usize]) -> (String, Vec<u32>) {
    let shape = Shape::new(mapping, delete, missing);
    let names = shape.names();
    let values = names.iter().enumerate();
    let values: Vec<String> = values
        .map(|(n, name)| format!("${} as {name}", n + 1))
        .collect();
    let from = format!("(select {}) as u", values.join(", "));
    let mut types: Vec<u32> = shape.cells().map(|i| mapping.oid(i)).collect();
    types.extend(FACTS);
    (shape.insert(&from), types)
}

/// The local row is locked, or no local transaction that capture may not have passed (from the id
/// `unlocked` on) has written it.
fn stands(unlocked: &str) -> String {
    format!(
        "({unlocked} is null or pg_catalog.age(o.xmin) > pg_catalog.age({unlocked}) \
         or (pg_catalog.pg_xact_commit_timestamp_origin(o.xmin)).roident is distinct from 0)"
    )
}

/// Closes what is open of a key: see [`Shape::superseded`].
pub(super) fn superseded_sql(mapping: &Mapping) -> (String, Vec<u32>) {
    let shape = Shape::new(mapping, true, &[]);
    let mut types: Vec<u32> = shape.key.iter().map(|&i| mapping.oid(i)).collect();
    types.extend([INT4, INT4_ARRAY, LSN_ARRAY]);
    (shape.superseded(), types)
}

/// Which cells an entry of a table has.
struct Shape<'a> {
    mapping: &'a Mapping,
    delete: bool,
    key: Vec<usize>,
    row: Vec<usize>,
}

impl<'a> Shape<'a> {
    fn new(mapping: &'a Mapping, delete: bool, missing: &[usize]) -> Self {
        let key: Vec<usize> = mapping.key_cells().collect();
        let row = match delete {
            true => key.clone(),
            false => (0..mapping.columns.len())
                .filter(|i| !missing.contains(i))
                .collect(),
        };
        Shape {
            mapping,
            delete,
            key,
            row,
        }
    }

    /// The cells that are parameters, in order.
    fn cells(&self) -> impl Iterator<Item = usize> + '_ {
        self.row.iter().chain(&self.key).copied()
    }

    /// The parameters' names: `r` and `k` with the cell's number, `h` with the fact's, from 1 on.
    fn names(&self) -> Vec<String> {
        let row = self.row.iter().map(|i| format!("r{i}"));
        let key = self.key.iter().map(|i| format!("k{i}"));
        let facts = (1..=FACTS.len()).map(|n| format!("h{n}"));
        row.chain(key).chain(facts).collect()
    }

    /// Closes what is open of a key that another write has won and that write had not seen: its site meets it
    /// too. Parameters: the key, the winner's origin, and what it had seen as arrays of sites and places.
    fn superseded(&self) -> String {
        let key: Vec<String> = self.key.iter().map(|i| format!("k{i}")).collect();
        let values = (1..).zip(&key).map(|(n, k)| format!("${n} as {k}"));
        let n = key.len();
        format!(
            "update everywrite.conflict_history h set decision = 'kept local', done = 'superseded', \
             done_at = pg_catalog.clock_timestamp(), error = null \
             from (select {}) u \
             where h.schema_name = {} and h.table_name = {} and h.key = {key} \
             and pg_catalog.jsonb_hash(h.key) = pg_catalog.jsonb_hash({key}) \
             and h.decision in ('merging', 'parked') and h.done_at is null \
             and h.incoming_position_origin <> ${} \
             and not exists (select from unnest(${}, ${}) as v (site, lsn) \
             where v.site = h.incoming_position_origin and v.lsn >= h.incoming_position_lsn)",
            values.collect::<Vec<_>>().join(", "),
            literal(&self.mapping.table.schema),
            literal(&self.mapping.table.name),
            n + 1,
            n + 2,
            n + 3,
            key = self.key_object("k"),
        )
    }

    /// The key as JSON, from the cells of that prefix.
    fn key_object(&self, prefix: &str) -> String {
        let one = |&i: &usize| {
            let name = self.mapping.columns.get(i).map_or("", |c| &c.name);
            format!("{}, u.{prefix}{i}", literal(name))
        };
        let parts: Vec<String> = self.key.iter().map(one).collect();
        format!("pg_catalog.jsonb_build_object({})", parts.join(", "))
    }

    /// The local row as JSON, a query of its own.
    fn local_row(&self, unlocked: &str) -> String {
        let one = |&i: &usize| format!("o.{} = u.k{i}", self.mapping.column(i));
        let held: Vec<String> = self.key.iter().map(one).collect();
        format!(
            "(select pg_catalog.to_jsonb(o) from {} o where {} and {})",
            self.mapping.table.quoted,
            held.join(" and "),
            stands(unlocked)
        )
    }

    /// The incoming row as JSON.
    fn incoming_row(&self) -> String {
        if self.delete {
            return "null::jsonb".to_owned();
        }
        let one = |&i: &usize| format!("u.r{i} as {}", self.mapping.column(i));
        let cells: Vec<String> = self.row.iter().map(one).collect();
        let cells = cells.join(", ");
        format!("(select pg_catalog.to_jsonb(t) from (select {cells}) t)")
    }

    /// The statement over `from`, which names the parameters `u`.
    fn insert(&self, from: &str) -> String {
        format!(
            "with decided as (insert into everywrite.conflict_history (site, schema_name, table_name, key, kind, decision, local_row, \
             incoming_row, local_stamp, local_origin, local_position_origin, local_position_lsn, incoming_stamp, \
             incoming_origin, incoming_position_origin, incoming_position_lsn, incoming_xid) \
             select (select n.id from everywrite.nodes n where n.local), {}, {}, \
             case when u.h12 then {} else {} end, \
             u.h1, u.h2, {}, {}, u.h3, u.h4, u.h5, u.h6, u.h7, \
             u.h8, u.h9, u.h10, u.h11 from {from} returning id, site, decision, local_origin) \
             select everywrite.tell_lost(array[id]) from decided \
             where decision = 'applied' and local_origin = site",
            literal(&self.mapping.table.schema),
            literal(&self.mapping.table.name),
            self.key_object("k"),
            self.key_object("r"),
            self.local_row("u.h13"),
            self.incoming_row(),
        )
    }
}
