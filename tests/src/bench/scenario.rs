//! The scenarios: names, sizes, and which code measures them.

use anyhow::{Result, bail};

use super::load::Load;
use super::pair::{Hold, Pair};
use super::record::Record;
use super::{away, catch_up, live};

/// One scenario. `d` is two: updates and deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    A,
    B,
    C1,
    C2,
    Du,
    Dd,
    E,
    W,
    G,
}

impl Scenario {
    /// All, in the order in which they run: `du` uses rows of `a`, `dd` rows of `b`, `g` fills the disk.
    pub(crate) const ALL: [Self; 9] = [
        Self::A,
        Self::B,
        Self::C1,
        Self::C2,
        Self::Du,
        Self::Dd,
        Self::E,
        Self::W,
        Self::G,
    ];

    /// Reads a list such as `a,c1,d`; the result is in the order of [`Scenario::ALL`].
    pub(crate) fn parse_list(list: &str) -> Result<Vec<Self>> {
        let mut chosen = Vec::new();
        for word in list.split([',', ' ']).filter(|word| !word.is_empty()) {
            match word {
                "all" => chosen.extend(Self::ALL),
                "d" => chosen.extend([Self::Du, Self::Dd]),
                _ => match Self::ALL
                    .into_iter()
                    .find(|scenario| scenario.name() == word)
                {
                    Some(scenario) => chosen.push(scenario),
                    None => bail!(
                        "unknown scenario {word}: expected a, b, c1, c2, d, du, dd, e, w, g or all"
                    ),
                },
            }
        }
        if chosen.is_empty() {
            bail!("no scenario chosen");
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C1 => "c1",
            Self::C2 => "c2",
            Self::Du => "du",
            Self::Dd => "dd",
            Self::E => "e",
            Self::W => "w",
            Self::G => "g",
        }
    }

    /// What it measures, for headings.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::A => "catch-up, 1,000,000 rows in transactions of 1,000",
            Self::B => "one transaction of 1,000,000 rows, COMMIT to visible at the peer",
            Self::C1 => "catch-up, 500,000 single-row INSERT transactions",
            Self::C2 => "catch-up, 100,000 TPC-B transactions",
            Self::Du => "catch-up, 200,000 single-row UPDATEs, 10 per transaction",
            Self::Dd => "catch-up, 200,000 single-row DELETEs, 10 per transaction",
            Self::E => "latency at 500 transactions/s for 30 s, commit to visible",
            Self::W => "TPC-B on A at full speed, 4 clients, the peer on the same machine",
            Self::G => "2 GB of WAL written while the peer is away",
        }
    }

    /// The figures worth a line: name in the record, unit for people, and whether more is better.
    pub(crate) fn figures(self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::A | Self::Du | Self::Dd => &[("rate_per_s", "rows/s", true)],
            Self::C1 | Self::C2 => &[("rate_per_s", "transactions/s", true)],
            Self::B => &[("visible_s", "s", false)],
            Self::E => &[("p50_ms", "ms, p50", false), ("p99_ms", "ms, p99", false)],
            Self::W => &[("tps", "transactions/s", true)],
            Self::G => &[
                ("held_mb", "MB of WAL held", false),
                ("catchup_s", "s to catch up", false),
            ],
        }
    }

    /// Whether it is a backlog that B catches up with.
    pub(crate) fn catches_up(self) -> bool {
        matches!(self, Self::A | Self::C1 | Self::C2 | Self::Du | Self::Dd)
    }

    /// Measures it once on one pair.
    pub(crate) async fn measure(self, pair: &mut Pair, hold: Hold, scale: f64) -> Result<Record> {
        let size = |full: f64| ((full * scale) as i64).max(100) / 10 * 10;
        let load = match self {
            Self::B => return live::big_transaction(pair, size(1e6)).await,
            Self::E => return live::latency(pair, 500, (30.0 * scale).max(2.0) as u64).await,
            Self::W => return live::writer(pair, (12.0 * scale).max(2.0) as u64).await,
            Self::G => return away::peer_away(pair, (2e9 * scale) as i64).await,
            Self::A => Load::Insert(pair.new_range(size(1e6))),
            Self::C1 => Load::SingleInserts(size(5e5)),
            Self::C2 => Load::TpcB(size(1e5)),
            Self::Du => Load::Update(size(2e5), pair.range_to_update(size(1e6)).await?),
            Self::Dd => Load::Delete(size(2e5), pair.range_to_delete(size(1e6)).await?),
        };
        catch_up::measure(pair, load, hold).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ordered_and_d_is_two() {
        assert_eq!(
            Scenario::parse_list("d,a").unwrap(),
            [Scenario::A, Scenario::Du, Scenario::Dd]
        );
        assert_eq!(Scenario::parse_list("all").unwrap(), Scenario::ALL);
        assert!(Scenario::parse_list("z").is_err());
        assert!(Scenario::parse_list("").is_err());
    }
}
