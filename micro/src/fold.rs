//! Journal frames → one net change a key, and the fold by itself.

use std::hint::black_box;

use everywrite_conflict::{Change, Fold, Image, KeyHash, NodeId, Stamp, Version, Writer};
use everywrite_node::replay::measured::Folding;

use crate::inputs::{Load, ME, ROWS, frames};
use crate::{Path, Work};

/// Replay's groups for each load (frames checked and decoded, too), then only the fold.
pub fn paths() -> Vec<Path> {
    let path = |name, load| Path::new(name, "row", ROWS, move |rounds| group(load, rounds));
    let keys = |name, distinct| Path::new(name, "row", ROWS, move |_| keys(distinct));
    vec![
        path("fold/insert-1000", Load::Insert),
        path("fold/insert-1", Load::InsertSingle),
        path("fold/tpc-b", Load::TpcB),
        path("fold/update-1", Load::Update),
        path("fold/delete-1", Load::Delete),
        keys("fold/only-distinct", ROWS),
        keys("fold/only-hot", 10),
    ]
}

/// A round is one group.
fn group(load: Load, rounds: usize) -> Work {
    let rounds = frames(load, rounds);
    let mut folding = Folding::new(ME);
    Box::new(move |round| {
        black_box(folding.fold(rounds[round].clone()).expect("folded"));
    })
}

/// A row of no size.
#[derive(Clone, Copy)]
struct Row;

impl Image for Row {
    fn fill_from(&mut self, _: &Self) {}

    fn complete(&self) -> bool {
        true
    }
}

fn keys(distinct: usize) -> Work {
    let hashes: Vec<KeyHash> = (0..ROWS).map(|i| crate::index::key(i % distinct)).collect();
    Box::new(move |_| {
        let mut fold = Fold::new();
        for (n, key) in hashes.iter().enumerate() {
            let version = Version::new(Stamp(n as i64), NodeId(1));
            let writer = Writer {
                version,
                transaction: n as u32,
            };
            fold.push(*key, Change::Update(Row), writer);
        }
        black_box(fold.finish());
    })
}
