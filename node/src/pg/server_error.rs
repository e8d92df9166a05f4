//! What the server says when it refuses.

use super::sqlstate::{self, Class};

/// An ErrorResponse with all its fields.
///
/// `Display` is one line for people: severity, message, code, and the detail and hint if there are
/// any. Detail can contain values of rows, so logs should use [`summary`](Self::summary).
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

    /// Message and code, without anything that could hold values of rows.
    pub fn summary(&self) -> String {
        // The messages of class 22 quote the value they could not convert.
        let message = match self.code.starts_with("22") {
            true => "the server refused a value",
            false => &self.message,
        };
        format!("{message} (SQLSTATE {})", self.code)
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} (SQLSTATE {})",
            self.severity, self.message, self.code
        )?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}
