//! From a file to [`Settings`]: the order of the steps.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use crate::diagnostic::{Diagnostic, Page};
use crate::{Error, Settings, secret, shape, validate};

impl Settings {
    /// Reads and checks the file, and takes in the secrets it refers to.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Invalid`]; both print completely, remedy included.
    pub fn load(path: &Path) -> Result<Settings, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let (mut settings, root, page) = checked(&text, path)?;
        refuse(secret::expand(&page, root.get_ref(), &mut settings))?;
        Ok(settings)
    }

    /// Checks the text as [`Settings::load`] does, without taking in secrets: reads no file and no
    /// environment. `path` is for messages and for relative paths.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str, path: &Path) -> Result<Settings, Error> {
        checked(text, path).map(|(settings, _, _)| settings)
    }
}

/// Everything but the secrets.
fn checked<'a>(
    text: &'a str,
    path: &'a Path,
) -> Result<(Settings, Spanned<DeTable<'a>>, Page<'a>), Error> {
    let root = syntax(text, path)?;
    let page = Page::parsed(path, text, shape::secrets(root.get_ref()));
    refuse(shape::check(&page, root.get_ref()))?;

    // The shape has been checked, so what serde or the defaults still say is a slip of this
    // crate; it is shown all the same, with its place.
    let unexpected = |error: toml::de::Error| {
        let span = error.span().unwrap_or(0..0);
        let diagnostic = page.at(span, "this setting cannot be used");
        Error::Invalid(vec![
            diagnostic.help("compare it with docs/guide/configuration.md"),
        ])
    };
    let mut filled = root.clone();
    shape::fill(filled.get_mut()).map_err(unexpected)?;
    let mut settings =
        Settings::deserialize(toml::Deserializer::from(filled)).map_err(unexpected)?;
    refuse(validate::check(&page, root.get_ref(), &settings))?;

    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    validate::resolve(&mut settings, folder);
    Ok((settings, root, page))
}

/// Parses; several slips of syntax are shown together.
fn syntax<'a>(text: &'a str, path: &'a Path) -> Result<Spanned<DeTable<'a>>, Error> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let page = Page::unparsed(path, text);
    let mut complaints: Vec<Diagnostic> = errors
        .iter()
        .map(|error| {
            let message = error.message().lines().next().unwrap_or("not TOML");
            let (message, help) = match message {
                "duplicate key" => ("the key is there twice", "keep one of the lines"),
                _ if message.starts_with("invalid boolean") => {
                    ("this is no value", "text stands in quotes: key = \"text\"")
                }
                other => (
                    other,
                    "text stands in quotes, one `key = value` on a line, sections in brackets",
                ),
            };
            page.at(error.span().unwrap_or(0..0), format!("not TOML: {message}"))
                .help(help)
        })
        .collect();
    complaints.sort_by_key(|diagnostic| (diagnostic.line(), diagnostic.column()));
    refuse(complaints)?;
    Ok(root)
}

fn refuse(found: Vec<Diagnostic>) -> Result<(), Error> {
    if found.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid(found))
    }
}
