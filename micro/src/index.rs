//! The conflict index, and the ledger around it as a replayed group uses it.

use std::hint::black_box;

use everywrite_conflict::{
    Entry, Index, KeyHash, KeyHasher, Lsn, NodeId, Position, RelationHash, Stamp, Vector, Version,
};
use everywrite_node::settle::{Coming, Intent, Landed, Ledger};

use crate::{Path, Work};

/// Keys of a round: whole batches of the index's queue.
const KEYS: usize = 1024;
/// Keys that are there before.
const BEFORE: usize = 50_000;
const ORIGIN: NodeId = NodeId(2);

/// Each thing that is done with a key.
pub fn paths() -> Vec<Path> {
    let path = |name, start: fn(usize) -> Work| Path::new(name, "key", KEYS, start);
    vec![
        path("index/hash", |_| hash()),
        path("index/announce-new", |rounds| announce(rounds, true)),
        path("index/announce-again", |rounds| announce(rounds, false)),
        path("index/look-hit", |_| look(0)),
        path("index/look-miss", |_| look(BEFORE)),
        path("index/landed", |_| landed()),
        path("index/forget", forget),
        path("index/group", group),
    ]
}

/// The n-th key's hash: spread as hashes are, and cheap.
pub(crate) fn key(n: usize) -> KeyHash {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let n = n as u64 + 1;
    let low = mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    KeyHash(u128::from(mix(low)) << 64 | u128::from(low))
}

fn relation() -> RelationHash {
    RelationHash::new("public", "items")
}

fn version(group: usize) -> Version {
    Version::new(Stamp(group as i64), ORIGIN)
}

/// Written by the `group`-th group of the other node, and on its way.
fn entry(group: usize) -> Entry {
    let lsn = Lsn(group as u64);
    Entry {
        version: version(group),
        source: Some(Position {
            origin: ORIGIN,
            lsn,
        }),
        deleted: false,
        local_lsn: Lsn::MAX,
    }
}

fn filled() -> Index {
    let mut index = Index::new();
    for n in 0..BEFORE {
        index.announce(relation(), key(n), entry(1));
    }
    index
}

fn hash() -> Work {
    let mut hasher = KeyHasher::new(relation());
    Box::new(move |round| {
        for n in 0..KEYS {
            let id = (round * KEYS + n) as i64;
            hasher.cell(20, Some(&id.to_be_bytes()), true);
            black_box(hasher.finish());
        }
    })
}

fn announce(rounds: usize, new: bool) -> Work {
    // From nothing: then the second half of the rounds makes each part of the map grow once.
    let mut index = if new { Index::new() } else { filled() };
    let keys: Vec<KeyHash> = (0..rounds * KEYS).map(|n| key(n % BEFORE)).collect();
    let relation = relation();
    Box::new(move |round| {
        for key in &keys[round * KEYS..][..KEYS] {
            black_box(index.announce(relation, *key, entry(2 + round)));
        }
    })
}

fn look(first: usize) -> Work {
    let index = filled();
    let keys: Vec<KeyHash> = (0..KEYS).map(|n| key(first + n)).collect();
    let relation = relation();
    Box::new(move |_| {
        for key in &keys {
            black_box(index.get(relation, *key));
        }
    })
}

fn landed() -> Work {
    let mut index = filled();
    let keys: Vec<KeyHash> = (0..KEYS).map(key).collect();
    let relation = relation();
    Box::new(move |round| {
        for key in &keys {
            black_box(index.landed(relation, *key, version(1), Lsn(round as u64)));
        }
    })
}

fn forget(_rounds: usize) -> Work {
    let mut index = Index::new();
    let landed = |group| Entry {
        local_lsn: Lsn(1),
        ..entry(group)
    };
    Box::new(move |round| {
        for n in 0..KEYS {
            index.announce(relation(), key(round * KEYS + n), landed(1 + round));
        }
        let stable: Vector = [(ORIGIN, Lsn(1 + round as u64))].into_iter().collect();
        assert_eq!(index.forget(&stable, Lsn(1)), KEYS);
    })
}

/// A group's whole way through the ledger: announced, landed, forgotten two groups later.
fn group(rounds: usize) -> Work {
    let ledger = Ledger::new(NodeId(1));
    let relation = relation();
    let keys: Vec<KeyHash> = (0..rounds * KEYS).map(key).collect();
    Box::new(move |round| {
        let keys = &keys[round * KEYS..][..KEYS];
        let group = 1 + round;
        let last = Lsn(group as u64);
        let intents = keys.iter().map(|key| Intent {
            vector: None,
            seen: None,
            relation,
            key: *key,
            entry: entry(group),
        });
        let announced = ledger.announce(
            Coming {
                origin: ORIGIN,
                last,
                newest: Stamp(group as i64),
                merges: false,
                first: None,
            },
            intents,
            |_, _, _| false,
            |priors| priors.iter().all(Option::is_none),
        );
        assert!(announced.is_some_and(|a| a.fast));
        let landed = Landed {
            origin: ORIGIN,
            last,
            before: last,
            behind: last,
            after: last,
            generation: 0,
        };
        let written = keys.iter().map(|key| (relation, *key, version(group)));
        black_box(ledger.landed(&landed, written, &[], |_, _| false));
        ledger.captured(last);
        let stable: Vector = [(ORIGIN, Lsn(last.0.saturating_sub(2)))]
            .into_iter()
            .collect();
        black_box(ledger.forget(&stable, last));
    })
}
