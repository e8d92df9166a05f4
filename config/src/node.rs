//! `[node]`: who this node is.

use std::path::PathBuf;

use crate::section::Kind;
use crate::section::Presence::Required;

crate::section::section! {
    /// Who this node is: one PostgreSQL database and the daemon beside it.
    pub struct Node in "node", repeated: false {
        /// The node's number, unique in the cluster.
        ///
        /// It is written into every row version and breaks ties between writes of the same
        /// microsecond, so it never changes and is never given to another node, not even after
        /// this one is gone. The node's certificate names it too.
        ///
        /// Since 0.1.0.
        id: u16, Kind::Integer { min: 1, max: 65_535 }, Required;

        /// The node's name for people: in logs, views and metrics.
        ///
        /// Since 0.1.0.
        name: String, Kind::Name, Required;

        /// The cluster's name. Nodes of another cluster are refused.
        ///
        /// The certificates name it too, so it cannot be changed without issuing them anew.
        ///
        /// Since 0.1.0.
        cluster: String, Kind::Name, Required;

        /// The folder of the journals and of what the node must remember across restarts.
        ///
        /// Put it on a disk that honours fsync. It needs room for everything that is written
        /// while a peer is away (see `quota` in `[journal]`). A node that has lost this folder
        /// must not come back under its old `id`.
        ///
        /// Since 0.1.0.
        data_directory: PathBuf, Kind::Path, Required;
    }
}
