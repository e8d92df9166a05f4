//! `[[peer]]`: the other nodes.

use crate::Address;
use crate::section::Kind;
use crate::section::Presence::Required;

crate::section::section! {
    /// Another node of the cluster: one `[[peer]]` for each, at every node. Without any the node only keeps its journal.
    pub struct Peer in "peer", repeated: true {
        /// The peer's `id`, as in its own `[node]`.
        ///
        /// Since 0.1.0.
        id: u16, Kind::Integer { min: 1, max: 65_535 }, Required;

        /// The peer's name, as in its own `[node]`.
        ///
        /// Since 0.1.0.
        name: String, Kind::Name, Required;

        /// Where the peer's `link` can be reached from here, as `"host:port"`.
        ///
        /// Since 0.1.0.
        address: Address, Kind::Address { any_port: false }, Required;
    }
}
