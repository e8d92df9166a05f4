//! Conflicts, counted by table and kind.

use std::collections::BTreeMap;

use everywrite_conflict::Kind;

use super::table::Table;
use crate::telemetry::ConflictCount;

/// Conflicts by schema and table, then by kind.
#[derive(Clone, Debug, Default)]
pub struct ConflictCounts(BTreeMap<(String, String), BTreeMap<Kind, u64>>);

impl ConflictCounts {
    /// Counts one.
    pub(super) fn add(&mut self, table: &Table, kind: Kind) {
        self.add_all(table, [(kind, 1)]);
    }

    /// Counts many.
    pub(super) fn add_all(&mut self, table: &Table, kinds: impl IntoIterator<Item = (Kind, u64)>) {
        let mut kinds = kinds.into_iter().peekable();
        if kinds.peek().is_none() {
            return;
        }
        let table = (table.schema.clone(), table.name.clone());
        let counts = self.0.entry(table).or_default();
        for (kind, conflicts) in kinds {
            *counts.entry(kind).or_default() += conflicts;
        }
    }

    /// Those of one table.
    pub(super) fn of(&self, table: &Table) -> impl Iterator<Item = (Kind, u64)> + '_ {
        let table = (table.schema.clone(), table.name.clone());
        let counts = self.0.get(&table).into_iter().flatten();
        counts.map(|(kind, conflicts)| (*kind, *conflicts))
    }

    /// Counts all of `other` too.
    pub fn merge(&mut self, other: &ConflictCounts) {
        for (table, kinds) in &other.0 {
            let counts = self.0.entry(table.clone()).or_default();
            for (kind, conflicts) in kinds {
                *counts.entry(*kind).or_default() += conflicts;
            }
        }
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// As the status shows them.
    pub fn list(&self) -> Vec<ConflictCount> {
        let one = |(schema, table): &(String, String), kind: Kind, conflicts| ConflictCount {
            schema: schema.clone(),
            table: table.clone(),
            kind: kind.as_str().to_owned(),
            conflicts,
        };
        let kinds = |(table, kinds)| {
            let kinds: &BTreeMap<Kind, u64> = kinds;
            kinds.iter().map(move |(&kind, &n)| one(table, kind, n))
        };
        self.0.iter().flat_map(kinds).collect()
    }
}
