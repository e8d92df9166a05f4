//! An origin's relation laid over the local table: which cell goes where, and the statements.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::Error;
use super::table::{Column, Table};
use crate::pg::oid::{BOOL, FIRST_NORMAL, INT4, INT8, LSN, TEXT, XID};
use crate::pg::pgoutput::{Cell, OwnedRelation};
use crate::pg::quote::literal;
use crate::settle::Identity;

/// An origin's relation and the local table of the same name.
#[derive(Debug)]
pub struct Mapping {
    /// Names its prepared statements.
    pub number: u32,
    /// What the stream says of the relation.
    pub relation: OwnedRelation,
    /// Which cells are the key.
    pub identity: Identity,
    /// The local table.
    pub table: Table,
    /// For each cell of the stream the local column.
    pub columns: Vec<Column>,
    /// Whether rows can be written as arrays, a set in one statement.
    pub sets: bool,
    /// Unique indexes besides the key: positions in `table.unique`.
    pub second_unique: Vec<usize>,
}

/// What a statement of a mapping does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// One row.
    Insert,
    /// Many rows, as arrays.
    InsertSet,
    /// One row by key, without these columns (TOAST values that the stream leaves out).
    Update(Vec<usize>),
    /// Some columns of one row by key.
    Merge {
        /// They get new values.
        values: Vec<usize>,
        /// To these the difference between two values is added.
        differences: Vec<usize>,
        /// From these some elements are taken away, and others come.
        sets: Vec<usize>,
    },
    /// Many rows, as arrays.
    UpdateSet,
    /// So many that they are better found all at once: see [`Mapping::array_key`].
    UpdateLargeSet,
    /// One row by key.
    Delete,
    /// Many rows, as arrays.
    DeleteSet,
    /// One row by key, if it is there.
    Remove,
    /// Many, as arrays.
    RemoveSet,
    /// Locks rows and says which were found, and which of them a local transaction wrote, and lately.
    Lock,
    /// The same for many, as arrays.
    LockSet,
    /// The same for as many as in [`Statement::UpdateLargeSet`].
    LockLargeSet,
    /// Reads these columns of one row by key.
    Read(Vec<usize>),
    /// Writes entries of the conflict history together.
    HistorySet {
        /// Without new rows: deletes.
        delete: bool,
    },
    /// Writes one entry of the conflict history.
    History {
        /// Without a new row: a delete.
        delete: bool,
        /// Columns whose values are not known.
        missing: Vec<usize>,
    },
    /// Closes what is open of a key in the conflict history.
    Superseded,
    /// Finds and locks the rows that hold a row's values of the n-th unique index.
    Holders(usize),
}

/// Whether a row was written by a transaction of this site, or by one that is open.
pub(super) const OWN: &str =
    "coalesce((pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident, 0) = 0";

/// A delete that has to find so many rows.
fn all_of(delete: &str, rows: &str) -> String {
    format!("with u as ({delete} returning 1) select everywrite.expect(count(*), {rows}) from u")
}

/// A row is left alone unless nothing local that is not captured yet wrote it: `$flag` switches
/// the test off, `$xid` is the oldest transaction id that may not be captured yet.
fn guard(flag: usize, xid: usize) -> String {
    format!(
        "(${flag} or pg_catalog.age(t.xmin) > pg_catalog.age(${xid}) \
         or (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident is distinct from 0)"
    )
}

