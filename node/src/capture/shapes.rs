//! The numbers that stand for relations in the own journal.

use std::collections::HashMap;

use bytes::Bytes;

/// Relation messages and their shape ids: a changed table gets a new id, an unchanged one keeps
/// its id across restarts and reconnects.
#[derive(Debug, Default)]
pub struct Shapes {
    by_relation: HashMap<Bytes, u32>,
    last: u32,
}

impl Shapes {
    /// Takes up the shapes that the journal holds.
    pub fn restore(shapes: impl IntoIterator<Item = (u32, Bytes)>) -> Self {
        let by_relation: HashMap<Bytes, u32> = shapes
            .into_iter()
            .map(|(id, relation)| (relation, id))
            .collect();
        let last = by_relation.values().copied().max().unwrap_or(0);
        Shapes { by_relation, last }
    }

    /// The id of a relation message (without its tag), and whether it is new.
    pub fn id(&mut self, relation: &[u8]) -> (u32, bool) {
        if let Some(&id) = self.by_relation.get(relation) {
            return (id, false);
        }
        self.last += 1;
        self.by_relation
            .insert(Bytes::copy_from_slice(relation), self.last);
        (self.last, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_keeps_its_number() {
        let mut shapes = Shapes::restore([(7, Bytes::from_static(b"old"))]);
        assert_eq!(shapes.id(b"old"), (7, false));
        assert_eq!(shapes.id(b"new"), (8, true));
        assert_eq!(shapes.id(b"new"), (8, false));
    }
}
