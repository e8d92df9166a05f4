//! The accepted counts.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Context as _;

/// Where they stand.
pub(crate) const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");

/// What a count may be off: another processor's `memcpy` makes up to a few per cent.
const TOLERANCE: f64 = 0.10;

/// What comes before the compiler's version in the file.
const MADE_WITH: &str = "# made with ";

/// One path's count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Count {
    /// Its name.
    pub(crate) path: String,
    /// Instructions for one unit.
    pub(crate) each: f64,
    /// What that is.
    pub(crate) unit: String,
}

/// Counts and the compiler that they belong to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    /// `rustc --version`.
    pub(crate) compiler: String,
    /// One for each path.
    pub(crate) counts: Vec<Count>,
}

/// What came of a comparison.
pub(crate) struct Verdict {
    /// For people.
    pub(crate) lines: String,
    /// Something is dearer than it was, or not known.
    pub(crate) fails: bool,
}

/// The compiler's name and version.
pub(crate) fn compiler() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let said = said.context("ask rustc for its version")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

impl Table {
    /// The accepted ones; empty if there are none.
    pub(crate) fn read() -> anyhow::Result<Self> {
        match std::fs::read_to_string(FILE) {
            Ok(text) => Table::parse(&text),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Table::default()),
            Err(err) => Err(err).context(FILE),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut table = Table::default();
        for line in text.lines() {
            if let Some(compiler) = line.strip_prefix(MADE_WITH) {
                compiler.clone_into(&mut table.compiler);
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [path, each, unit] = fields[..] else {
                anyhow::bail!("{FILE}: not a path, a count and a unit: {line}");
            };
            table.counts.push(Count {
                path: path.to_owned(),
                each: each.parse().with_context(|| format!("{FILE}: {line}"))?,
                unit: unit.to_owned(),
            });
        }
        Ok(table)
    }

    /// Makes these the accepted ones.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        std::fs::write(FILE, self.text()).context(FILE)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# Instructions of the hot paths: see docs/performance.md. `make counts ACCEPT=1` writes this.\n\
             {MADE_WITH}{}\n",
            self.compiler
        );
        for Count { path, each, unit } in &self.counts {
            let _ = writeln!(text, "{path:24} {each:10.1} {unit}");
        }
        text
    }

    /// Compares what was counted `now` with these.
    pub(crate) fn against(&self, now: &Table) -> Verdict {
        let mut lines = format!(
            "{:24} {:>10} {:>10} {:>8}  instructions\n",
            "", "accepted", "now", ""
        );
        let (mut dearer, mut cheaper, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for Count { path, each, unit } in &now.counts {
            let Some(was) = self.counts.iter().find(|c| c.path == *path) else {
                let _ = writeln!(
                    lines,
                    "{path:24} {:>10} {each:10.1} {:>8}  a {unit}",
                    "-", ""
                );
                unknown.push(path.clone());
                continue;
            };
            let change = each / was.each - 1.0;
            let percent = change * 100.0;
            let _ = writeln!(
                lines,
                "{path:24} {:10.1} {each:10.1} {percent:+7.1}%  a {unit}",
                was.each
            );
            let told = format!(
                "{path}: {:.1} -> {each:.1} instructions a {unit} ({percent:+.1} %)",
                was.each
            );
            if change > TOLERANCE {
                dearer.push(told);
            } else if change < -TOLERANCE {
                cheaper.push(told);
            }
        }
        let gone = |c: &&Count| now.counts.iter().all(|n| n.path != c.path);
        unknown.extend(self.counts.iter().filter(gone).map(|c| c.path.clone()));

        let other_compiler = self.compiler != now.compiler;
        for (what, which) in [
            ("dearer than accepted, by more than 10 %", &dearer),
            (
                "cheaper than accepted, by more than 10 %: well done, now keep it",
                &cheaper,
            ),
            ("not in the table, or only there", &unknown),
        ] {
            if !which.is_empty() {
                let _ = writeln!(lines, "\n{what}:\n  {}", which.join("\n  "));
            }
        }
        if dearer.len() + cheaper.len() + unknown.len() > 0 {
            lines.push_str(
                "\nIf that is meant: make counts ACCEPT=1, and commit micro/counts.txt\n",
            );
        }
        if other_compiler {
            let _ = writeln!(
                lines,
                "\nThe table was made with {}, this is {}: what is dearer may be the compiler's doing, so \
                 nothing fails. make counts ACCEPT=1 makes it binding again.",
                self.compiler, now.compiler
            );
        }
        Verdict {
            lines,
            fails: !unknown.is_empty() || (!dearer.is_empty() && !other_compiler),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(compiler: &str, counts: &[(&str, f64)]) -> Table {
        let count = |(path, each): &(&str, f64)| Count {
            path: (*path).to_owned(),
            each: *each,
            unit: "row".to_owned(),
        };
        Table {
            compiler: compiler.to_owned(),
            counts: counts.iter().map(count).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = table("rustc 1", &[("a/b", 12.5), ("a/c", 100_000.0)]);
        assert_eq!(Table::parse(&written.text()).unwrap(), written);
    }

    #[test]
    fn only_what_is_dearer_or_unknown_fails() {
        let old = table("rustc 1", &[("a", 100.0)]);
        for (compiler, counts, fails, says) in [
            ("rustc 1", &[("a", 109.0)][..], false, "+9.0%"),
            ("rustc 1", &[("a", 111.0)], true, "a: 100.0 -> 111.0"),
            ("rustc 1", &[("a", 50.0)], false, "ACCEPT=1"),
            (
                "rustc 1",
                &[("a", 100.0), ("b", 1.0)],
                true,
                "not in the table",
            ),
            ("rustc 1", &[], true, "only there"),
            ("rustc 2", &[("a", 111.0)], false, "rustc 2"),
        ] {
            let verdict = old.against(&table(compiler, counts));
            assert_eq!(verdict.fails, fails, "{}", verdict.lines);
            assert!(verdict.lines.contains(says), "{}", verdict.lines);
        }
    }
}
