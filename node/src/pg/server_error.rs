//! What the server says when it refuses.

use std::borrow::Cow;

use super::sqlstate::{self, Class};

/// An ErrorResponse with all its fields.
///
/// `Display` is one line for people and logs: severity, message, code and hint. It leaves out what
/// can be a row's value: the detail, the context, and what the messages of class 22 quote. Those are
/// for the conflict history and for whoever may see the rows.
///
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    /// One line.
    pub message: String,
    /// More about the problem; may contain values of rows.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Character index into the statement, from 1.
    pub position: Option<u32>,
    /// Character index into `internal_query`, from 1.
    pub internal_position: Option<u32>,
    /// The statement the server itself had made (a function's, for instance).
    pub internal_query: Option<String>,
    /// The call stack of functions.
    pub context: Option<String>,
    /// Schema of the object it is about.
    pub schema: Option<String>,
    /// Table it is about.
    pub table: Option<String>,
    /// Column it is about.
    pub column: Option<String>,
    /// Data type it is about.
    pub data_type: Option<String>,
    /// Constraint, or unique index, it is about.
    pub constraint: Option<String>,
    /// Source file in the server.
    pub file: Option<String>,
    /// Line in that file.
    pub line: Option<u32>,
    /// Function in the server.
    pub routine: Option<String>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse. Unknown fields are skipped, bytes that
    /// are not UTF-8 (errors before the encoding is agreed on) are replaced.
    pub(super) fn decode(body: &[u8]) -> Self {
        let mut error = ServerError::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, value)) = field.split_first() else {
                continue;
            };
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                // 'S' may be translated and comes before 'V', which is not.
                b'S' | b'V' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'P' => error.position = value.parse().ok(),
                b'p' => error.internal_position = value.parse().ok(),
                b'q' => error.internal_query = Some(value),
                b'W' => error.context = Some(value),
                b's' => error.schema = Some(value),
                b't' => error.table = Some(value),
                b'c' => error.column = Some(value),
                b'd' => error.data_type = Some(value),
                b'n' => error.constraint = Some(value),
                b'F' => error.file = Some(value),
                b'L' => error.line = value.parse().ok(),
                b'R' => error.routine = Some(value),
                _ => {}
            }
        }
        error
    }

    /// What must happen next.
    pub fn class(&self) -> Class {
        if self.is_stale_plan() {
            return Class::Retry;
        }
        sqlstate::classify(&self.code)
    }

    /// The session is gone: the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        self.severity == "FATAL" || self.severity == "PANIC"
    }

    /// A prepared statement no longer fits the table's new shape: prepare it again, and it works.
    pub fn is_stale_plan(&self) -> bool {
        self.code == "0A000" && self.routine.as_deref() == Some("RevalidateCachedQuery")
    }

    /// The message, without the values that messages of class 22 (data exception) quote.
    pub fn message_without_values(&self) -> Cow<'_, str> {
        let quotes = (self.message.find('"'), self.message.rfind('"'));
        let (true, (Some(first), Some(last))) = (self.code.starts_with("22"), quotes) else {
            return Cow::Borrowed(&self.message);
        };
        let before = self.message.get(..first).unwrap_or_default();
        let after = self.message.get(last + 1..).unwrap_or_default();
        Cow::Owned(format!("{before}\"…\"{after}"))
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.message_without_values();
        write!(f, "{}: {message} (SQLSTATE {})", self.severity, self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"SFEHLER\0VERROR\0C22P02\0Minvalid input syntax for type integer: \"4\"2\"\0\
        DKey (id)=(1)\0Hask someone\0P7\0Wfunction f\0ttab\0cc\0nt_pkey\0Fint.c\0L12\0Rpg_strtoint\0\
        ?unknown\0\0";

    #[test]
    fn all_fields_are_read_and_unknown_ones_skipped() {
        let error = ServerError::decode(BODY);
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.code, "22P02");
        assert_eq!(error.detail.as_deref(), Some("Key (id)=(1)"));
        assert_eq!((error.position, error.line), (Some(7), Some(12)));
        assert_eq!(error.table.as_deref(), Some("tab"));
        assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
        assert!(!error.is_fatal());
    }

    #[test]
    fn what_is_printed_holds_no_values() {
        let error = ServerError::decode(BODY);
        let expected = "ERROR: invalid input syntax for type integer: \"…\" (SQLSTATE 22P02); \
                        hint: ask someone";
        assert_eq!(error.to_string(), expected);
        let named = ServerError {
            code: "42P01".into(),
            message: "relation \"t\" does not exist".into(),
            ..error
        };
        assert_eq!(named.message_without_values(), named.message);
    }

    #[test]
    fn nonsense_is_survived() {
        for body in [&b""[..], b"\0", b"M", b"M\xff\xfe\0", b"C\0\0\0"] {
            let _ = ServerError::decode(body).to_string();
        }
    }
}
