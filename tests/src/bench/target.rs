//! The targets, and how a figure of this machine is compared with peers that were measured on another.
//!
//! pglogical, pgactive and Spock are not part of a run. Their figures were taken once, together with those of
//! native replication; how native does now says what they would do now:
//!
//! ```text
//! reference = best peer then × native now / native then
//! ratio     = Everywrite now / reference        (for times: reference / Everywrite now)
//! ```
//!
//! Where the best peer is a native replication that is part of the run, its own figure is the reference.
//! Scenarios that came later have no *then*: their reference is the best native replication of the run.
//! For latency the ratio is Everywrite / reference, and less is better.

use serde::Serialize;

use super::scenario::Scenario;

/// How a ratio is formed and judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sense {
    /// A rate: at least so many times the reference's.
    Rate,
    /// A time: at least so many times faster than the reference.
    Speed,
    /// A time that may be at most so many times the reference's.
    AtMost,
}

/// One line at the end of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Name on the line.
    pub(crate) name: &'static str,
    pub(crate) scenario: Scenario,
    /// Name of the figure in the records.
    pub(crate) figure: &'static str,
    pub(crate) sense: Sense,
    pub(crate) factor: f64,
    peer: Peer,
}

/// What the figure is compared with.
#[derive(Debug, Clone, Copy)]
enum Peer {
    /// A system that was measured once.
    Then {
        /// Best figure of any peer, and whose it is.
        best: (f64, &'static str),
        /// Figures of native replication at that time.
        native15: f64,
        native18: f64,
    },
    /// The best of these systems in this run, by the same figure of this scenario.
    Now(Scenario, &'static [&'static str]),
}

/// WAL held on the origin while a peer is away, in MB.
pub(crate) const HELD_MB_MAX: f64 = 64.0;

/// Memory of a daemon, in bytes.
pub(crate) const MEMORY_BYTES_MAX: f64 = 256.0 * 1024.0 * 1024.0;

/// Conflicts that one site decides in a second when every update conflicts.
pub(crate) const CONFLICTS_PER_S_MIN: f64 = 20_000.0;

/// CPU of the origin's server with the most peers, in terms of that with one.
pub(crate) const SERVER_GROWTH_MAX: f64 = 1.25;

/// CPU that one more peer costs the origin's daemon, in terms of the server's with one peer.
pub(crate) const DAEMON_GROWTH_MAX: f64 = 0.05;

/// Under a full load the peer counts as keeping up when it has everything this long after the end.
pub(crate) const DRAIN_S_MAX: f64 = 1.0;

const RATE: &str = "rate_per_s";

/// In the order of the scenarios. Figures: two cores, PostgreSQL 15.20 and 18.4, medians.
pub(crate) const TARGETS: [Target; 12] = [
    target(
        "a",
        Scenario::A,
        RATE,
        Sense::Rate,
        2.5,
        (376_274.0, "native18"),
        347_426.0,
        376_274.0,
    ),
    target(
        "b",
        Scenario::B,
        "visible_s",
        Sense::Speed,
        2.0,
        (1.61, "native18"),
        4.67,
        1.61,
    ),
    target(
        "c1",
        Scenario::C1,
        RATE,
        Sense::Rate,
        3.0,
        (130_544.0, "pgactive15"),
        120_843.0,
        82_265.0,
    ),
    target(
        "c2",
        Scenario::C2,
        RATE,
        Sense::Rate,
        2.5,
        (36_662.0, "native15"),
        36_662.0,
        27_255.0,
    ),
    target(
        "du",
        Scenario::Du,
        RATE,
        Sense::Rate,
        1.5,
        (80_202.0, "native18"),
        78_292.0,
        80_202.0,
    ),
    target(
        "dd",
        Scenario::Dd,
        RATE,
        Sense::Rate,
        1.5,
        (118_614.0, "pglogical15"),
        85_551.0,
        107_986.0,
    ),
    target(
        "e50",
        Scenario::E,
        "p50_ms",
        Sense::AtMost,
        1.2,
        (0.95, "pgactive15"),
        1.00,
        1.01,
    ),
    target(
        "e99",
        Scenario::E,
        "p99_ms",
        Sense::AtMost,
        1.2,
        (2.84, "native15"),
        2.84,
        3.95,
    ),
    target(
        "w",
        Scenario::W,
        "tps",
        Sense::Rate,
        1.0,
        (4_262.0, "pglogical15"),
        4_227.0,
        4_055.0,
    ),
    Target {
        name: "x10",
        scenario: Scenario::X10,
        figure: RATE,
        sense: Sense::Rate,
        factor: 1.0,
        peer: Peer::Now(Scenario::Du, &["native15", "native18"]),
    },
    target(
        "h",
        Scenario::G,
        "catchup_s",
        Sense::Speed,
        2.5,
        (13.5, "native18"),
        15.8,
        13.5,
    ),
    Target {
        name: "w3",
        scenario: Scenario::W3,
        figure: "tps",
        sense: Sense::Rate,
        factor: 1.3,
        peer: Peer::Now(Scenario::W3, &["native18"]),
    },
];

