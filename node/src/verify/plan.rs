//! What to write so that a key is the same everywhere again. Pure.
//!
//! The highest version that is known of the key wins, as in any conflict: from the conflict index
//! where it still remembers the key, else from the commit timestamps of the rows. A delete counts only if the
//! index remembers it: that a row is missing says nothing about when it went. A row that was never in a site's
//! stream has no version.
//!
//! One ordinary write at one site mends all. Where the winner is a row, a site that holds it writes
//! it anew as it is: the write has a greater version than anything that site has seen, and carries
//! the whole row, so every site ends with it, also one that has no row or another one. Where the winner is a delete,
//! a site that still holds a row deletes it, and the delete travels.

use std::collections::BTreeMap;
use std::fmt;

use everywrite_conflict::NodeId;

use super::question::{Row, Written};

/// Why a row, or its absence, wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its version is the highest, by the conflict index.
    HighestVersion,
    /// Its version is the highest, by the server's commit timestamps.
    NewestCommit,
    /// Nothing is known of versions: a row is kept rather than lost.
    Kept,
    /// Nothing is known of versions: most sites hold it.
    Majority,
    /// The person chose its site.
    Chosen,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::HighestVersion => "highest version",
            Reason::NewestCommit => "newest commit",
            Reason::Kept => "no versions are known, a row is kept rather than lost",
            Reason::Majority => "no versions are known, most sites agree",
            Reason::Chosen => "chosen",
        })
    }
}

/// What to do about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whose state of the key wins.
    pub winner: NodeId,
    /// Where the write is made.
    pub at: NodeId,
    /// It is a delete.
    pub delete: bool,
    /// The row version at `at` that is written anew or deleted.
    pub xmin: u32,
    /// Why.
    pub reason: Reason,
}

/// Which state wins and who writes; `None` if no site holds a row, so that nothing can differ.
///
/// `chosen`: this site's state wins, whatever its version.
pub fn step(rows: &BTreeMap<NodeId, Row>, chosen: Option<NodeId>) -> Option<Step> {
    let rank = |row: &Row| row.written.map(version);
    // Equal versions, or none: what most sites hold, then the lowest number.
    let alike = |row: &Row| rows.values().filter(|r| content(r) == content(row)).count();
    let standing = |row: &Row| row.version.is_some();
    let (winner, row, reason) = match chosen {
        Some(site) => (site, rows.get(&site)?, Reason::Chosen),
        None => {
            let (&site, row) = rows.iter().max_by_key(|&(&site, row)| {
                let known = rank(row);
                (
                    known,
                    known.is_some() || standing(row),
                    alike(row),
                    std::cmp::Reverse(site),
                )
            })?;
            let reason = match row.written {
                Some(Written { exact: true, .. }) => Reason::HighestVersion,
                Some(_) => Reason::NewestCommit,
                None if rows.values().all(standing) => Reason::Majority,
                None => Reason::Kept,
            };
            (site, row, reason)
        }
    };
    match &row.version {
        Some(version) => Some(Step {
            winner,
            at: winner,
            delete: false,
            xmin: version.xmin,
            reason,
        }),
        // Where the newest of the rows stands, the delete is surely stamped above it.
        None => {
            let (&at, row) = rows
                .iter()
                .filter(|(_, row)| standing(row))
                .max_by_key(|(_, row)| rank(row))?;
            Some(Step {
                winner,
                at,
                delete: true,
                xmin: row.version.as_ref()?.xmin,
                reason,
            })
        }
    }
}

fn version(written: Written) -> (i64, u32) {
    (written.stamp, written.origin)
}

fn content(row: &Row) -> Option<&[u8]> {
    row.version.as_ref().map(|v| v.sha256.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::question::RowVersion;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn row(content: u8, written: Option<(i64, u32, bool)>) -> Row {
        Row {
            version: Some(RowVersion {
                xmin: u32::from(content) + 100,
                sha256: vec![content],
                shown: String::new(),
            }),
            written: written.map(|(stamp, origin, exact)| Written {
                stamp,
                origin,
                exact,
                deleted: false,
            }),
        }
    }

    fn gone(stamp: Option<i64>) -> Row {
        Row {
            version: None,
            written: stamp.map(|stamp| Written {
                stamp,
                origin: 2,
                exact: true,
                deleted: true,
            }),
        }
    }

    fn plan(rows: [Row; 3]) -> Option<Step> {
        step(&[A, B, C].into_iter().zip(rows).collect(), None)
    }

    #[test]
    fn the_highest_version_wins() {
        let step = plan([
            row(1, Some((10, 1, false))),
            row(2, Some((20, 2, true))),
            row(1, Some((20, 1, false))),
        ])
        .unwrap();
        assert_eq!(
            (step.winner, step.at, step.delete, step.xmin),
            (B, B, false, 102)
        );
        assert_eq!(step.reason, Reason::HighestVersion);
    }

    #[test]
    fn a_missing_row_wins_only_as_a_known_delete() {
        let old = Some((10, 1, false));
        let step = plan([row(1, old), gone(None), row(1, old)]).unwrap();
        assert_eq!((step.winner, step.delete), (A, false));
        let step = plan([row(1, old), gone(Some(11)), row(1, old)]).unwrap();
        assert_eq!((step.winner, step.at, step.delete), (B, C, true));
        // A row of which nothing is known stands against a missing one, too.
        let step = plan([gone(None), gone(None), row(1, None)]).unwrap();
        assert_eq!((step.winner, step.reason), (C, Reason::Kept));
    }

    #[test]
    fn without_versions_most_sites_decide() {
        let step = plan([row(1, None), row(2, None), row(2, None)]).unwrap();
        assert_eq!(
            (step.winner, step.xmin, step.reason),
            (B, 102, Reason::Majority)
        );
    }

    #[test]
    fn a_person_may_choose() {
        let rows: BTreeMap<NodeId, Row> = [
            (A, gone(None)),
            (B, row(2, Some((20, 2, false)))),
            (C, row(3, Some((30, 2, false)))),
        ]
        .into();
        let step = step(&rows, Some(A)).unwrap();
        assert_eq!(
            (step.winner, step.at, step.delete, step.reason),
            (A, C, true, Reason::Chosen)
        );
        let nothing: BTreeMap<NodeId, Row> = [(A, gone(Some(1))), (B, gone(None))].into();
        assert_eq!(super::step(&nothing, None), None);
    }
}
