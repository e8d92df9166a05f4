//! TOML in, validated settings out. Reads files and nothing else: no sockets, no clock.
//!
//! In the order a file goes through it:
//!
//! | module        | role |
//! |---------------|------|
//! | `load`        | reads the file and runs the steps below |
//! | `shape`       | sections, keys and single values against the field tables; all complaints at once |
//! | `validate`    | rules between fields; relative paths become absolute |
//! | `secret`      | `${VAR}` and `*-file`, for secrets only |
//! | `diagnostic`  | file, line, caret, what was expected, how to mend it; secrets masked |
//!
//! Each section is one struct in a file of its own, written with the `section!` macro: the doc
//! comments of its fields are at once rustdoc, the reference page (`reference`), the comments
//! of the file that `everywrite init` writes (`template`) and the source of defaults. There is
//! no second list of fields that could fall behind.

mod section;

mod address;
mod units;
mod url;

mod conflicts;
mod journal;
mod link;
mod listen;
mod log;
mod node;
mod peers;
mod postgres;
mod replication;
mod tls;

mod diagnostic;
mod error;
mod load;
mod reference;
mod secret;
mod settings;
mod shape;
mod template;
mod validate;

pub use address::Address;
pub use conflicts::Conflicts;
pub use diagnostic::Diagnostic;
pub use error::Error;
pub use journal::Journal;
pub use link::{Compression, Link};
pub use listen::Listen;
pub use log::{Log, LogFormat};
pub use node::Node;
pub use peers::Peer;
pub use postgres::{Postgres, SslMode};
pub use reference::reference;
pub use replication::Replication;
pub use settings::Settings;
pub use template::Template;
pub use tls::Tls;
pub use units::Size;