#[expect(clippy::too_many_arguments, reason = "one row of a table")]
const fn target(
    name: &'static str,
    scenario: Scenario,
    figure: &'static str,
    sense: Sense,
    factor: f64,
    best: (f64, &'static str),
    native15: f64,
    native18: f64,
) -> Target {
    Target {
        name,
        scenario,
        figure,
        sense,
        factor,
        peer: Peer::Then {
            best,
            native15,
            native18,
        },
    }
}

impl Target {
    /// What the best peer would do now. `now` gives this run's median of a system in a scenario, by name.
    /// Also says how the reference was found.
    pub(crate) fn reference(
        &self,
        now: impl Fn(Scenario, &str) -> Option<f64>,
    ) -> Option<(f64, String)> {
        match self.peer {
            Peer::Then {
                best: (best, system),
                native15,
                native18,
            } => {
                if let Some(own) = now(self.scenario, system) {
                    return Some((own, format!("{system} in this run")));
                }
                [("native15", native15), ("native18", native18)]
                    .into_iter()
                    .find_map(|(native, then)| {
                        Some((
                            best * now(self.scenario, native)? / then,
                            format!("{system}, scaled by {native}"),
                        ))
                    })
            }
            Peer::Now(scenario, systems) => {
                let figures = systems
                    .iter()
                    .filter_map(|system| Some((now(scenario, system)?, *system)));
                let (best, system) = figures.reduce(|best, other| self.better(best, other))?;
                Some((best, format!("{system}'s {} in this run", scenario.name())))
            }
        }
    }

    /// What a run must contain for there to be a reference.
    pub(crate) fn missing(&self) -> String {
        match self.peer {
            Peer::Then { .. } => "no native replication in this run to compare with".into(),
            Peer::Now(scenario, systems) => format!(
                "no reference: this run has no {} of {}",
                scenario.name(),
                systems.join(" or ")
            ),
        }
    }

    fn better<'a>(&self, one: (f64, &'a str), other: (f64, &'a str)) -> (f64, &'a str) {
        let more = other.0 > one.0;
        if more == (self.sense == Sense::Rate) {
            other
        } else {
            one
        }
    }

    /// The ratio that the line shows.
    pub(crate) fn ratio(&self, everywrite: f64, reference: f64) -> f64 {
        match self.sense {
            Sense::Rate | Sense::AtMost => everywrite / reference,
            Sense::Speed => reference / everywrite,
        }
    }

    /// Whether a ratio is good enough.
    pub(crate) fn met(&self, ratio: f64) -> bool {
        match self.sense {
            Sense::Rate | Sense::Speed => ratio >= self.factor,
            Sense::AtMost => ratio <= self.factor,
        }
    }

    /// The figure that Everywrite must show, given the reference.
    pub(crate) fn needed(&self, reference: f64) -> f64 {
        match self.sense {
            Sense::Rate | Sense::AtMost => reference * self.factor,
            Sense::Speed => reference / self.factor,
        }
    }

    /// The target as the line words it.
    pub(crate) fn wording(&self) -> String {
        match self.sense {
            Sense::Rate | Sense::Speed => format!("{} x", self.factor),
            Sense::AtMost => format!("at most {} x", self.factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Target {
        *TARGETS.iter().find(|target| target.name == name).unwrap()
    }

    #[test]
    fn a_peer_that_is_not_in_the_run_is_scaled_by_native() {
        let c1 = named("c1");
        // Native does half of what it did then, so the best peer would, too.
        let (reference, _) = c1
            .reference(|_, system| (system == "native15").then_some(60_421.5))
            .unwrap();
        assert!((reference - 65_272.0).abs() < 1e-6);
        assert!((c1.ratio(195_816.0, reference) - 3.0).abs() < 1e-9);
        assert!(c1.met(3.0) && !c1.met(2.99));
        assert!((c1.needed(reference) - 195_816.0).abs() < 1e-6);
    }

    #[test]
    fn a_peer_that_is_in_the_run_is_its_own_reference() {
        let now = |_, system: &str| match system {
            "native15" => Some(5.0),
            "native18" => Some(2.0),
            _ => None,
        };
        let (reference, how) = named("b").reference(now).unwrap();
        assert_eq!((reference, how.as_str()), (2.0, "native18 in this run"));
        // Times: faster is a greater ratio.
        assert!((named("b").ratio(1.0, reference) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn latency_may_be_a_little_more() {
        let e = named("e99");
        assert!(e.met(1.2) && e.met(0.5) && !e.met(1.21));
    }

    #[test]
    fn without_native_there_is_no_reference() {
        assert!(named("a").reference(|_, _| None).is_none());
    }

    #[test]
    fn conflicts_are_compared_with_the_best_native_without_them() {
        let now = |scenario, system: &str| match (scenario, system) {
            (Scenario::Du, "native15") => Some(80_000.0),
            (Scenario::Du, "native18") => Some(90_000.0),
            _ => None,
        };
        let (reference, how) = named("x10").reference(now).unwrap();
        assert_eq!(
            (reference, how.as_str()),
            (90_000.0, "native18's du in this run")
        );
        assert!(named("w3").reference(now).is_none());
        assert_eq!(
            named("w3").missing(),
            "no reference: this run has no w3 of native18"
        );
    }
}
