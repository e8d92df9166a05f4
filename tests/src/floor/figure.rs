//! One line of the table.

use serde::Serialize;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// One session or more write groups at B.
    Apply,
    /// A walsender decodes what applications wrote.
    Decode,
    /// A walsender decodes what bears an origin.
    SecondDecode,
    /// From COMMIT returned to the last byte at the reader.
    Lag,
    /// A TLS connection of the link.
    Link,
    /// A byte there and one back.
    RoundTrip,
    /// Appends until they are durable.
    Disk,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Apply => "apply",
            Stage::Decode => "walsender",
            Stage::SecondDecode => "walsender at B",
            Stage::Lag => "walsender's lag",
            Stage::Link => "link",
            Stage::RoundTrip => "round trip",
            Stage::Disk => "disk",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) stage: Stage,
    /// PostgreSQL's major, where a server takes part.
    pub(crate) major: Option<u32>,
    /// The bench's scenario: a, b, c1, c2, du, dd.
    pub(crate) load: Option<&'static str>,
    pub(crate) what: String,
    /// `row`, `transaction`, `MB`, …
    pub(crate) unit: &'static str,
    pub(crate) units: f64,
    /// Microseconds that passed, a unit.
    pub(crate) wall_us: f64,
    /// Microseconds of processor time, a unit, of what is measured.
    pub(crate) cpu_us: f64,
    /// The same of the rest of the server: WAL writer, checkpointer.
    pub(crate) other_us: f64,
    /// The figure that counts where the bound of B is computed.
    pub(crate) counts: bool,
}

/// Seconds of a measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    /// That passed.
    pub(crate) wall: f64,
    /// Of a processor, by what is measured.
    pub(crate) cpu: f64,
    /// Of a processor, by the rest of its server.
    pub(crate) other: f64,
}

impl Spent {
    /// The figure of so many units.
    pub(crate) fn figure(
        self,
        stage: Stage,
        what: impl Into<String>,
        unit: &'static str,
        units: f64,
    ) -> Figure {
        let each = |seconds: f64| {
            if units > 0.0 {
                seconds * 1e6 / units
            } else {
                0.0
            }
        };
        Figure {
            stage,
            major: None,
            load: None,
            what: what.into(),
            unit,
            units,
            wall_us: each(self.wall),
            cpu_us: each(self.cpu),
            other_us: each(self.other),
            counts: false,
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.wall += more.wall;
        self.cpu += more.cpu;
        self.other += more.other;
    }
}

/// A line each.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| stage | PostgreSQL | load | how | µs a unit | CPU µs | rest of the server, CPU µs | a second | unit |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let number = |value: f64| match value {
            0.0 => "–".to_owned(),
            v if v >= 1000.0 => format!("{v:.0}"),
            v if v >= 100.0 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {:.0} | {} |\n",
            figure.stage.name(),
            figure
                .major
                .map_or_else(|| "–".to_owned(), |major| major.to_string()),
            figure.load.unwrap_or("–"),
            figure.what,
            number(figure.wall_us),
            number(figure.cpu_us),
            number(figure.other_us),
            1e6 / figure.wall_us,
            figure.unit,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_shared_by_the_units() {
        let mut spent = Spent {
            wall: 1.0,
            cpu: 0.5,
            other: 0.0,
        };
        spent += Spent {
            wall: 1.0,
            cpu: 0.5,
            other: 0.25,
        };
        let figure = spent.figure(Stage::Apply, "COPY", "row", 1e6);
        assert_eq!(
            (figure.wall_us, figure.cpu_us, figure.other_us),
            (2.0, 1.0, 0.25)
        );
        let none = spent.figure(Stage::Apply, "COPY", "row", 0.0);
        assert_eq!(none.wall_us, 0.0);
        assert!(table(&[figure]).contains("| 2.00 | 1.00 | 0.25 | 500000 | row |"));
    }
}
