//! What follows for the bench's scenarios: no system that applies with these statements and decodes B again can
//! be faster than this, if its own processes cost nothing.

use serde::Serialize;

use super::figure::{Figure, Stage};

/// The bound of one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    pub(crate) major: u32,
    pub(crate) load: &'static str,
    pub(crate) unit: &'static str,
    /// What one session does in a second.
    pub(crate) session_per_s: Option<f64>,
    /// What all processors do in a second, applying and decoding again.
    pub(crate) processors_per_s: Option<f64>,
    /// The lesser of the two.
    pub(crate) per_s: Option<f64>,
    /// b: seconds behind COMMIT.
    pub(crate) lag_s: Option<f64>,
}

/// Units a second that one session can apply: what passes while it works alone.
fn session(apply_wall_us: f64) -> f64 {
    1e6 / apply_wall_us
}

/// Units a second if every processor applies or decodes all the time.
fn machine(processors: usize, apply_cpu_us: f64, decode_cpu_us: f64) -> f64 {
    processors as f64 * 1e6 / (apply_cpu_us + decode_cpu_us)
}

/// One bound for each scenario of each version that was measured.
pub(crate) fn of(figures: &[Figure], processors: usize) -> Vec<Bound> {
    let counts = figures.iter().filter(|figure| figure.counts);
    counts
        .filter_map(|figure| {
            let bound = Bound {
                major: figure.major?,
                load: figure.load?,
                unit: figure.unit,
                session_per_s: None,
                processors_per_s: None,
                per_s: None,
                lag_s: None,
            };
            if figure.stage == Stage::Lag {
                let lag_s = Some(figure.wall_us / 1e6);
                return Some(Bound { lag_s, ..bound });
            }
            // The cheaper reader's: nobody can do without what it costs.
            let again = figures.iter().filter(|other| {
                other.stage == Stage::SecondDecode
                    && (other.major, other.load) == (figure.major, figure.load)
            });
            let again = again.map(|again| again.cpu_us).min_by(f64::total_cmp)?;
            let apply = figure.cpu_us + figure.other_us;
            let session = session(figure.wall_us);
            let machine = machine(processors, apply, again);
            Some(Bound {
                session_per_s: Some(session),
                processors_per_s: Some(machine),
                per_s: Some(session.min(machine)),
                ..bound
            })
        })
        .collect()
}

/// A line each.
pub(crate) fn table(bounds: &[Bound], processors: usize) -> String {
    let mut text = format!(
        "| PostgreSQL | scenario | one session, a second | {processors} processors, a second | floor |\n|---|---|---|---|---|\n"
    );
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.0}"));
    for bound in bounds {
        let floor = match (bound.per_s, bound.lag_s) {
            (Some(per_s), _) => format!("{per_s:.0} {}s/s", bound.unit),
            (None, Some(lag_s)) => format!("{lag_s:.2} s"),
            (None, None) => "–".to_owned(),
        };
        text += &format!(
            "| {} | {} | {} | {} | {floor} |\n",
            bound.major,
            bound.load,
            number(bound.session_per_s),
            number(bound.processors_per_s),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::figure::Spent;
    use super::*;

    fn figure(stage: Stage, load: &'static str, wall: f64, cpu: f64, counts: bool) -> Figure {
        let spent = Spent {
            wall,
            cpu,
            other: 0.0,
        };
        Figure {
            major: Some(15),
            load: Some(load),
            counts,
            ..spent.figure(stage, "", "row", 1e6)
        }
    }

    #[test]
    fn the_session_or_the_processors_are_what_bounds() {
        let figures = [
            figure(Stage::Apply, "a", 1.0, 1.0, true),
            figure(Stage::Apply, "a", 9.0, 9.0, false),
            figure(Stage::SecondDecode, "a", 1.0, 5.0, false),
            figure(Stage::SecondDecode, "a", 1.0, 3.0, false),
            figure(Stage::Apply, "du", 8.0, 7.0, true),
            figure(Stage::SecondDecode, "du", 1.0, 1.0, false),
        ];
        let bounds = of(&figures, 2);
        let found: Vec<_> = bounds.iter().map(|b| (b.load, b.per_s)).collect();
        // a: a session does 1 M/s, but both processors together 2 / (1 + 3) = 0.5 M/s.
        assert_eq!(found, [("a", Some(500_000.0)), ("du", Some(125_000.0))]);
        assert!(table(&bounds, 2).contains("| 15 | du | 125000 | 250000 | 125000 rows/s |"));
    }

    #[test]
    fn a_lag_is_a_bound_of_its_own() {
        let lag = Spent {
            wall: 1.5,
            ..Spent::default()
        };
        let lag = Figure {
            major: Some(18),
            load: Some("b"),
            counts: true,
            ..lag.figure(Stage::Lag, "", "transaction", 1.0)
        };
        let bounds = of(&[lag], 2);
        assert_eq!(bounds[0].lag_s, Some(1.5));
        assert!(table(&bounds, 2).contains("| 18 | b | – | – | 1.50 s |"));
    }
}
