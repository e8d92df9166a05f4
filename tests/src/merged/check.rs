//! What must be in a row that is merged, once everything has come to rest.
//!
//! **Columns** (ADR 15). Of a key's row events (insert, delete, TRUNCATE) the greatest stands, as in any table. The
//! updates that have seen it count, the others are of another row. Then
//!
//! - a column holds the value of the change that no other change of it beats: knowing beats known, then the
//!   height if the column is `greatest` or `least`, then the version. If nobody changed it, what the row event
//!   gave it. So no committed change is gone but for a later one, or a higher one that had not seen it.
//! - a sum holds what the row event gave it and every difference, each once.
//! - an element of a set is as the change left it that no other change of it beats; and what somebody has put in and
//!   nobody took out is there, whatever the versions are.
//! - a column that nobody ever lowers holds the greatest value of all, whatever the heights in the journals are.
//! - the height of a change is at least its own value: who replaces a high value knowingly inherits, and
//!   nobody stands lower than what he wrote.
//! - a change (a value of a set's element, too) that is not there, and that nobody replaced knowingly, is in a conflict history.
//!
//! Where no row ever comes or goes, no row event is needed, nor any vector for the sums.
//!
//! **Things** (ADR 16: a function that unites sets). Whatever a committed write has added is there, unless a
//! committed write took it out knowingly, or a delete did that had seen it or is the later of the two. Nothing
//! is there that no committed write has added.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use everywrite_conflict::Version;
use everywrite_conflict::policy::{Epoch, Rank};
use tokio_postgres::Client;

use super::session::{columns_read, image};
use super::writes::{Cell, Effect, Elements, Image};
use super::{BEGIN, COLUMNS, Merge};
use crate::checker::{beats, has_seen};
use crate::conflicts::Conflict;
use crate::history::{Stamped, Transaction};
use crate::postgres;
use crate::workload::{Shape, Table};

/// A row in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Merged by columns.
    Columns(Image),
    /// A set, and whether it is what the function makes.
    Things(BTreeSet<String>, bool),
}

/// (table, key) → row.
pub type Rows = BTreeMap<(String, i64), Row>;

/// The rows of those tables that are merged.
pub async fn rows(client: &Client, tables: &[Table]) -> anyhow::Result<Rows> {
    let mut found = Rows::new();
    for table in tables {
        let columns = match table.shape {
            Shape::Rows => continue,
            Shape::Columns => columns_read(),
            Shape::Things => {
                "amount = hashtext(things::text), array_to_string(things, ' ')".to_owned()
            }
        };
        let sql = format!("select id, {columns} from {}", table.name);
        for row in postgres::rows(client, &sql).await? {
            let Some((Some(key), row)) = row.split_first() else {
                bail!("an unexpected row of {}: {row:?}", table.name);
            };
            let row = match (table.shape, row) {
                (Shape::Things, [whole, things]) => {
                    let things = things.as_deref().unwrap_or_default();
                    let things = things.split_whitespace().map(str::to_owned).collect();
                    Row::Things(things, whole.as_deref() == Some("t"))
                }
                (_, row) => Row::Columns(image(row)?),
            };
            found.insert((table.name.to_owned(), key.parse().context("a key")?), row);
        }
    }
    Ok(found)
}

/// One write of a row.
#[derive(Clone, Copy)]
struct Made<'a> {
    transaction: usize,
    stamped: &'a Stamped,
    effect: &'a Effect,
    /// Under which change of the policy an update of it is merged.
    epoch: Option<Epoch>,
}

impl<'a> Made<'a> {
    /// Whether it is an insert or a delete of a row that is merged by columns, or an update that is not merged.
    fn is_event(&self) -> bool {
        match self.effect {
            Effect::Row(_) | Effect::Gone => true,
            Effect::Update { .. } => self.epoch.is_none(),
            Effect::Things { .. } => false,
        }
    }

