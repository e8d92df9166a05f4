//! What a section of the file is made of, and the macro that writes its struct and its table
//! of fields from one text.
//!
//! Invariant: a struct's fields and its [`Section`] are the same list, because one macro call
//! makes both; the default that the reference page names is the default that is used, because
//! `load` fills it in from the table before serde sees the file.

use std::time::Duration;

use crate::units::Size;

/// One section of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// The name between the brackets.
    pub(crate) name: &'static str,
    /// `[[name]]`: the section may occur many times, or never.
    pub(crate) repeated: bool,
    /// The lines of the struct's doc comment.
    pub(crate) doc: &'static [&'static str],
    /// In the order of the struct.
    pub(crate) fields: &'static [Field],
}

/// One key of a section.
#[derive(Debug)]
pub(crate) struct Field {
    /// The Rust name of the field; see [`Field::key`].
    pub(crate) ident: &'static str,
    /// The lines of the field's doc comment.
    pub(crate) doc: &'static [&'static str],
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
}

impl Field {
    /// The key as it stands in the file.
    pub(crate) fn key(&self) -> String {
        self.ident.replace('_', "-")
    }
}

/// Whether a key must be there, and what holds when it is not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Presence {
    Required,
    /// The value as TOML text.
    Default(&'static str),
    /// What happens without it, as a phrase for the reference page.
    Optional(&'static str),
}

/// Which values a key takes. The same table checks them and explains them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Inclusive bounds.
    Integer {
        min: i64,
        max: i64,
    },
    /// Any text that is not empty.
    Text,
    /// Letters, digits, `-`, `_` and `.`, at most 63: it goes into certificates and file names.
    Name,
    /// Relative ones are taken from the folder of the file.
    Path,
    /// Inclusive bounds.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// Inclusive bounds.
    Size {
        min: Size,
        max: Size,
    },
    /// `host:port`; port 0 (any free port) makes sense only where one listens.
    Address {
        any_port: bool,
    },
    Choice(&'static [&'static str]),
    /// Text that is never printed.
    Secret,
}

/// Writes a section's struct and its [`Section`] table.
///
/// Each field: doc comment, optional `#[serde(…)]`, `name: Type, Kind, Presence;`
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $vis:vis struct $name:ident in $table:literal, repeated: $repeated:literal {
            $(
                $(#[doc = $field_doc:literal])+
                $(#[serde($($attribute:tt)*)])?
                $field:ident: $type:ty, $kind:expr, $presence:expr;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        $vis struct $name {
            $(
                $(#[doc = $field_doc])+
                $(#[serde($($attribute)*)])?
                pub $field: $type,
            )+
        }

        impl $name {
            pub(crate) const SECTION: $crate::section::Section = $crate::section::Section {
                name: $table,
                repeated: $repeated,
                doc: &[$($doc),+],
                fields: &[$($crate::section::Field {
                    ident: stringify!($field),
                    doc: &[$($field_doc),+],
                    kind: $kind,
                    presence: $presence,
                }),+],
            };
        }
    };
}
pub(crate) use section;
