//! `[listen]`: where this node can be reached.

use crate::Address;
use crate::section::Kind;
use crate::section::Presence::Default;

crate::section::section! {
    /// The addresses this node listens at.
    pub struct Listen in "listen", repeated: false {
        /// Where peers connect, over mutual TLS.
        ///
        /// IPv6 addresses stand in brackets: `"[::]:7400"`. Port 0 takes any free port.
        ///
        /// Since 0.1.0.
        link: Address, Kind::Address { any_port: true }, Default("\"0.0.0.0:7400\"");

        /// Where `everywrite status`, `/health`, `/ready` and `/metrics` are served.
        ///
        /// Plain HTTP without a password, therefore on the loopback address by default. Port 0
        /// takes any free port.
        ///
        /// Since 0.1.0.
        admin: Address, Kind::Address { any_port: true }, Default("\"127.0.0.1:7401\"");
    }
}