impl Mapping {
    /// Lays `relation` over `table`; an error says what must be the same and is not.
    pub fn new(number: u32, relation: OwnedRelation, table: Table) -> Result<Self, Error> {
        let full_name = format!("{}.{}", relation.namespace, relation.name);
        let pk = (!table.primary_key.is_empty()).then_some(table.primary_key.as_slice());
        let identity = Identity::of(&relation, pk);
        let mut columns = Vec::with_capacity(relation.columns.len());
        for c in &relation.columns {
            let missing = || Error::Schema {
                table: full_name.clone(),
                what: format!("the column \"{}\" does not exist here", c.name),
            };
            columns.push(table.column(&c.name).ok_or_else(missing)?.clone());
        }
        for &(i, type_oid) in &identity.columns {
            let local = columns.get(i).map_or(0, |c: &Column| c.type_oid);
            if local != type_oid && (local < FIRST_NORMAL || type_oid < FIRST_NORMAL) {
                let name = relation.columns.get(i).map_or("", |c| c.name.as_str());
                let what = format!("the key column \"{name}\" has another type here");
                return Err(Error::Schema {
                    table: full_name,
                    what,
                });
            }
        }
        let sets = columns
            .iter()
            .all(|c| c.array_oid != 0 && !c.array && !c.composite);
        let mut key: Vec<&str> = identity
            .columns
            .iter()
            .filter_map(|(i, _)| Some(columns.get(*i)?.name.as_str()))
            .collect();
        key.sort_unstable();
        let is_key = |columns: &Option<Vec<String>>| {
            columns.as_ref().is_some_and(|c| {
                let mut c: Vec<&str> = c.iter().map(String::as_str).collect();
                c.sort_unstable();
                c == key
            })
        };
        let second_unique = table
            .unique
            .iter()
            .enumerate()
            .filter(|(_, u)| !is_key(&u.columns))
            .map(|(i, _)| i)
            .collect();
        Ok(Mapping {
            number,
            relation,
            identity,
            table,
            columns,
            sets,
            second_unique,
        })
    }

