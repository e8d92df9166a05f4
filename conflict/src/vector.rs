//! For each origin, how far.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, NodeId, Position};

/// A version vector: for each origin the LSN up to which its transactions are included.
/// An origin that is not named counts as [`Lsn::ZERO`]. Kept sorted; sites are few.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vector(Vec<(NodeId, Lsn)>);

impl Vector {
    /// Knows nothing of anybody.
    pub const fn new() -> Self {
        Vector(Vec::new())
    }

    /// How far this vector is for `origin`.
    pub fn get(&self, origin: NodeId) -> Lsn {
        match self.0.binary_search_by_key(&origin, |e| e.0) {
            Ok(i) => self.0.get(i).map_or(Lsn::ZERO, |e| e.1),
            Err(_) => Lsn::ZERO,
        }
    }

    /// Sets how far `origin` is, forwards or backwards.
    pub fn set(&mut self, origin: NodeId, lsn: Lsn) {
        match self.0.binary_search_by_key(&origin, |e| e.0) {
            Ok(i) => {
                if let Some(e) = self.0.get_mut(i) {
                    e.1 = lsn;
                }
            }
            Err(i) => self.0.insert(i, (origin, lsn)),
        }
    }

    /// Moves `origin` forward to `lsn`; true if that was forward.
    pub fn raise(&mut self, origin: NodeId, lsn: Lsn) -> bool {
        let forward = self.get(origin) < lsn;
        if forward {
            self.set(origin, lsn);
        }
        forward
    }

    /// Raises every origin to at least what `other` has.
    pub fn merge(&mut self, other: &Vector) {
        for &(origin, lsn) in &other.0 {
            self.raise(origin, lsn);
        }
    }

    /// Whether the transaction at `position` is included.
    pub fn covers(&self, position: Position) -> bool {
        self.get(position.origin) >= position.lsn
    }

    /// Whether everything that `other` includes is included here.
    pub fn covers_all(&self, other: &Vector) -> bool {
        other.0.iter().all(|&(origin, lsn)| self.get(origin) >= lsn)
    }

    /// The origins named, in order, with their LSN.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, Lsn)> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<(NodeId, Lsn)> for Vector {
    fn from_iter<T: IntoIterator<Item = (NodeId, Lsn)>>(iter: T) -> Self {
        let mut vector = Vector::new();
        for (origin, lsn) in iter {
            vector.set(origin, lsn);
        }
        vector
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(o, l)| (o, l)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector() -> impl Strategy<Value = Vector> {
        let one = (1u16..5, 0u64..9).prop_map(|(n, lsn)| (NodeId(n), Lsn(lsn)));
        proptest::collection::vec(one, 0..5).prop_map(|all| all.into_iter().collect())
    }

    proptest! {
        /// What two vectors have between them is the least that covers both.
        #[test]
        fn merging_never_goes_back(a in vector(), b in vector()) {
            let mut both = a.clone();
            both.merge(&b);
            prop_assert!(both.covers_all(&a) && both.covers_all(&b));
            for (origin, lsn) in both.iter() {
                prop_assert_eq!(lsn, a.get(origin).max(b.get(origin)));
            }
        }
    }
}
