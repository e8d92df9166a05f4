//! Why a message could not be read.

/// A pgoutput message that does not follow the protocol.
///
/// Every variant names the message by its tag. A server never sends such a message on a healthy
/// stream; the usual cause is a decoder in the wrong state (inside or outside a stream block).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no byte at all.
    #[error("empty pgoutput message")]
    Empty,
    /// The tag belongs to no message of protocol 1 to 4.
    #[error("unknown pgoutput message {0:?}")]
    UnknownMessage(char),
    /// The message ends before its last field.
    #[error("pgoutput message {message:?} ends early: {field} is missing")]
    Truncated {
        /// Tag of the message.
        message: char,
        /// What was being read.
        field: &'static str,
    },
    /// Bytes are left over after the last field.
    #[error("pgoutput message {message:?} has {bytes} unexpected bytes at its end")]
    Trailing {
        /// Tag of the message.
        message: char,
        /// How many.
        bytes: usize,
    },
    /// A name is not UTF-8, though the connection asked for that encoding.
    #[error("pgoutput message {message:?}: {field} is not valid UTF-8")]
    NotUtf8 {
        /// Tag of the message.
        message: char,
        /// What was being read.
        field: &'static str,
    },
    /// A value that the field cannot have.
    #[error("pgoutput message {message:?}: {field} has the impossible value {value}")]
    Impossible {
        /// Tag of the message.
        message: char,
        /// What was being read.
        field: &'static str,
        /// The value found.
        value: i64,
    },
}