    /// A cell in the binary form that the local server takes: the oids of types that are not
    /// built in differ from server to server, and arrays carry one.
    pub fn binary<'c>(&self, cell: usize, value: Cell<'c>) -> Option<Cow<'c, [u8]>> {
        let bytes = match value {
            Cell::Binary(bytes) | Cell::Text(bytes) => bytes,
            Cell::Null | Cell::Unchanged => return None,
        };
        let element = self
            .columns
            .get(cell)
            .filter(|c| c.array)
            .map_or(0, |c| c.element_oid);
        if element < FIRST_NORMAL || bytes.len() < 12 {
            return Some(Cow::Borrowed(bytes));
        }
        let mut own = bytes.to_vec();
        if let Some(oid) = own.get_mut(8..12) {
            oid.copy_from_slice(&element.to_be_bytes());
        }
        Some(Cow::Owned(own))
    }

    /// Whether rows may wait for each other's values, whatever their keys are.
    pub(super) fn bound(&self) -> bool {
        self.table.excludes || !self.second_unique.is_empty()
    }

    /// The table's name for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.table.schema, self.table.name)
    }

    /// Positions of the key's cells.
    pub fn key_cells(&self) -> impl Iterator<Item = usize> + '_ {
        self.identity.columns.iter().map(|c| c.0)
    }

    /// The key's cell, if it is one column of a built-in type: `key = any(array)` then finds a set of rows in
    /// the order of the index, each page once, and never costs more than the set is large.
    ///
    /// A join with the array does, where the planner takes the table for nearly empty while it is not (it was
    /// analyzed when it was): it reads the whole array for each row of the table.
    pub(super) fn array_key(&self) -> Option<usize> {
        match self.identity.columns.as_slice() {
            [(cell, _)] if self.oid(*cell) < FIRST_NORMAL => Some(*cell),
            _ => None,
        }
    }

    /// For large sets `t.key = any($n) and `, else nothing.
    fn among(&self, large: bool, parameter: usize) -> String {
        let key = self.array_key().filter(|_| large);
        key.map_or_else(String::new, |i| {
            format!("t.{} = any(${parameter}) and ", self.column(i))
        })
    }

    /// Whether the cell is part of the key.
    pub fn is_key(&self, cell: usize) -> bool {
        self.identity.columns.iter().any(|c| c.0 == cell)
    }

    pub(super) fn column(&self, i: usize) -> &str {
        self.columns.get(i).map_or("", |c| c.quoted.as_str())
    }

    pub(super) fn oid(&self, i: usize) -> u32 {
        self.columns.get(i).map_or(0, |c| c.type_oid)
    }

    pub(super) fn array(&self, i: usize) -> u32 {
        self.columns.get(i).map_or(0, |c| c.array_oid)
    }

    /// Cells that an insert writes (all but generated columns).
    pub fn written(&self) -> Vec<usize> {
        (0..self.columns.len())
            .filter(|&i| self.columns.get(i).is_some_and(|c| !c.generated))
            .collect()
    }

    /// Cells that an update writes, without `missing`.
    pub fn updated(&self, missing: &[usize]) -> Vec<usize> {
        let ok = |i: &usize| {
            !self.is_key(*i)
                && !missing.contains(i)
                && self
                    .columns
                    .get(*i)
                    .is_some_and(|c| !c.generated && !c.identity_always)
        };
        (0..self.columns.len()).filter(ok).collect()
    }

    /// The prepared statement's name.
    pub fn statement_name(&self, statement: &Statement) -> String {
        let list = |l: &[usize]| {
            l.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("_")
        };
        let what = match statement {
            Statement::Insert => "i".to_owned(),
            Statement::InsertSet => "is".to_owned(),
            Statement::Update(missing) => format!("u{}", list(missing)),
            Statement::Merge {
                values,
                differences,
                sets,
            } => format!("w{}d{}s{}", list(values), list(differences), list(sets)),
            Statement::UpdateSet => "us".to_owned(),
            Statement::UpdateLargeSet => "ul".to_owned(),
            Statement::Delete => "d".to_owned(),
            Statement::DeleteSet => "ds".to_owned(),
            Statement::Remove => "x".to_owned(),
            Statement::RemoveSet => "xs".to_owned(),
            Statement::Lock => "l".to_owned(),
            Statement::LockSet => "ls".to_owned(),
            Statement::LockLargeSet => "ll".to_owned(),
            Statement::Read(columns) => format!("r{}", list(columns)),
            Statement::History { delete, missing } => {
                format!("h{}_{}", u8::from(*delete), list(missing))
            }
            Statement::HistorySet { delete } => format!("hs{}", u8::from(*delete)),
            Statement::Superseded => "o".to_owned(),
            Statement::Holders(n) => format!("q{n}"),
        };
        format!("m{}{what}", self.number)
    }

    /// `t.k1 = $n and …` or, for sets, `t.k1 = n.k1 and …`.
    fn by_key(&self, value: impl Fn(usize, usize) -> String) -> String {
        let one = |(n, i): (usize, usize)| format!("t.{} = {}", self.column(i), value(n, i));
        self.key_cells()
            .enumerate()
            .map(one)
            .collect::<Vec<_>>()
            .join(" and ")
    }

    fn names(&self, cells: &[usize]) -> String {
        cells
            .iter()
            .map(|&i| self.column(i))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn params(from: usize, count: usize) -> String {
        (from..from + count)
            .map(|n| format!("${n}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// `COPY` of whole rows in binary.
    pub fn copy_sql(&self) -> String {
        let columns = self.written();
        format!(
            "copy {} ({}) from stdin (format binary)",
            self.table.quoted,
            self.names(&columns)
        )
    }

    /// The statement's text and its parameters' types.
    pub fn sql(&self, statement: &Statement) -> (String, Vec<u32>) {
        let table = &self.table.quoted;
        let key: Vec<usize> = self.key_cells().collect();
        let written = self.written();
        let oids = |cells: &[usize]| cells.iter().map(|&i| self.oid(i)).collect::<Vec<_>>();
        let arrays = |cells: &[usize]| cells.iter().map(|&i| self.array(i)).collect::<Vec<_>>();
        match statement {
            Statement::Insert => {
                let sql = format!(
                    "insert into {table} ({}) overriding system value values ({})",
                    self.names(&written),
                    Self::params(1, written.len())
                );
                (sql, oids(&written))
            }
            Statement::InsertSet => {
                let sql = format!(
                    "insert into {table} ({}) overriding system value select * from unnest({})",
                    self.names(&written),
                    Self::params(1, written.len())
                );
                (sql, arrays(&written))
            }
            Statement::Update(missing) => {
                let set = self.updated(missing);
                let k = set.len();
                let values = set
                    .iter()
                    .enumerate()
                    .map(|(n, &i)| format!("{} = ${}", self.column(i), n + 1));
                // A row of nothing but its key is written too: its version changes.
                let mut values = values.collect::<Vec<_>>().join(", ");
                if values.is_empty() {
                    let _ = write!(
                        values,
                        "{0} = t.{0}",
                        self.column(key.first().copied().unwrap_or(0))
                    );
                }
                let sql = format!(
                    "with u as (update {table} t set {values} where {} and {} returning 1) \
                     select everywrite.expect(count(*), 1) from u",
                    self.by_key(|n, _| format!("${}", k + n + 1)),
                    guard(k + key.len() + 1, k + key.len() + 2)
                );
                let mut types = oids(&set);
                types.extend(oids(&key));
                types.extend([BOOL, XID]);
                (sql, types)
            }
            Statement::Merge {
                values,
                differences,
                sets,
            } => self.merge_sql(values, differences, sets),
            Statement::UpdateSet | Statement::UpdateLargeSet => {
                let set = self.updated(&[]);
                let all: Vec<usize> = set.iter().chain(&key).copied().collect();
                let names = |prefix: &str| {
                    all.iter()
                        .map(|i| format!("{prefix}{i}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                let mut values: Vec<String> = set
                    .iter()
                    .map(|&i| format!("{} = n.c{i}", self.column(i)))
                    .collect();
                if values.is_empty() {
                    values.push(format!(
                        "{0} = t.{0}",
                        self.column(key.first().copied().unwrap_or(0))
                    ));
                }
                let p = all.len();
                let large = matches!(statement, Statement::UpdateLargeSet);
                let found = self.among(large, p);
                let sql = format!(
                    "with u as (update {table} t set {} from unnest({}) as n({}) where {found}{} and {} returning 1) \
                     select everywrite.expect(count(*), ${}) from u",
                    values.join(", "),
                    Self::params(1, p),
                    names("c"),
                    self.by_key(|_, i| format!("n.c{i}")),
                    guard(p + 1, p + 2),
                    p + 3
                );
                let mut types = arrays(&all);
                types.extend([BOOL, XID, INT8]);
                (sql, types)
            }
            Statement::Delete | Statement::Remove => {
                let k = key.len();
                let delete = format!(
                    "delete from {table} t where {} and {}",
                    self.by_key(|n, _| format!("${}", n + 1)),
                    guard(k + 1, k + 2)
                );
                let mut types = oids(&key);
                types.extend([BOOL, XID]);
                match statement {
                    Statement::Remove => (delete, types),
                    _ => (all_of(&delete, "1"), types),
                }
            }
            Statement::DeleteSet | Statement::RemoveSet => {
                let k = key.len();
                let (using, found) = match self.array_key() {
                    Some(i) => (String::new(), format!("t.{} = any($1)", self.column(i))),
                    None => {
                        let names: Vec<String> = key.iter().map(|i| format!("c{i}")).collect();
                        let (params, names) = (Self::params(1, k), names.join(", "));
                        (
                            format!("using unnest({params}) as n({names})"),
                            self.by_key(|_, i| format!("n.c{i}")),
                        )
                    }
                };
                let sql = format!(
                    "with u as (delete from {table} t {using} where {found} and {} returning 1) \
                     select everywrite.expect(count(*), ${}) from u",
                    guard(k + 1, k + 2),
                    k + 3
                );
                let mut types = arrays(&key);
                types.extend([BOOL, XID, INT8]);
                (sql, types)
            }
            Statement::Lock => {
                let k = key.len();
                let sql = format!(
                    "select 1::int8, not {}, {OWN} from {table} t where {} for update of t",
                    guard(k + 1, k + 2),
                    self.by_key(|n, _| format!("${}", n + 1))
                );
                let mut types = oids(&key);
                types.extend([BOOL, XID]);
                (sql, types)
            }
            Statement::LockSet | Statement::LockLargeSet => {
                let k = key.len();
                let large = matches!(statement, Statement::LockLargeSet);
                let found = self.among(large, 1);
                let sql = format!(
                    "select n.ord, not {}, {OWN} from unnest({}) with ordinality as n({}, ord) \
                     join {table} t on {found}{} for update of t",
                    guard(k + 1, k + 2),
                    Self::params(1, k),
                    key.iter()
                        .map(|i| format!("c{i}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                    self.by_key(|_, i| format!("n.c{i}"))
                );
                let mut types = arrays(&key);
                types.extend([BOOL, XID]);
                (sql, types)
            }
            Statement::Read(columns) => {
                let sql = format!(
                    "select {} from {table} t where {}",
                    columns
                        .iter()
                        .map(|&i| format!("t.{}", self.column(i)))
                        .collect::<Vec<_>>()
                        .join(", "),
                    self.by_key(|n, _| format!("${}", n + 1))
                );
                (sql, oids(&key))
            }
            Statement::History { delete, missing } => super::history::sql(self, *delete, missing),
            Statement::HistorySet { delete } => super::history::set::sql(self, *delete),
            Statement::Superseded => super::history::superseded_sql(self),
            Statement::Holders(n) => self.holders_sql(*n),
        }
    }

    /// Parameters: the values, then for each difference the value after and before, for each set what goes
    /// and what comes, then the key. The difference is taken and added as numeric, so that nothing but the
    /// sum can be too large.
    fn merge_sql(
        &self,
        values: &[usize],
        differences: &[usize],
        sets: &[usize],
    ) -> (String, Vec<u32>) {
        let v = values.len();
        let d = v + 2 * differences.len();
        let value = |(n, &i): (usize, &usize)| format!("{} = ${}", self.column(i), n + 1);
        let add = |(n, &i): (usize, &usize)| {
            let (after, before) = (v + 2 * n + 1, v + 2 * n + 2);
            let column = self.column(i);
            format!("{column} = t.{column}::numeric + (${after}::numeric - ${before}::numeric)")
        };
        let elements = |(n, &i): (usize, &usize)| {
            let (goes, comes) = (d + 2 * n + 1, d + 2 * n + 2);
            let column = self.column(i);
            format!("{column} = everywrite.merge_elements(t.{column}, ${goes}, ${comes})")
        };
        let set: Vec<String> = values
            .iter()
            .enumerate()
            .map(value)
            .chain(differences.iter().enumerate().map(add))
            .chain(sets.iter().enumerate().map(elements))
            .collect();
        let k = d + 2 * sets.len();
        let sql = format!(
            "with u as (update {} t set {} where {} returning 1) \
             select everywrite.expect(count(*), 1) from u",
            self.table.quoted,
            set.join(", "),
            self.by_key(|n, _| format!("${}", k + n + 1)),
        );
        let mut types: Vec<u32> = values.iter().map(|&i| self.oid(i)).collect();
        let twice = differences.iter().chain(sets);
        types.extend(twice.flat_map(|&i| [self.oid(i), self.oid(i)]));
        types.extend(self.key_cells().map(|i| self.oid(i)));
        (sql, types)
    }

    /// Says whether the difference between two values has brought a row below a floor. Parameters: the
    /// key, the value after and before, the floor, then what is told with it.
    pub(super) fn floor_sql(&self, cell: usize) -> (String, Vec<u32>) {
        let key: Vec<usize> = self.key_cells().collect();
        let k = key.len();
        let shown: Vec<String> = key
            .iter()
            .map(|&i| format!("{}, t.{}", literal(&self.name_of(i)), self.column(i)))
            .collect();
        let (after, before, floor) = (k + 1, k + 2, k + 3);
        let was = format!(
            "(t.{}::numeric - (${after}::numeric - ${before}::numeric))",
            self.column(cell)
        );
        let told: Vec<String> = (k + 4..=k + 8).map(|n| format!("${n}")).collect();
        let sql = format!(
            "select everywrite.floor_crossed({}, {}, pg_catalog.jsonb_build_object({}), {}, ${floor}::numeric, {was}, \
             t.{column}::numeric, pg_catalog.to_jsonb(t), {}) from {} t \
             where {} and t.{column}::numeric < ${floor}::numeric and {was} >= ${floor}::numeric",
            literal(&self.table.schema),
            literal(&self.table.name),
            shown.join(", "),
            literal(&self.name_of(cell)),
            told.join(", "),
            self.table.quoted,
            self.by_key(|n, _| format!("${}", n + 1)),
            column = self.column(cell),
        );
        let mut types: Vec<u32> = key.iter().map(|&i| self.oid(i)).collect();
        types.extend([
            self.oid(cell),
            self.oid(cell),
            TEXT,
            INT8,
            INT4,
            INT4,
            LSN,
            INT8,
        ]);
        (sql, types)
    }

    fn name_of(&self, cell: usize) -> String {
        self.columns
            .get(cell)
            .map_or_else(String::new, |c| c.name.clone())
    }

    /// Parameters: the whole row, then the guard's xid. Returns, for the n-th unique index, the
    /// row's own values as text, and each holder's key cells and whether it was written lately.
    fn holders_sql(&self, n: usize) -> (String, Vec<u32>) {
        let Some(index) = self.table.unique.get(n) else {
            return (String::new(), Vec::new());
        };
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let p = all.len();
        let cells: Vec<String> = all
            .iter()
            .map(|&i| format!("${} as {}", i + 1, self.column(i)))
            .collect();
        let numbered: Vec<String> = index
            .expressions
            .iter()
            .enumerate()
            .map(|(i, e)| format!("{e} as x{i}"))
            .collect();
        let predicate = index
            .predicate
            .as_ref()
            .map_or_else(|| "true".to_owned(), |p| format!("({p})"));
        let equal = if index.nulls_equal {
            "is not distinct from"
        } else {
            "="
        };
        let matches: Vec<String> = index
            .expressions
            .iter()
            .enumerate()
            .map(|(i, e)| format!("({e}) {equal} v.x{i}"))
            .collect();
        let not_null: Vec<String> = (0..index.expressions.len())
            .map(|i| format!("v.x{i} is not null"))
            .collect();
        let comparable = if index.nulls_equal {
            "true".to_owned()
        } else {
            not_null.join(" and ")
        };
        let texts: Vec<String> = (0..index.expressions.len())
            .map(|i| format!("v.x{i}::text"))
            .collect();
        let key: Vec<usize> = self.key_cells().collect();
        let keys: Vec<String> = key.iter().map(|&i| format!("h.k{i}")).collect();
        let inner_keys: Vec<String> = key
            .iter()
            .map(|&i| format!("t.{} as k{i}", self.column(i)))
            .collect();
        let sql = format!(
            "select pg_catalog.array_to_json(array[{}])::text, h.recent, {} \
             from (select {} from (select {}) n where {predicate}) v \
             left join lateral (select not {} as recent, {} from {} t where {} and {predicate} for update of t) h on true \
             where {comparable}",
            texts.join(", "),
            keys.join(", "),
            numbered.join(", "),
            cells.join(", "),
            guard(p + 1, p + 2),
            inner_keys.join(", "),
            self.table.quoted,
            matches.join(" and "),
        );
        let mut types: Vec<u32> = all.iter().map(|&i| self.oid(i)).collect();
        types.extend([BOOL, XID]);
        (sql, types)
    }
}
