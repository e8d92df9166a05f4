//! The scenarios: names, sizes, and which code measures them.

use anyhow::{Result, bail};

use super::load::Load;
use super::mesh::{Mesh, Sites};
use super::options::Kind;
use super::pair::{Hold, Pair};
use super::record::Record;
use super::{away, catch_up, conflicts, live, peers, three};

/// One scenario. `d` is two: updates and deletes; `x` is two, by the share of conflicts; `n` is four, by the
/// number of peers.
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
    X10,
    X100,
    G,
    W3,
    N1,
    N2,
    N4,
    N8,
}

impl Scenario {
    /// All, in the order in which they run: `du` uses rows of `a`, `dd` rows of `b`, `g` fills the disk.
    pub(crate) const ALL: [Self; 16] = [
        Self::A,
        Self::B,
        Self::C1,
        Self::C2,
        Self::Du,
        Self::Dd,
        Self::E,
        Self::W,
        Self::X10,
        Self::X100,
        Self::G,
        Self::W3,
        Self::N1,
        Self::N2,
        Self::N4,
        Self::N8,
    ];

    /// The parts of `n`.
    pub(crate) const PEERS: [Self; 4] = [Self::N1, Self::N2, Self::N4, Self::N8];

    /// Reads a list such as `a,c1,d`; the result is in the order of [`Scenario::ALL`].
    pub(crate) fn parse_list(list: &str) -> Result<Vec<Self>> {
        let mut chosen = Vec::new();
        for word in list.split([',', ' ']).filter(|word| !word.is_empty()) {
            match word {
                "all" => chosen.extend(Self::ALL),
                "d" => chosen.extend([Self::Du, Self::Dd]),
                "x" => chosen.extend([Self::X10, Self::X100]),
                "n" => chosen.extend(Self::PEERS),
                _ => match Self::ALL
                    .into_iter()
                    .find(|scenario| scenario.name() == word)
                {
                    Some(scenario) => chosen.push(scenario),
                    None => bail!(
                        "unknown scenario {word}: expected a, b, c1, c2, d, du, dd, e, w, x, x10, x100, g, w3, n, n1, n2, n4, n8 or all"
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
            Self::X10 => "x10",
            Self::X100 => "x100",
            Self::G => "g",
            Self::W3 => "w3",
            Self::N1 => "n1",
            Self::N2 => "n2",
            Self::N4 => "n4",
            Self::N8 => "n8",
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
            Self::X10 => "catch-up, 200,000 UPDATEs, 10 % of the rows updated on B meanwhile",
            Self::X100 => "catch-up, 200,000 UPDATEs, all of the rows updated on B meanwhile",
            Self::G => "2 GB of WAL written while the peer is away",
            Self::W3 => "TPC-B at three sites at full speed, 2 clients each, on one machine",
            Self::N1 => "CPU at the origin, 500 transactions/s, 1 peer",
            Self::N2 => "CPU at the origin, 500 transactions/s, 2 peers",
            Self::N4 => "CPU at the origin, 500 transactions/s, 4 peers",
            Self::N8 => "CPU at the origin, 500 transactions/s, 8 peers",
        }
    }

    /// The figures worth a line: name in the record, unit for people, and whether more is better.
    pub(crate) fn figures(self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::A | Self::Du | Self::Dd => &[("rate_per_s", "rows/s", true)],
            Self::C1 | Self::C2 => &[("rate_per_s", "transactions/s", true)],
            Self::B => &[("visible_s", "s", false)],
            Self::E => &[("p50_ms", "ms, p50", false), ("p99_ms", "ms, p99", false)],
            Self::W | Self::W3 => &[("tps", "transactions/s", true)],
            Self::X10 => &[("rate_per_s", "rows/s", true)],
            Self::X100 => &[("conflicts_per_s", "conflicts/s", true)],
            Self::N1 | Self::N2 | Self::N4 | Self::N8 => &[
                ("server_us", "µs/tx, server", false),
                ("daemon_us", "µs/tx, daemon", false),
            ],
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

    /// The sites it needs beside or instead of a pair that stays up: they exist only while it is measured.
    pub(crate) fn sites(self) -> Option<Sites> {
        match self {
            Self::W3 => Some(Sites::Written(3)),
            Self::N1 => Some(Sites::Peers(1)),
            Self::N2 => Some(Sites::Peers(2)),
            Self::N4 => Some(Sites::Peers(4)),
            Self::N8 => Some(Sites::Peers(8)),
            _ => None,
        }
    }

    /// Whether a system takes part.
    pub(crate) fn concerns(self, kind: Kind, major: u32, hold: Hold) -> bool {
        kind == Kind::Everywrite
            || match self {
                _ if hold == Hold::Paused => false,
                // A conflict stops native replication, or leaves the sites different.
                Self::X10 | Self::X100 => false,
                // Before 16 there is no `origin = none`, and changes go round in circles.
                Self::W3 => major >= 16,
                // One walsender a subscription in every version: one version says it all.
                Self::N1 | Self::N2 | Self::N4 | Self::N8 => major == 15,
                _ => true,
            }
    }

    /// Measures it once on one pair.
    pub(crate) async fn measure(self, pair: &mut Pair, hold: Hold, scale: f64) -> Result<Record> {
        let size = |full: f64| ((full * scale) as i64).max(100) / 10 * 10;
        let load = match self {
            Self::B => return live::big_transaction(pair, size(1e6)).await,
            Self::E => return live::latency(pair, 500, (30.0 * scale).max(2.0) as u64).await,
            Self::W => return live::writer(pair, (12.0 * scale).max(2.0) as u64).await,
            Self::X10 => return conflicts::measure(pair, size(2e5), 10, size(1e6)).await,
            Self::X100 => return conflicts::measure(pair, size(2e5), 1, size(1e6)).await,
            Self::G => return away::peer_away(pair, (2e9 * scale) as i64).await,
            Self::A => Load::Insert(pair.new_range(size(1e6))),
            Self::C1 => Load::SingleInserts(size(5e5)),
            Self::C2 => Load::TpcB(size(1e5)),
            Self::Du => Load::Update(size(2e5), pair.range_to_update(size(1e6)).await?),
            Self::Dd => Load::Delete(size(2e5), pair.range_to_delete(size(1e6)).await?),
            Self::W3 | Self::N1 | Self::N2 | Self::N4 | Self::N8 => {
                bail!("{} is not measured on a pair", self.name())
            }
        };
        catch_up::measure(pair, load, hold).await
    }

    /// Measures it once on sites of its own.
    pub(crate) async fn measure_sites(self, mesh: &mut Mesh, scale: f64) -> Result<Record> {
        let seconds = |full: f64| (full * scale).max(2.0) as u64;
        match self.sites() {
            Some(Sites::Written(_)) => three::measure(mesh, seconds(12.0)).await,
            Some(Sites::Peers(_)) => peers::measure(mesh, 500, seconds(10.0)).await,
            None => bail!("{} is measured on a pair", self.name()),
        }
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

    #[test]
    fn x_is_two_and_n_is_four() {
        assert_eq!(
            Scenario::parse_list("n,x").unwrap(),
            [
                Scenario::X10,
                Scenario::X100,
                Scenario::N1,
                Scenario::N2,
                Scenario::N4,
                Scenario::N8
            ]
        );
        assert_eq!(Scenario::parse_list("n8").unwrap(), [Scenario::N8]);
    }

    #[test]
    fn native_takes_part_where_it_can() {
        let native = |scenario: Scenario, major| scenario.concerns(Kind::Native, major, Hold::Cut);
        assert!(native(Scenario::A, 15) && native(Scenario::W3, 18) && native(Scenario::N8, 15));
        assert!(!native(Scenario::W3, 15) && !native(Scenario::X10, 18));
        assert!(!Scenario::A.concerns(Kind::Native, 15, Hold::Paused));
        let all = |scenario: Scenario| scenario.concerns(Kind::Everywrite, 18, Hold::Cut);
        assert!(Scenario::ALL.into_iter().all(all));
    }
}
