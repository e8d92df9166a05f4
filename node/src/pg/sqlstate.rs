//! From an error code to what must happen next.
//!
//! The rule: retry unless the code proves that the same statement can never succeed by itself. What
//! is proven to be about the transaction's data or the table's definition is parked; what is about
//! the set-up of the server, the database or the role halts.
//!
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>

/// What must happen after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may succeed by itself, on this session or a new one: try again, with a growing pause.
    Retry,
    /// It is about this transaction's data or this table's definition: a person or a policy must
    /// decide, other tables and streams need not wait.
    Park,
    /// It is about the set-up of server, database or role: nothing on this server works until a
    /// person has changed something.
    Halt,
}

/// The class of a SQLSTATE. Unknown and malformed codes are [`Class::Retry`].
pub fn classify(code: &str) -> Class {
    exact(code).unwrap_or_else(|| by_class(code))
}

/// Codes that differ from the rest of their class.
fn exact(code: &str) -> Option<Class> {
    Some(match code {
        "25001" | "25007" => Class::Park, // cannot run inside a transaction block
        "55000" => Class::Halt,           // prerequisites: wal_level, a slot whose WAL is gone
        "55P02" => Class::Halt,           // a setting that needs a restart
        "55P04" => Class::Park,           // an enum value added in this very transaction
        "57P04" => Class::Halt,           // the database was dropped
        "42P05" | "26000" => Class::Retry, // prepared names: a new session starts clean
        "XX001" | "XX002" => Class::Halt, // corrupted data or index
        _ => return None,
    })
}

fn by_class(code: &str) -> Class {
    match code.get(..2).unwrap_or_default() {
        // feature not supported; no data, cardinality, data, constraints, triggered change
        "0A" | "20" | "21" | "22" | "23" | "27" => Class::Park,
        // what functions and triggers of the user raise
        "09" | "2F" | "38" | "39" | "P0" => Class::Park,
        // schema, syntax and access rules, check options, program limits
        "3F" | "42" | "44" | "54" => Class::Park,
        // authorization, catalog (database) name, configuration file
        "28" | "3D" | "F0" => Class::Halt,
        // 08 connection, 40 rollback, 53 resources, 55 object state, 57 operator, 58 system, …
        _ => Class::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_heals_by_itself_is_retried() {
        for code in [
            "08006", "40001", "40P01", "53100", "53300", "55P03", "55006", "57014", "57P01",
            "57P02", "57P03", "58030", "58P01", "25006", "25P02", "26000", "42P05", "XX000",
            "72000",
        ] {
            assert_eq!(classify(code), Class::Retry, "{code}");
        }
    }

    #[test]
    fn what_is_about_the_data_is_parked() {
        for code in [
            "23505", "23503", "23514", "22001", "22P02", "42P01", "42703", "42501", "54000",
            "P0001", "44000", "0A000", "3F000", "55P04",
        ] {
            assert_eq!(classify(code), Class::Park, "{code}");
        }
    }

    #[test]
    fn what_is_about_the_set_up_halts() {
        for code in [
            "28P01", "28000", "3D000", "F0000", "55000", "57P04", "XX001", "XX002",
        ] {
            assert_eq!(classify(code), Class::Halt, "{code}");
        }
    }

    #[test]
    fn nonsense_is_retried() {
        for code in ["", "2", "é", "zzzzz", "23"] {
            let _ = classify(code);
        }
        assert_eq!(classify(""), Class::Retry);
        assert_eq!(classify("ZZ999"), Class::Retry);
    }
}
