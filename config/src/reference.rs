//! The reference page of the guide, written from the field tables.

use std::fmt::Write as _;

use crate::section::{Field, Presence, Section};
use crate::settings::SECTIONS;
use crate::shape::brackets;

/// `docs/guide/configuration.md`. A test compares it with the page in the repository;
/// `EVERYWRITE_WRITE_REFERENCE=1 cargo test -p everywrite-config` writes it anew.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in SECTIONS {
        write_section(&mut page, section);
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Generated from the structs in config/src. Do not edit:
     EVERYWRITE_WRITE_REFERENCE=1 cargo test -p everywrite-config -->

# Configuration

A node reads one TOML file, `everywrite.toml`. `everywrite init` writes it with comments,
`everywrite check --config everywrite.toml` checks it and the server it names. The daemon reads
it once, when it starts.

- An unknown section or key is an error, never ignored. Every error names file, line and column,
  shows the line, and says what is expected and what to do; all errors are shown together.
- Durations are text with a unit: `\"500ms\"`, `\"10s\"`, `\"2h\"`, `\"30days\"`.
- Sizes are text with a unit: `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024, `kB`, `MB`, `GB`, `TB`
  powers of 1000.
- Relative paths start at the folder of the file, wherever the daemon is started.
- A password may stand elsewhere: `password = \"${NAME}\"` takes an environment variable,
  `password-file` the first line of a file. No other key looks at the environment. Secrets
  are shown in no log and no error.

The smallest file:

```toml
[node]
id = 1
name = \"amsterdam\"
cluster = \"shop\"
data-directory = \"/var/lib/everywrite\"

[postgres]
database = \"shop\"

[[peer]]
id = 2
name = \"berlin\"
address = \"berlin.example:7400\"
```
";

fn write_section(page: &mut String, section: &Section) {
    let _ = write!(page, "\n## {}\n\n", brackets(section));
    page.push_str(&prose(section.doc));
    page.push_str("\n| key | value | default |\n|---|---|---|\n");
    for field in section.fields {
        let _ = writeln!(
            page,
            "| [`{key}`](#{anchor}) | {} | {} |",
            field.kind.expected().replace('|', "\\|"),
            presence(field),
            key = field.key(),
            anchor = anchor(section, field),
        );
    }
    for field in section.fields {
        let _ = write!(
            page,
            "\n<a id=\"{}\"></a>\n### `{}`\n\n",
            anchor(section, field),
            field.key()
        );
        page.push_str(&prose(field.doc));
    }
}

fn anchor(section: &Section, field: &Field) -> String {
    format!("{}-{}", section.name, field.key())
}

fn presence(field: &Field) -> String {
    match field.presence {
        Presence::Required => "required".to_owned(),
        Presence::Default(default) => format!("`{default}`"),
        Presence::Optional(without) => without.to_owned(),
    }
}

/// The lines of a doc comment as the compiler keeps them: each with one space at its front.
fn prose(doc: &[&str]) -> String {
    let mut text = String::new();
    for line in doc {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}
