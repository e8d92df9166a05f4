//! `[tls]`: what this node proves itself with to its peers.

use std::path::PathBuf;

use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// What this node proves itself with to its peers, and how it knows them. `everywrite init` makes all three files.
    pub struct Tls in "tls", repeated: false {
        /// The certificate of the cluster's authority (PEM), the same at all nodes.
        ///
        /// Since 0.1.0.
        ca: PathBuf, Kind::Path, Default("\"ca.crt\"");

        /// This node's certificate (PEM). It names the cluster and the node's `id`.
        ///
        /// Since 0.1.0.
        certificate: PathBuf, Kind::Path, Default("\"node.crt\"");

        /// The private key of `certificate` (PEM); readable by the daemon's user alone.
        ///
        /// Since 0.1.0.
        key: PathBuf, Kind::Path, Default("\"node.key\"");
    }
}