    /// The columns that it wrote.
    fn image(&self) -> Option<&'a Image> {
        match self.effect {
            Effect::Row(image) => Some(image),
            Effect::Update { whole, .. } if self.is_event() => Some(whole),
            Effect::Update { changes, .. } => Some(changes),
            Effect::Gone | Effect::Things { .. } => None,
        }
    }

    /// The version of its change of a column that stands so high.
    fn version(&self, height: i64) -> Version {
        let epoch = self.epoch.unwrap_or_default();
        self.stamped.version.ranked(Rank { epoch, height })
    }

    fn has_seen(&self, other: &Made<'_>) -> bool {
        has_seen(self.stamped, other.stamped)
    }
}

/// One row and all that was written to it.
struct Case<'a> {
    table: Table,
    key: i64,
    writes: Vec<Made<'a>>,
    row: Option<&'a Row>,
}

/// Accounts for every committed write, given the rows (equal at all sites by then) and the histories: what is
/// wrong.
pub fn account(
    committed: &[Transaction],
    rows: &Rows,
    tables: &[Table],
    conflicts: &[Conflict],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for table in tables.iter().filter(|t| t.shape != Shape::Rows) {
        let listed = listed(table, conflicts);
        for case in cases(committed, rows, *table) {
            let found = match table.shape {
                Shape::Things => things(&case),
                _ => columns(&case, &listed),
            };
            let place = format!("{} {}", table.name, case.key);
            wrong.extend(found.into_iter().map(|what| format!("{place}: {what}")));
        }
    }
    wrong
}

/// Of the updates of tables whose policy changes: how many were merged, and how many were whole rows.
pub fn turned(committed: &[Transaction], tables: &[Table]) -> BTreeMap<&'static str, usize> {
    let mut turned = BTreeMap::new();
    let table = |name: &str| tables.iter().any(|t| t.name == name && t.is_turned());
    for t in committed {
        let Some(stamped) = &t.stamped else { continue };
        let updates = t.merged.iter().filter(|w| table(w.table));
        for write in updates.filter(|w| matches!(w.effect, Effect::Update { .. })) {
            let how = match stamped.epoch(write.table) {
                Some(_) => "merged by columns",
                None => "whole row",
            };
            *turned.entry(how).or_default() += 1;
        }
    }
    turned
}

fn cases<'a>(committed: &'a [Transaction], rows: &'a Rows, table: Table) -> Vec<Case<'a>> {
    let mut keys: BTreeMap<i64, Vec<Made<'a>>> = BTreeMap::new();
    let mut truncates = Vec::new();
    let here = rows.keys().filter(|(name, _)| name == table.name);
    keys.extend(here.map(|(_, key)| (*key, Vec::new())));
    if table.kept {
        let all = 0..i64::try_from(table.keys).unwrap_or(0);
        keys.extend(all.map(|key| (key, Vec::new())));
    }
    for (transaction, t) in committed.iter().enumerate() {
        // One without a version is an error that the checker of all tables tells.
        let Some(stamped) = &t.stamped else { continue };
        let merged = stamped.epoch(table.name);
        // What is never turned is always merged; a change that is not is told of where that shows.
        let epoch = merged.or_else(|| (!table.is_turned()).then(Epoch::default));
        for write in t.merged.iter().filter(|w| w.table == table.name) {
            let made = Made {
                transaction,
                stamped,
                effect: &write.effect,
                epoch,
            };
            match write.key {
                Some(key) => keys.entry(key).or_default().push(made),
                None => truncates.push(made),
            }
        }
    }
    let case = |(key, mut writes): (i64, Vec<Made<'a>>)| {
        for truncate in &truncates {
            if !writes.iter().any(|w| w.transaction == truncate.transaction) {
                writes.push(*truncate);
            }
        }
        Case {
            table,
            key,
            writes,
            row: rows.get(&(table.name.to_owned(), key)),
        }
    };
    keys.into_iter().map(case).collect()
}

