//! The replication origins that stand for a node's transactions. Pure.
//!
//! A session of replay bears one, and PostgreSQL lets only one session bear each. So a stream that has two sessions has two
//! origins, `everywrite_7` and `everywrite_7_2`. Their groups are committed in the node's order, in one session or
//! the other: how far the node's transactions are applied is the **greatest** progress of the two (I1).

use everywrite_conflict::{Lsn, NodeId, Vector};

/// The names of a node's replication origins: of the first session, and of the second one.
pub(crate) fn names(node: NodeId) -> [String; 2] {
    [
        format!("everywrite_{node}"),
        format!("everywrite_{node}{SECOND}"),
    ]
}

/// Ends the name of a second session's origin.
const SECOND: &str = "_2";

/// Whose transactions an origin of this name stands for.
pub(crate) fn node_of(name: &str) -> Option<NodeId> {
    let node = name.strip_prefix("everywrite_")?;
    let node = node.strip_suffix(SECOND).unwrap_or(node);
    node.parse().ok().map(NodeId)
}

/// One origin's progress, beside what is known of the node's other one.
pub(crate) fn raise(progress: &mut Vector, name: &str, lsn: Lsn) {
    if let Some(node) = node_of(name) {
        progress.raise(node, lsn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_origins_are_of_the_node() {
        for node in [1, 2, 22, u16::MAX] {
            for name in names(NodeId(node)) {
                assert_eq!(node_of(&name), Some(NodeId(node)), "{name}");
            }
        }
        assert_eq!(names(NodeId(2))[1], "everywrite_2_2");
        for name in [
            "everywrite_repair",
            "everywrite_2_3",
            "everywrite__2",
            "everywrite_2_2_2",
            "everywrite_70000",
            "other_2",
        ] {
            assert_eq!(node_of(name), None, "{name}");
        }
    }

    #[test]
    fn the_greatest_of_both_is_what_is_applied() {
        let mut progress = Vector::new();
        for (name, lsn) in [
            ("everywrite_2_2", 9),
            ("everywrite_2", 7),
            ("everywrite_3", 4),
            ("everywrite_3_2", 5),
        ] {
            raise(&mut progress, name, Lsn(lsn));
        }
        let expected = [(NodeId(2), Lsn(9)), (NodeId(3), Lsn(5))];
        assert_eq!(progress, expected.into_iter().collect());
    }
}
