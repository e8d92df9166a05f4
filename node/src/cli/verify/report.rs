//! What was found, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use everywrite_conflict::{NodeId, Stamp};
use serde_json::{Value, json};

use super::compare::Found;
use super::mend::Outcome;
use super::progress::duration;
use super::tables::Subject;
use crate::verify::plan::Step;
use crate::verify::question::{Key, Row, Spec, Written};

/// Equal, as far as could be seen.
pub(super) const EQUAL: u8 = 0;
/// Something differs.
pub(super) const DIFFERS: u8 = 1;
/// It could not be finished, and nothing was found to differ.
pub(super) const UNFINISHED: u8 = 3;

/// One table.
pub(super) struct TableReport {
    pub(super) subject: Subject,
    pub(super) found: Found,
    pub(super) seconds: f64,
    /// Why it could not be finished.
    pub(super) error: Option<String>,
    /// What is to be done, or was done, about each key that differs.
    pub(super) plan: BTreeMap<Key, (Step, Outcome)>,
}

/// Everything.
pub(super) struct Report {
    pub(super) sites: BTreeMap<NodeId, String>,
    pub(super) tables: Vec<TableReport>,
    pub(super) seconds: f64,
    /// Only the keys of the conflict history were looked at.
    pub(super) conflicts: bool,
}

impl TableReport {
    fn repaired(&self, key: &Key) -> bool {
        matches!(self.plan.get(key), Some((_, Outcome::Repaired)))
    }

    fn differs(&self) -> bool {
        !self.subject.differences.is_empty()
            || self.found.differ.keys().any(|key| !self.repaired(key))
    }
}

impl Report {
    /// Differences count more than what could not be seen.
    pub(super) fn code(&self) -> u8 {
        let unfinished = |t: &TableReport| t.error.is_some() || !t.found.undecided.is_empty();
        if self.tables.iter().any(TableReport::differs) {
            DIFFERS
        } else if self.tables.iter().any(unfinished) {
            UNFINISHED
        } else {
            EQUAL
        }
    }

    fn name(&self, node: NodeId) -> String {
        let name = self.sites.get(&node).cloned();
        name.unwrap_or_else(|| format!("node {node}"))
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for table in &self.tables {
            self.table(&mut out, table);
        }
        self.summary(&mut out);
        out
    }

    fn table(&self, out: &mut String, table: &TableReport) {
        let Found {
            rows,
            differ,
            still_changing,
            undecided,
            ..
        } = &table.found;
        let what = if self.conflicts {
            "keys of the conflict history"
        } else {
            "rows"
        };
        let verdict = if table.differs() {
            "DIFFERS"
        } else if table.error.is_some() || !undecided.is_empty() {
            "NOT FINISHED"
        } else if table.subject.spec.is_none() {
            "not compared"
        } else if differ.is_empty() {
            "equal"
        } else {
            "equal after repair"
        };
        let _ = write!(out, "{}: {verdict}", table.subject.name);
        if table.subject.spec.is_some() {
            let _ = write!(out, ", {rows} {what}, {}", duration(table.seconds));
        }
        out.push('\n');
        for line in table.subject.differences.iter().chain(&table.subject.notes) {
            let _ = writeln!(out, "  {line}");
        }
        if let Some(error) = &table.error {
            let _ = writeln!(out, "  {error}");
        }
        let Some(spec) = &table.subject.spec else {
            return;
        };
        for (key, rows) in differ {
            self.difference(out, spec, key, rows, table.plan.get(key));
        }
        if table.found.more {
            let _ = writeln!(
                out,
                "  there may be more: the table was left at its limit of differences (--limit)"
            );
        }
        for key in still_changing {
            let _ = writeln!(
                out,
                "  {} is still changing: it was written all the time while it was looked at",
                named(spec, key)
            );
        }
        for (key, (site, reason)) in undecided {
            let _ = writeln!(
                out,
                "  {} cannot be judged: site {}: {reason}",
                named(spec, key),
                self.name(*site)
            );
        }
    }

    fn difference(
        &self,
        out: &mut String,
        spec: &Spec,
        key: &Key,
        rows: &BTreeMap<NodeId, Row>,
        planned: Option<&(Step, Outcome)>,
    ) {
        let _ = writeln!(out, "  {} differs", named(spec, key));
        let width = self.sites.values().map(String::len).max().unwrap_or(0);
        for (&node, row) in rows {
            let shown = match &row.version {
                Some(version) => version.shown.as_str(),
                None => "no row",
            };
            let _ = writeln!(
                out,
                "    {:width$}  {shown}{}",
                self.name(node),
                self.written(row)
            );
        }
        let Some((step, outcome)) = planned else {
            return;
        };
        let at = self.name(step.at);
        let what = if step.delete {
            format!("delete the row at {at}")
        } else {
            format!("write {at}'s row again")
        };
        let winner = self.name(step.winner);
        let _ = writeln!(
            out,
            "    plan: {what}; {winner} wins: {}{}",
            step.reason,
            outcome.text()
        );
    }

    fn written(&self, row: &Row) -> String {
        let Some(written) = row.written else {
            return "  (no version is known)".to_owned();
        };
        let what = if written.deleted {
            "deleted"
        } else {
            "written"
        };
        let about = if written.exact { "" } else { "about " };
        format!(
            "  ({what} {about}{} at {})",
            when(written),
            self.origin(written)
        )
    }