/// The one that no other beats, each with its version.
fn unbeaten<'a, 'b>(all: &'b [(Made<'a>, Version)]) -> Option<&'b Made<'a>> {
    let beats = |one: &(Made<'_>, Version), other: &(Made<'_>, Version)| {
        beats((one.0.stamped, one.1), (other.0.stamped, other.1))
    };
    let best = all.iter().reduce(|best, next| match beats(next, best) {
        true => next,
        false => best,
    })?;
    let beaten = all.iter().any(|other| beats(other, best));
    (!beaten).then_some(&best.0)
}

// ── columns ──────────────────────────────────────────────────────────────────────────────────────────

/// What every column of a row holds that is there from the beginning.
fn beginning() -> Image {
    let cell = |merge| match merge {
        Merge::Tag => Cell::Tag(BEGIN.to_owned()),
        Merge::Set => Cell::Set(Elements::new()),
        _ => Cell::Number(0),
    };
    COLUMNS.iter().map(|&(c, merge)| (c, cell(merge))).collect()
}

fn columns(case: &Case<'_>, listed: &BTreeSet<Told>) -> Vec<String> {
    let name = case.table.name;
    let events: Vec<(Made<'_>, Version)> = case
        .writes
        .iter()
        .filter(|w| w.is_event())
        .map(|w| (*w, w.stamped.version_of(name, Some(case.key))))
        .collect();
    let event = unbeaten(&events);
    if event.is_none() && !events.is_empty() {
        return vec!["each of its row events is beaten by another".to_owned()];
    }
    let begin = beginning();
    let stands = match event {
        Some(event) => event.image(),
        None => case.table.kept.then_some(&begin),
    };
    let updates: Vec<&Made<'_>> = case.writes.iter().filter(|w| !w.is_event()).collect();
    let mut wrong = Vec::new();
    match (stands, case.row) {
        (None, None) => {}
        (Some(_), None) => wrong.push("the row is gone, and nobody deleted it".to_owned()),
        (None, Some(row)) => wrong.push(format!("a row that is deleted, or never was: {row:?}")),
        (Some(base), Some(Row::Columns(row))) => {
            let of_it = |u: &&Made<'_>| event.is_none_or(|e| u.has_seen(e));
            let of_it: Vec<&Made<'_>> = updates.iter().copied().filter(of_it).collect();
            for (column, merge) in COLUMNS {
                let told = holds(case, column, merge, base, &of_it, row);
                wrong.extend(told.map(|what| format!("{column}: {what}")));
            }
        }
        (Some(_), Some(row)) => wrong.push(format!("an unexpected row: {row:?}")),
    }
    wrong.extend(hidden(case, listed));
    wrong
}

/// What is wrong with a column of the row.
fn holds(
    case: &Case<'_>,
    column: &'static str,
    merge: Merge,
    base: &Image,
    updates: &[&Made<'_>],
    row: &Image,
) -> Option<String> {
    let cell = |made: &Made<'_>| made.image().and_then(|i| i.get(column)).cloned();
    let number = |cell: &Cell| match cell {
        Cell::Number(n) => *n,
        Cell::Tag(_) | Cell::Set(_) => 0,
    };
    let written: Vec<(Made<'_>, Cell)> = updates
        .iter()
        .filter_map(|u| Some((**u, cell(u)?)))
        .collect();
    if let (Cell::Set(begin), Cell::Set(now)) = (&base[column], &row[column]) {
        return elements(&written, begin, now);
    }
    let numbers = written.iter().map(|(_, cell)| number(cell));
    let (begin, now) = (&base[column], &row[column]);
    if merge == Merge::Sum {
        let sum = number(begin) + numbers.sum::<i64>();
        let differences = written.len();
        return (number(now) != sum)
            .then(|| format!("{now:?}, and {differences} differences sum up to {sum}"));
    }
    let all = std::iter::once(number(begin)).chain(numbers);
    let extreme = match merge {
        Merge::Raised => all.max(),
        Merge::Lowered => all.min(),
        _ => None,
    };
    if let Some(extreme) = extreme
        && number(now) != extreme
    {
        return Some(format!("{now:?}, and {extreme} was written"));
    }
    let mut versions = Vec::new();
    for (made, cell) in &written {
        let own = match merge {
            Merge::Greatest | Merge::Raised => number(cell),
            Merge::Least | Merge::Lowered => -number(cell),
            _ => {
                versions.push((*made, made.version(0)));
                continue;
            }
        };
        let height = made.stamped.height(case.table.name, case.key, column);
        let Some(height) = height else {
            return Some(format!("a change is not merged: {:?}", made.stamped));
        };
        if height < own {
            return Some(format!("{cell:?} stands at {height}: {:?}", made.stamped));
        }
        versions.push((*made, made.version(height)));
    }
    let Some(last) = unbeaten(&versions) else {
        return match versions.is_empty() {
            true => (now != begin).then(|| format!("{now:?}, and nobody changed {begin:?}")),
            false => Some("each of its changes is beaten by another".to_owned()),
        };
    };
    let expected = cell(last)?;
    (*now != expected).then(|| format!("{now:?}, and {expected:?} stands: {:?}", last.stamped))
}

/// What is wrong with a set. What somebody has put in, or was there, and nobody took out, is there, whatever the
/// journals say; of the others the last change of each stands.
fn elements(written: &[(Made<'_>, Cell)], begin: &Elements, now: &Elements) -> Option<String> {
    let mut touched: BTreeMap<&str, Vec<(Made<'_>, &Option<String>)>> = BTreeMap::new();
    touched.extend(
        begin
            .keys()
            .chain(now.keys())
            .map(|e| (e.as_str(), Vec::new())),
    );
    for (made, cell) in written {
        let Cell::Set(changes) = cell else { continue };
        for (element, value) in changes {
            touched.entry(element).or_default().push((*made, value));
        }
    }
    let was = |of: &Elements, element: &str| of.get(element).cloned().flatten();
    let wrong = touched.into_iter().filter_map(|(element, changes)| {
        let (before, is) = (was(begin, element), was(now, element));
        let ever = before.is_some() || changes.iter().any(|(_, value)| value.is_some());
        let never = changes.iter().all(|(_, value)| value.is_some());
        if ever && never && is.is_none() {
            return Some(format!("{element} is gone, and nobody took it out"));
        }
        let versions: Vec<_> = changes.iter().map(|(m, _)| (*m, m.version(0))).collect();
        let last = unbeaten(&versions).map(|m| m.transaction);
        let last = changes.iter().find(|(m, _)| Some(m.transaction) == last);
        if last.is_none() && !changes.is_empty() {
            return Some(format!(
                "each of the changes of {element} is beaten by another"
            ));
        }
        let expected = last.map_or(before, |(_, value)| (*value).clone());
        (is != expected).then(|| format!("{element} is {is:?}, and {expected:?} stands"))
    });
    let wrong: Vec<String> = wrong.collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// A tag and where it is: the column, and of a set the element.
type Tagged<'a> = (&'static str, &'a str, &'a str);

/// The tags in a column.
fn tags<'a>(column: &'static str, cell: &'a Cell) -> Vec<Tagged<'a>> {
    match cell {
        Cell::Number(_) => Vec::new(),
        Cell::Tag(tag) => vec![(column, "", tag)],
        Cell::Set(elements) => {
            let there = elements
                .iter()
                .filter_map(|(e, v)| Some((e, v.as_deref()?)));
            let tagged = there.filter(|(_, value)| !value.is_empty());
            tagged
                .map(|(e, value)| (column, e.as_str(), value))
                .collect()
        }
    }
}

/// Changes with a tag that are not there, that nobody replaced knowingly, and that no history has.
fn hidden(case: &Case<'_>, listed: &BTreeSet<Told>) -> Option<String> {
    let now = match case.row {
        Some(Row::Columns(row)) => row.iter().flat_map(|(c, cell)| tags(c, cell)).collect(),
        _ => BTreeSet::new(),
    };
    let mut hidden = Vec::new();
    for made in &case.writes {
        let image = made.image().into_iter().flatten();
        for tagged in image.flat_map(|(column, cell)| tags(column, cell)) {
            let (column, element, tag) = tagged;
            let touches = |cell: &Cell| match cell {
                Cell::Set(elements) => elements.contains_key(element),
                _ => true,
            };
            let replaced = |other: &Made<'_>| {
                let writes = other.is_event()
                    || other
                        .image()
                        .and_then(|i| i.get(column))
                        .is_some_and(touches);
                other.transaction != made.transaction && writes && other.has_seen(made)
            };
            let told = (column, element.to_owned(), tag.to_owned());
            if !now.contains(&tagged)
                && !listed.contains(&told)
                && !case.writes.iter().any(replaced)
            {
                hidden.push((told, made.stamped.version));
            }
        }
    }
    (!hidden.is_empty()).then(|| format!("gone, and in no history: {hidden:?}"))
}

/// A tag as a history tells it.
type Told = (&'static str, String, String);

/// The tags of all rows in the histories of a table that is merged by columns.
fn listed(table: &Table, conflicts: &[Conflict]) -> BTreeSet<Told> {
    let mut listed = BTreeSet::new();
    if table.shape != Shape::Columns {
        return listed;
    }
    let name = format!("public.{}", table.name);
    for conflict in conflicts.iter().filter(|c| c.table == name) {
        for side in [&conflict.local, &conflict.incoming] {
            for (column, merge) in COLUMNS {
                if merge == Merge::Tag {
                    let tag = side.column(column);
                    listed.extend(tag.map(|tag| (column, String::new(), tag)));
                }
            }
            let attrs = side
                .row
                .as_ref()
                .and_then(|row| row.get("attrs")?.as_object());
            for (key, value) in attrs.into_iter().flatten() {
                let value = value.as_str().unwrap_or_default();
                listed.insert(("attrs", key.clone(), value.to_owned()));
            }
        }
    }
    listed
}

// ── things ───────────────────────────────────────────────────────────────────────────────────────────

fn things(case: &Case<'_>) -> Vec<String> {
    let (now, whole) = match case.row {
        Some(Row::Things(now, whole)) => (now.clone(), *whole),
        Some(row) => return vec![format!("an unexpected row: {row:?}")],
        None => (BTreeSet::new(), true),
    };
    let mut wrong = Vec::new();
    if !whole {
        wrong.push("the row is not what the function makes".to_owned());
    }
    let (mut ever, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut deletes = Vec::new();
    for made in &case.writes {
        match made.effect {
            Effect::Things {
                added,
                removed,
                deleted,
            } => {
                ever.extend(added);
                taken.extend(removed);
                deletes.extend(deleted.then_some(made));
            }
            _ => deletes.push(made),
        }
    }
    let strange: Vec<&String> = now.iter().filter(|t| !ever.contains(t)).collect();
    if !strange.is_empty() {
        wrong.push(format!("nobody has added {strange:?}"));
    }
    for made in &case.writes {
        let Effect::Things { added, .. } = made.effect else {
            continue;
        };
        let deleted = |delete: &&Made<'_>| {
            let later = delete.stamped.version > made.stamped.version;
            delete.transaction != made.transaction && (later || delete.has_seen(made))
        };
        let excused = deletes.iter().any(deleted);
        let missing: Vec<&String> = added
            .iter()
            .filter(|t| !now.contains(*t) && !taken.contains(t) && !excused)
            .collect();
        if !missing.is_empty() {
            wrong.push(format!("{missing:?} is missing: {:?}", made.stamped));
        }
    }
    wrong
}
