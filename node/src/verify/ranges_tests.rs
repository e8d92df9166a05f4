use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A site: rows by its own order of keys.
struct Site {
    /// Place in this site's order → (key, hash).
    rows: BTreeMap<u64, (u32, u64)>,
    salt: u64,
}

impl Site {
    fn new(rows: &BTreeMap<u32, u64>, salt: u64) -> Self {
        let rows = rows.iter().map(|(&k, &h)| (place(k, salt), (k, h)));
        Site {
            rows: rows.collect(),
            salt,
        }
    }

    fn bound(&self, key: Option<&Key>) -> Option<u64> {
        key.map(|k| place(k.values[0].parse().unwrap(), self.salt))
    }

    fn range(&self, range: &Range) -> Vec<(u32, u64)> {
        let (after, upto) = (
            self.bound(range.after.as_ref()),
            self.bound(range.upto.as_ref()),
        );
        let within = |p: u64| after.is_none_or(|a| p > a) && upto.is_none_or(|u| p <= u);
        let rows = self.rows.iter().filter(|(p, _)| within(**p));
        rows.map(|(_, row)| *row).collect()
    }
}

/// How a site sorts: 0 is by number, everything else shuffles.
fn place(key: u32, salt: u64) -> u64 {
    if salt == 0 {
        return u64::from(key);
    }
    let mixed = (u64::from(key) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The low half keeps places of different keys apart.
    (mixed >> 32 << 32) | u64::from(key)
}

/// A row's share of a digest: mixed well, for shares are combined by a plain exclusive or.
fn share(key: u32, hash: u64) -> u64 {
    let mut x = (u64::from(key) << 32) ^ hash;
    for _ in 0..2 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    }
    x ^ (x >> 31)
}

fn key(n: u32) -> Key {
    Key {
        values: vec![n.to_string()],
    }
}

/// Runs a comparison; the candidates, and how many questions it took.
fn compare(sites: &[Site], leader: usize, step: u32, at_most: usize) -> (BTreeSet<u32>, usize) {
    let nodes: Vec<NodeId> = (1..=sites.len() as u16).map(NodeId).collect();
    let options = Options { step };
    let mut ranges = Ranges::new(nodes.clone(), nodes[leader], options);
    let mut found = BTreeSet::new();
    let mut questions = 0;
    let mut queue = VecDeque::new();
    loop {
        while let Some(command) = ranges.next_command() {
            queue.push_back(command);
        }
        let Some(command) = queue.pop_front() else {
            break;
        };
        questions += 1;
        assert!(questions < 100_000, "it ends");
        match command {
            Command::Boundaries {
                id,
                site,
                range,
                step,
                at_most,
            } => {
                let rows = sites[site.0 as usize - 1].range(&range);
                let places = rows.chunks_exact(step as usize).take(at_most as usize);
                ranges.boundaries(id, places.map(|c| key(c.last().unwrap().0)).collect());
            }
            Command::Digest { id, range } => {
                for (site, &node) in sites.iter().zip(&nodes) {
                    let rows = site.range(&range);
                    let reply = if rows.len() > at_most {
                        Reply::TooMany
                    } else {
                        Reply::Is(RangeDigest {
                            rows: rows.len() as u64,
                            digest: rows.iter().fold(0, |d, (k, h)| d ^ share(*k, h + 1)),
                        })
                    };
                    queue.extend(ranges.digest(id, node, reply).unwrap());
                }
            }
            Command::Hashes { id, range } => {
                for (site, &node) in sites.iter().zip(&nodes) {
                    let rows = site.range(&range);
                    let hashes = rows
                        .into_iter()
                        .map(|(k, hash)| RowHash { key: key(k), hash });
                    let reply = Reply::Is(hashes.collect());
                    queue.extend(ranges.hashes(id, node, reply).unwrap());
                }
            }
            Command::Candidates(keys) => {
                found.extend(keys.iter().map(|k| k.values[0].parse::<u32>().unwrap()));
            }
        }
    }
    assert!(ranges.done());
    (found, questions)
}

fn differing(sites: &[BTreeMap<u32, u64>]) -> BTreeSet<u32> {
    let keys = sites.iter().flat_map(|s| s.keys().copied());
    keys.filter(|k| sites.iter().any(|s| s.get(k) != sites[0].get(k)))
        .collect()
}

proptest! {
    /// However many rows each site has: exactly what differs is found, with alike orders.
    #[test]
    fn finds_what_differs(
        common in proptest::collection::btree_map(0u32..400, 0u64..3, 0..200),
        changes in proptest::collection::vec((0usize..3, 0u32..500, proptest::option::of(3u64..5)), 0..20),
        crowd in proptest::option::of((0usize..3, 1u32..300)),
        leader in 0usize..3,
        step in 1u32..40,
    ) {
        let mut sites = vec![common.clone(), common.clone(), common];
        for (site, key, to) in changes {
            match to {
                Some(hash) => sites[site].insert(key, hash),
                None => sites[site].remove(&key),
            };
        }
        // One site has many rows that the others lack.
        if let Some((site, rows)) = crowd {
            sites[site].extend((0..rows).map(|n| (1000 + n, 0)));
        }
        let expected = differing(&sites);
        let ordered: Vec<Site> = sites.iter().map(|s| Site::new(s, 0)).collect();
        prop_assert_eq!(compare(&ordered, leader, step, 4 * step as usize).0, expected);
    }

    /// With an order of its own at every site nothing is missed; rows may be looked at for nothing.
    #[test]
    fn misses_nothing_when_sites_sort_differently(
        common in proptest::collection::btree_map(0u32..300, 0u64..3, 0..150),
        changes in proptest::collection::vec((0usize..3, 0u32..400, proptest::option::of(3u64..5)), 0..10),
        salts in proptest::array::uniform3(0u64..1000),
        step in 10u32..40,
    ) {
        let mut sites = vec![common.clone(), common.clone(), common];
        for (site, key, to) in changes {
            match to {
                Some(hash) => sites[site].insert(key, hash),
                None => sites[site].remove(&key),
            };
        }
        let expected = differing(&sites);
        let ordered: Vec<Site> = sites.iter().zip(salts).map(|(s, salt)| Site::new(s, salt)).collect();
        let found = compare(&ordered, 0, step, usize::MAX).0;
        prop_assert!(found.is_superset(&expected), "missed {:?}", expected.difference(&found));
    }
}

#[test]
fn equal_tables_cost_one_question_a_range() {
    let rows: BTreeMap<u32, u64> = (0..10_000).map(|k| (k, 7)).collect();
    let sites: Vec<Site> = (0..3).map(|_| Site::new(&rows, 0)).collect();
    let (found, questions) = compare(&sites, 0, 100, 400);
    assert!(found.is_empty());
    // 100 ranges and what is behind them, and a list of places for each 64 of them.
    assert!(questions <= 101 + 2, "{questions}");
}

#[test]
fn a_range_that_cannot_be_read_ends_it() {
    let node = NodeId(1);
    let mut ranges = Ranges::new(vec![node], node, Options { step: 2 });
    let mut failed = None;
    for _ in 0..10 {
        match ranges.next_command() {
            Some(Command::Boundaries { id, .. }) => ranges.boundaries(id, Vec::new()),
            Some(Command::Digest { id, .. }) => {
                if let Err(error) = ranges.digest(id, node, Reply::TooMany) {
                    failed = Some(error);
                    break;
                }
            }
            _ => break,
        }
    }
    assert_eq!(failed, Some(Unreadable));
}
