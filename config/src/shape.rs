//! Checks sections, keys and single values against the field tables, and fills in defaults.
//!
//! serde stops at the first complaint; here all are gathered, with their places and the words
//! of the field table. After this step serde finds nothing more to complain about (its own
//! `deny_unknown_fields` stays as a second lock).

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Page};
use crate::section::{Field, Kind, Presence, Section};
use crate::settings::SECTIONS;
use crate::{Address, Size};

/// Where the values that must not be shown are.
pub(crate) fn secrets(root: &DeTable<'_>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for section in SECTIONS {
        for (table, _) in tables(root, section) {
            for field in section.fields {
                if let (Kind::Secret, Some(value)) = (field.kind, table.get(&*field.key())) {
                    found.push(value.span());
                }
            }
        }
    }
    found
}

/// The place of `[section] key`; of the section when the key is not there; of the file's start
/// when the section is not. `nth` counts the tables of a repeated section.
pub(crate) fn place(root: &DeTable<'_>, section: &Section, nth: usize, key: &str) -> Range<usize> {
    let tables = tables(root, section);
    let Some((table, header)) = tables.get(nth) else {
        return 0..0;
    };
    table.get(key).map_or_else(|| header.clone(), Spanned::span)
}

/// The tables of a section with the places of their headers: none, one, or many if repeated.
fn tables<'a, 'i>(
    root: &'a DeTable<'i>,
    section: &Section,
) -> Vec<(&'a DeTable<'i>, Range<usize>)> {
    let Some(value) = root.get(section.name) else {
        return Vec::new();
    };
    match value.get_ref() {
        DeValue::Table(table) => vec![(table, value.span())],
        DeValue::Array(array) => array
            .iter()
            .filter_map(|item| Some((item.get_ref().as_table()?, item.span())))
            .collect(),
        _ => Vec::new(),
    }
}

/// All complaints about the shape of the file, in its order.
pub(crate) fn check(page: &Page<'_>, root: &DeTable<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (name, value) in root.iter() {
        let known = SECTIONS
            .iter()
            .find(|section| section.name == name.get_ref());
        match known {
            Some(section) => check_section(page, section, value, &mut found),
            None => found.push(unknown_section(page, name, value)),
        }
    }
    for section in SECTIONS {
        if !section.repeated && !root.contains_key(section.name) {
            missing_section(page, section, &mut found);
        }
    }
    found.sort_by_key(|diagnostic| (diagnostic.line(), diagnostic.column()));
    found
}

fn unknown_section(
    page: &Page<'_>,
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Diagnostic {
    let text = name.get_ref();
    if value.get_ref().is_table() || value.get_ref().is_array() {
        let names: Vec<String> = SECTIONS.iter().map(|s| s.name.to_owned()).collect();
        let listed: Vec<String> = SECTIONS.iter().map(|s| brackets(s)).collect();
        let diagnostic = page
            .at(name.span(), format!("unknown section [{text}]"))
            .expected(listed.join(", "));
        return match nearest(text, &names) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help("remove the section, or correct its name"),
        };
    }
    let owner = SECTIONS
        .iter()
        .find(|s| s.fields.iter().any(|f| f.key() == **text));
    let diagnostic = page.at(name.span(), format!("`{text}` stands outside any section"));
    match owner {
        Some(owner) => diagnostic.help(format!("move it below {}", brackets(owner))),
        None => diagnostic.help("remove it: every key belongs to a section"),
    }
}

fn missing_section(page: &Page<'_>, section: &Section, found: &mut Vec<Diagnostic>) {
    let required: Vec<String> = section
        .fields
        .iter()
        .filter(|field| matches!(field.presence, Presence::Required))
        .map(Field::key)
        .collect();
    if !required.is_empty() {
        let header = brackets(section);
        found.push(
            page.at(0..0, format!("the section {header} is missing"))
                .expected(format!("{header} with {}", required.join(", ")))
                .help("`everywrite init` writes a complete file to start from"),
        );
    }
}

