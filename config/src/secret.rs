//! Secrets that stand elsewhere: in the environment, or in a file of their own.

use std::env::VarError;
use std::fs;

use secrecy::{ExposeSecret, SecretString};
use toml::de::DeTable;

use crate::diagnostic::{Diagnostic, Page};
use crate::shape::place;
use crate::{Postgres, Settings};

/// Replaces `"${NAME}"` by the variable's value and reads `password-file`.
pub(crate) fn expand(
    page: &Page<'_>,
    root: &DeTable<'_>,
    settings: &mut Settings,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let postgres = &mut settings.postgres;
    if let Some(name) = postgres.password.as_ref().and_then(variable) {
        let at = place(root, &Postgres::SECTION, 0, "password");
        match std::env::var(&name) {
            Ok(value) if !value.is_empty() => postgres.password = Some(value.into()),
            Ok(_) => found.push(
                page.at(at, format!("the environment variable {name} is empty"))
                    .help("set it for the daemon, or use `password-file`"),
            ),
            Err(VarError::NotPresent) => found.push(
                page.at(at, format!("the environment variable {name} is not set"))
                    .help(
                        "set it for the daemon (systemd: EnvironmentFile=), or use `password-file`",
                    ),
            ),
            Err(VarError::NotUnicode(_)) => found.push(
                page.at(at, format!("the environment variable {name} is not UTF-8"))
                    .help("use `password-file`, and a password of UTF-8 text"),
            ),
        }
    }
    if let Some(path) = &postgres.password_file {
        let at = place(root, &Postgres::SECTION, 0, "password-file");
        match fs::read_to_string(path) {
            Ok(text) => match text.lines().next() {
                Some(line) if !line.is_empty() => postgres.password = Some(line.into()),
                _ => found.push(
                    page.at(at, format!("{} has no first line", path.display()))
                        .help("write the role's password, and nothing else, into the file"),
                ),
            },
            Err(error) => found.push(
                page.at(at, format!("cannot read {}: {error}", path.display()))
                    .help("the file must be readable by the user the daemon runs as; relative paths start at the folder of the settings"),
            ),
        }
    }
    found
}

/// The name inside `${…}` when the value is exactly that. Anything else is a literal password:
/// a half-expanded secret would be an error that nobody can see.
fn variable(value: &SecretString) -> Option<String> {
    let name = value
        .expose_secret()
        .strip_prefix("${")?
        .strip_suffix('}')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
}
