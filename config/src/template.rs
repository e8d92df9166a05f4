//! The commented file that `everywrite init` writes.
//!
//! Every key of every section is in it: what was chosen as a line, the rest as a comment with
//! its default, so that the file alone says what can be set.

use std::fmt::Write as _;

use crate::Peer;
use crate::section::{Field, Presence, Section};
use crate::settings::SECTIONS;
use crate::shape::brackets;

/// Builds the text of a commented file.
///
/// ```
/// let text = everywrite_config::Template::default()
///     .set("node", "id", 1)
///     .set("node", "name", "amsterdam")
///     .set("node", "cluster", "shop")
///     .set("node", "data-directory", "data")
///     .set("postgres", "database", "shop")
///     .render();
/// let path = std::path::Path::new("/etc/everywrite/everywrite.toml");
/// assert_eq!(everywrite_config::Settings::parse(&text, path).unwrap().node.id, 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Template {
    chosen: Vec<(String, String, toml::Value)>,
    peers: Vec<Peer>,
}

/// Comments are wrapped here.
const WIDTH: usize = 92;

impl Template {
    /// Gives a key a value. Keys the file does not know are left out; a secret belongs into a
    /// file of its own (`password-file`).
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: impl Into<toml::Value>) -> Template {
        self.chosen
            .push((section.to_owned(), key.to_owned(), value.into()));
        self
    }

    /// Adds a `[[peer]]`.
    #[must_use]
    pub fn peer(mut self, peer: Peer) -> Template {
        self.peers.push(peer);
        self
    }

    /// The text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Settings of one Everywrite node. Lines behind `#` show the defaults.\n\
             # Relative paths start at the folder of this file.\n\
             # All about each key: docs/guide/configuration.md\n",
        );
        for section in SECTIONS {
            text.push('\n');
            comment(&mut text, &first_paragraph(section.doc));
            if section.repeated {
                self.render_peers(&mut text, section);
                continue;
            }
            let _ = writeln!(text, "{}", brackets(section));
            for field in section.fields {
                comment(&mut text, &first_paragraph(field.doc));
                self.render_field(&mut text, section, field);
            }
        }
        text
    }

    fn render_field(&self, text: &mut String, section: &Section, field: &Field) {
        let key = field.key();
        let chosen = self
            .chosen
            .iter()
            .find(|(in_section, of_key, _)| in_section == section.name && *of_key == key);
        let _ = match (chosen, field.presence) {
            (Some((_, _, value)), _) => writeln!(text, "{key} = {value}"),
            (None, Presence::Default(default)) => writeln!(text, "# {key} = {default}"),
            (None, _) => writeln!(text, "# {key} ="),
        };
    }

    fn render_peers(&self, text: &mut String, section: &Section) {
        if self.peers.is_empty() {
            text.push_str("# [[peer]]\n# id = 2\n# name = \"berlin\"\n");
            text.push_str("# address = \"berlin.example:7400\"\n");
        }
        for peer in &self.peers {
            let value = |text: String| toml::Value::String(text);
            let _ = writeln!(
                text,
                "{}\nid = {}\nname = {}\naddress = {}",
                brackets(section),
                peer.id,
                value(peer.name.clone()),
                value(peer.address.to_string()),
            );
        }
    }
}

fn first_paragraph(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc
        .iter()
        .map(|line| line.trim())
        .take_while(|line| !line.is_empty())
        .collect();
    lines.join(" ")
}

fn comment(text: &mut String, prose: &str) {
    let mut line = String::from("#");
    for word in prose.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}
