//! What the output plugin is asked for.

use std::fmt::Write;

use crate::pg::quote::{identifier, literal};

/// Options of the pgoutput plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Protocol version; `None` takes the newest that the server knows: 3 on PostgreSQL 15, 4 from
    /// 16 on.
    pub protocol: Option<u32>,
    /// Publications whose tables are wanted.
    pub publications: Vec<String>,
    /// Values in binary format where the type has one.
    pub binary: bool,
    /// What `pg_logical_emit_message` writes.
    pub messages: bool,
    /// Large transactions come in blocks before they commit.
    pub streaming: bool,
    /// Leave out what was replayed here and first committed elsewhere. Before PostgreSQL 16 the
    /// server cannot, and the caller must skip by the Origin message.
    pub origin_none: bool,
    /// The server holds at most so many kilobytes of a transaction before it streams it, or what
    /// `logical_decoding_work_mem` says if that is less. 64 or more.
    pub decoding_kilobytes: u32,
}

impl Options {
    /// Everything that capture wants, from one publication.
    pub fn new(publication: impl Into<String>) -> Self {
        Options {
            protocol: None,
            publications: vec![publication.into()],
            binary: true,
            messages: true,
            streaming: true,
            origin_none: true,
            decoding_kilobytes: 8 << 10,
        }
    }

    /// The query that sets how much of a transaction the server holds.
    pub(super) fn decoding_memory(&self) -> String {
        let most = self.decoding_kilobytes;
        format!(
            "select set_config(name, '{most}', false) from pg_settings \
             where name = 'logical_decoding_work_mem' and setting::int > {most}"
        )
    }

    /// The options as they stand in `START_REPLICATION … (…)`, for a major version.
    pub(super) fn sql(&self, server_version: u32) -> String {
        let newest = if server_version >= 16 { 4 } else { 3 };
        let protocol = self.protocol.unwrap_or(newest);
        let names: Vec<String> = self
            .publications
            .iter()
            .map(|name| identifier(name))
            .collect();
        let mut sql = format!(
            "proto_version '{protocol}', publication_names {}",
            literal(&names.join(","))
        );
        let flags = [
            ("binary", "true", self.binary),
            ("messages", "true", self.messages),
            ("streaming", "on", self.streaming),
            ("origin", "none", self.origin_none && server_version >= 16),
        ];
        for (name, value, _) in flags.into_iter().filter(|(.., wanted)| *wanted) {
            let _ = write!(sql, ", {name} '{value}'");
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_depends_on_the_server() {
        let options = Options::new("every\"write's");
        assert_eq!(
            options.sql(15),
            "proto_version '3', publication_names '\"every\"\"write''s\"', binary 'true', \
             messages 'true', streaming 'on'"
        );
        assert!(options.sql(18).starts_with("proto_version '4'"));
        assert!(options.sql(18).ends_with("streaming 'on', origin 'none'"));
    }
}