fn check_section(
    page: &Page<'_>,
    section: &Section,
    value: &Spanned<DeValue<'_>>,
    found: &mut Vec<Diagnostic>,
) {
    let header = brackets(section);
    match (value.get_ref(), section.repeated) {
        (DeValue::Table(table), false) => check_table(page, section, table, value.span(), found),
        (DeValue::Array(array), true) => {
            for item in array.iter() {
                match item.get_ref() {
                    DeValue::Table(table) => {
                        check_table(page, section, table, item.span(), found);
                    }
                    other => found.push(
                        page.at(
                            item.span(),
                            format!("a {} is not a {}", other.type_str(), section.name),
                        )
                        .expected(format!("{header} and its keys on the lines below")),
                    ),
                }
            }
        }
        (_, repeated) => {
            let brackets = if repeated { "double" } else { "single" };
            found.push(
                page.at(
                    value.span(),
                    format!("`{}` is not written right", section.name),
                )
                .expected(format!("{header}, in {brackets} brackets")),
            );
        }
    }
}

fn check_table(
    page: &Page<'_>,
    section: &Section,
    table: &DeTable<'_>,
    header: Range<usize>,
    found: &mut Vec<Diagnostic>,
) {
    let keys: Vec<String> = section.fields.iter().map(Field::key).collect();
    for (name, value) in table.iter() {
        let text = name.get_ref();
        match section.fields.iter().find(|field| field.key() == **text) {
            Some(field) => check_value(page, field, value, found),
            None => {
                let message = format!("unknown key `{text}` in {}", brackets(section));
                let diagnostic = page.at(name.span(), message).expected(keys.join(", "));
                let elsewhere = SECTIONS
                    .iter()
                    .find(|s| s.fields.iter().any(|f| f.key() == **text));
                found.push(match (nearest(text, &keys), elsewhere) {
                    (_, Some(other)) => {
                        diagnostic.help(format!("it belongs below {}", brackets(other)))
                    }
                    (Some(near), None) => diagnostic.help(format!("did you mean `{near}`?")),
                    (None, None) => diagnostic.help("remove the key, or correct its name"),
                });
            }
        }
    }
    for field in section.fields {
        let key = field.key();
        if matches!(field.presence, Presence::Required) && !table.contains_key(&*key) {
            found.push(
                page.at(
                    header.clone(),
                    format!("`{key}` is missing in {}", brackets(section)),
                )
                .expected(format!("{key} = {}", field.kind.expected()))
                .help(about(field)),
            );
        }
    }
}

fn check_value(
    page: &Page<'_>,
    field: &Field,
    value: &Spanned<DeValue<'_>>,
    found: &mut Vec<Diagnostic>,
) {
    let Err(reason) = field.kind.check(value.get_ref()) else {
        return;
    };
    let message = format!("`{}` cannot have this value: {reason}", field.key());
    let diagnostic = page
        .at(value.span(), message)
        .expected(field.kind.expected());
    found.push(match field.presence {
        Presence::Default(default) => diagnostic.help(format!("without the line it is {default}")),
        _ => diagnostic.help(about(field)),
    });
}

