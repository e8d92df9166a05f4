//! What every site has to have in the end, computed from the journals by the definition: of each key the greatest
//! row event, and the updates that have seen it.

use std::collections::BTreeMap;

use everywrite_conflict::Version;
use everywrite_conflict::policy::columns::Merge;

use crate::data::{Changed, KEYS, Key, Op, Part, RULES, Row, Transaction, Update};
use crate::site::Site;

/// The rows by definition: of each key the greatest event, and what belongs to it.
pub(crate) fn expected(sites: &[Site]) -> BTreeMap<Key, Row> {
    let over = |a: (&Transaction, Version), b: (&Transaction, Version)| {
        a.0.claims(b.0.at) || (!b.0.claims(a.0.at) && a.1 > b.1)
    };
    let mut all: Vec<&Transaction> = sites.iter().flat_map(|s| &s.journal).collect();
    all.sort_by_key(|t| (t.version.stamp, t.version.origin));
    let mut rows = BTreeMap::new();
    for key in 0..KEYS {
        let mut event: Option<(&Transaction, Version, Option<Row>)> = None;
        for &t in &all {
            if let Some((version, row)) = t.leaves(key)
                && event.is_none_or(|(e, v, _)| over((t, version), (e, v)))
            {
                event = Some((t, version, row));
            }
        }
        let Some((event, _, Some(mut row))) = event else {
            continue;
        };
        let mut last: BTreeMap<Part, (&Transaction, Version)> = BTreeMap::new();
        for &t in &all {
            let Op::Update(k, update) = &t.op else {
                continue;
            };
            if *k != key || !t.claims(event.at) {
                continue;
            }
            let Update {
                rules,
                image,
                changes,
            } = update;
            for change in changes {
                let Changed { part, by, .. } = *change;
                let version = t.version_of(change);
                if RULES[*rules][part.column] == Merge::Delta {
                    row[part.column] += by;
                } else if last.get(&part).is_none_or(|l| over((t, version), *l)) {
                    last.insert(part, (t, version));
                    part.copy(&mut row, image);
                }
            }
        }
        rows.insert(key, row);
    }
    rows
}
