//! The whole file as one typed tree.

use serde::Deserialize;

use crate::section::Section;
use crate::{Conflicts, Journal, Link, Listen, Log, Node, Peer, Postgres, Replication, Tls};

/// Everything a node is told: the content of `everywrite.toml`, checked.
///
/// Paths are absolute (or relative to the working directory when the file's own path was),
/// secrets are expanded, defaults are filled in. `Debug` never shows a secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// `[node]`
    pub node: Node,
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`
    pub tls: Tls,
    /// `[[peer]]`, in the order of the file.
    #[serde(rename = "peer", default)]
    pub peers: Vec<Peer>,
    /// `[link]`
    pub link: Link,
    /// `[replication]`
    pub replication: Replication,
    /// `[journal]`
    pub journal: Journal,
    /// `[conflicts]`
    pub conflicts: Conflicts,
    /// `[log]`
    pub log: Log,
}

/// All sections, in the order of the file and of the reference page.
pub(crate) const SECTIONS: [&Section; 10] = [
    &Node::SECTION,
    &Postgres::SECTION,
    &Listen::SECTION,
    &Tls::SECTION,
    &Peer::SECTION,
    &Link::SECTION,
    &Replication::SECTION,
    &Journal::SECTION,
    &Conflicts::SECTION,
    &Log::SECTION,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section::Field;

    /// serde's own list of what it knows, from its complaint about what it does not.
    fn known_to_serde(error: &toml::de::Error) -> Vec<String> {
        let (_, list) = error.message().split_once("expected").unwrap();
        list.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_table_of_sections_is_complete() {
        let error = toml::from_str::<Settings>("nonsense = 1").unwrap_err();
        let names: Vec<_> = SECTIONS.iter().map(|s| s.name.to_owned()).collect();
        assert_eq!(names, known_to_serde(&error));
    }

    #[test]
    fn the_tables_of_keys_are_complete_and_explained() {
        for section in SECTIONS {
            let text = if section.repeated {
                format!("[[{}]]\nnonsense = 1", section.name)
            } else {
                format!("[{}]\nnonsense = 1", section.name)
            };
            let error = toml::from_str::<Settings>(&text).unwrap_err();
            let keys: Vec<_> = section.fields.iter().map(Field::key).collect();
            assert_eq!(keys, known_to_serde(&error), "[{}]", section.name);
            for field in section.fields {
                assert!(
                    field.doc.last().unwrap().trim().starts_with("Since "),
                    "{} says not since when it is there",
                    field.key()
                );
            }
        }
    }
}