impl Kind {
    /// Which values there are, for error messages and the reference page.
    pub(crate) fn expected(self) -> String {
        match self {
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Text => "text in quotes".to_owned(),
            Kind::Name => "a name in quotes: up to 63 letters, digits, `-`, `_` and `.`".to_owned(),
            Kind::Path => "a path in quotes".to_owned(),
            Kind::Duration { min, max } => format!(
                "a duration in quotes such as \"500ms\", \"10s\" or \"2h\", from {} to {}",
                duration(min),
                duration(max)
            ),
            Kind::Size { min, max } if max.bytes() == u64::MAX => {
                format!("a size in quotes such as \"64MiB\" or \"2GB\", at least {min}")
            }
            Kind::Size { min, max } => {
                format!("a size in quotes such as \"64MiB\" or \"2GB\", from {min} to {max}")
            }
            Kind::Address { .. } => "\"host:port\"".to_owned(),
            Kind::Choice(names) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                quoted.join(", ")
            }
            Kind::Secret => "text in quotes, or \"${NAME}\" for an environment variable".to_owned(),
        }
    }

    /// Why `value` is not of this kind. Never quotes the value: it may be a secret.
    fn check(self, value: &DeValue<'_>) -> Result<(), String> {
        if let Kind::Integer { min, max } = self {
            let Some(integer) = value.as_integer() else {
                return Err(wrong_type(value));
            };
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            return match number {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err("it is out of range".to_owned()),
            };
        }
        let Some(text) = value.as_str() else {
            return Err(wrong_type(value));
        };
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        self.check_text(text)
    }

    fn check_text(self, text: &str) -> Result<(), String> {
        const OUT_OF_RANGE: &str = "it is out of range";
        match self {
            Kind::Integer { .. } | Kind::Text | Kind::Path | Kind::Secret => Ok(()),
            Kind::Name => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if text.len() > 63 {
                    Err("it is too long".to_owned())
                } else if text.chars().all(plain) {
                    Ok(())
                } else {
                    Err("it has characters that no name has".to_owned())
                }
            }
            Kind::Duration { min, max } => {
                match humantime_serde::re::humantime::parse_duration(text) {
                    Ok(duration) if (min..=max).contains(&duration) => Ok(()),
                    Ok(_) => Err(OUT_OF_RANGE.to_owned()),
                    Err(_) if text.bytes().all(|b| b.is_ascii_digit()) => {
                        Err("the unit is missing".to_owned())
                    }
                    Err(_) => Err("it is not a duration".to_owned()),
                }
            }
            Kind::Size { min, max } => match text.parse::<Size>() {
                Ok(size) if (min..=max).contains(&size) => Ok(()),
                Ok(_) => Err(OUT_OF_RANGE.to_owned()),
                Err(error) => Err(error.to_string()),
            },
            Kind::Address { any_port } => match text.parse::<Address>() {
                Ok(address) if address.port() == 0 && !any_port => {
                    Err("port 0 cannot be connected to".to_owned())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Kind::Choice(names) if names.contains(&text) => Ok(()),
            Kind::Choice(_) => Err("there is no such choice".to_owned()),
        }
    }
}

fn wrong_type(value: &DeValue<'_>) -> String {
    let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) {
        "an"
    } else {
        "a"
    };
    format!("it is {article} {}", value.type_str())
}

/// Adds every default that the file leaves out. The order of the steps in `load` makes sure
/// that the tables are of the right shape.
pub(crate) fn fill<'i>(root: &mut DeTable<'i>) -> Result<(), toml::de::Error> {
    for section in SECTIONS.into_iter().filter(|section| !section.repeated) {
        let entry = root
            .entry(Spanned::new(0..0, section.name.into()))
            .or_insert_with(|| Spanned::new(0..0, DeValue::Table(DeTable::new())));
        let DeValue::Table(table) = entry.get_mut() else {
            continue;
        };
        for field in section.fields {
            if let Presence::Default(default) = field.presence
                && !table.contains_key(&*field.key())
            {
                table.insert(
                    Spanned::new(0..0, field.key().into()),
                    DeValue::parse(default)?,
                );
            }
        }
    }
    Ok(())
}

/// `[name]` or `[[name]]`.
pub(crate) fn brackets(section: &Section) -> String {
    if section.repeated {
        format!("[[{}]]", section.name)
    } else {
        format!("[{}]", section.name)
    }
}

/// What a key is for, in one sentence.
fn about(field: &Field) -> String {
    let paragraph: Vec<&str> = field
        .doc
        .iter()
        .map(|line| line.trim())
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    let sentence = paragraph[..end].trim_end_matches('.');
    let mut rest = sentence.chars();
    let first = rest.next().map(|c| c.to_lowercase().to_string());
    format!(
        "`{}`: {}{}",
        field.key(),
        first.unwrap_or_default(),
        rest.as_str()
    )
}

/// A duration as people write it: `30days`, not `1month`.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds > 0 && seconds.is_multiple_of(86_400) {
        return format!("{}days", seconds / 86_400);
    }
    humantime_serde::re::humantime::format_duration(duration).to_string()
}

/// The candidate that differs from `word` by a slip or two.
fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a String> {
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be put in, taken out or replaced to make `a` from `b`; `_` counts
/// as `-`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().replace('_', "-").chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