    fn origin(&self, written: Written) -> String {
        self.name(NodeId(u16::try_from(written.origin).unwrap_or(0)))
    }

    fn summary(&self, out: &mut String) {
        let sum = |count: &dyn Fn(&TableReport) -> usize| -> usize {
            self.tables.iter().map(count).sum()
        };
        let rows: u64 = self.tables.iter().map(|t| t.found.rows).sum();
        let differ = sum(&|t| t.found.differ.len());
        let repaired = sum(&|t| t.found.differ.keys().filter(|k| t.repaired(k)).count());
        let changing = sum(&|t| t.found.still_changing.len());
        let compared = sum(&|t| usize::from(t.subject.spec.is_some()));
        let sites: Vec<String> = self.sites.values().cloned().collect();
        let rate = rows as f64 / self.seconds.max(0.001);
        let _ = write!(
            out,
            "{compared} tables at {}, {rows} {} in {}",
            sites.join(", "),
            if self.conflicts { "keys" } else { "rows" },
            duration(self.seconds)
        );
        if !self.conflicts {
            let _ = write!(out, " ({rate:.0} rows/s)");
        }
        let _ = write!(out, ": {differ} keys differ");
        if repaired > 0 {
            let _ = write!(out, ", {repaired} repaired");
        }
        if changing > 0 {
            let _ = write!(out, ", {changing} still changing");
        }
        let _ = writeln!(
            out,
            "{}",
            match self.code() {
                UNFINISHED => "; NOT FINISHED, see above",
                _ => "",
            }
        );
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        let rows: u64 = self.tables.iter().map(|t| t.found.rows).sum();
        let tables: Vec<Value> = self.tables.iter().map(|t| self.table_json(t)).collect();
        let document = json!({
            "result": match self.code() { EQUAL => "equal", DIFFERS => "differs", _ => "unfinished" },
            "sites": self.sites.values().collect::<Vec<_>>(),
            "conflicts_only": self.conflicts,
            "rows": rows,
            "seconds": self.seconds,
            "rows_per_s": rows as f64 / self.seconds.max(0.001),
            "tables": tables,
        });
        format!("{document:#}\n")
    }

    fn table_json(&self, table: &TableReport) -> Value {
        let spec = table.subject.spec.as_ref();
        let key = |key: &Key| spec.map_or(Value::Null, |spec| key_json(spec, key));
        let keys = |keys: &BTreeSet<Key>| keys.iter().map(key).collect::<Vec<_>>();
        let found = &table.found;
        let differences: Vec<Value> = found
            .differ
            .iter()
            .map(|(k, rows)| {
                let sites: serde_json::Map<String, Value> = rows
                    .iter()
                    .map(|(&node, row)| (self.name(node), self.row_json(row)))
                    .collect();
                let plan = table.plan.get(k).map(|(step, outcome)| {
                    json!({
                        "winner": self.name(step.winner),
                        "reason": step.reason,
                        "action": if step.delete { "delete" } else { "write" },
                        "at": self.name(step.at),
                        "outcome": outcome.word(),
                        "error": outcome.error(),
                    })
                });
                json!({ "key": key(k), "sites": sites, "plan": plan })
            })
            .collect();
        let undecided: Vec<Value> = found
            .undecided
            .iter()
            .map(|(k, (site, why))| json!({"key": key(k), "site": self.name(*site), "reason": why}))
            .collect();
        json!({
            "table": table.subject.name,
            "compared": spec.is_some(),
            "rows": found.rows,
            "ranges": found.ranges,
            "disputed": found.disputed,
            "seconds": table.seconds,
            "table_differences": table.subject.differences,
            "notes": table.subject.notes,
            "differences": differences,
            "more_differences": found.more,
            "still_changing": keys(&found.still_changing),
            "undecided": undecided,
            "error": table.error,
        })
    }

    fn row_json(&self, row: &Row) -> Value {
        json!({
            "row": row.version.as_ref().map(|v| v.shown.as_str()),
            "written_at": row.written.map(when),
            "written_by": row.written.map(|w| self.origin(w)),
            "exact": row.written.map(|w| w.exact),
            "deleted": row.written.map(|w| w.deleted),
        })
    }
}

/// `id=7`, or `(a, b)=(1, x)`.
fn named(spec: &Spec, key: &Key) -> String {
    if let ([name], [value]) = (&spec.key[..], &key.values[..]) {
        return format!("{name}={value}");
    }
    format!("({})=({})", spec.key.join(", "), key.values.join(", "))
}

fn key_json(spec: &Spec, key: &Key) -> Value {
    spec.key
        .iter()
        .cloned()
        .zip(key.values.iter().map(|v| Value::from(v.as_str())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A stamp as the time that it is.
fn when(written: Written) -> String {
    let us = Stamp(written.stamp).to_unix_us();
    let (days, of_day) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let (year, month, day) = civil(days);
    let seconds = of_day / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        of_day % 1_000_000
    )
}

/// The date that is so many days after 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that the leap day is the last one of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_times() {
        let at = |stamp| {
            when(Written {
                stamp,
                origin: 1,
                exact: true,
                deleted: false,
            })
        };
        assert_eq!(at(0), "2000-01-01 00:00:00.000000Z");
        assert_eq!(at(-1), "1999-12-31 23:59:59.999999Z");
        // 2024-02-29 12:34:56.789012
        assert_eq!(at(762_525_296_789_012), "2024-02-29 12:34:56.789012Z");
    }
}
