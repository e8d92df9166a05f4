//! One measurement of one system, as it stands in `results.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cpu::Cpu;

/// A run with more foreign load than this (in processors) is left out when enough quiet ones remain.
pub(crate) const NOISY: f64 = 0.25;

/// What one run of one scenario on one system gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Name of the system.
    pub(crate) system: String,
    /// Version of its server.
    pub(crate) version: String,
    /// `a`, `b`, … with `/paused` when B's journal was filled beforehand.
    pub(crate) scenario: String,
    /// From 1.
    pub(crate) run: u32,
    /// When it began, local time.
    pub(crate) at: String,
    /// Whether the figures count; if not, `error` says why.
    pub(crate) ok: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// What `units` counts: rows or transactions.
    pub(crate) unit: String,
    /// How many.
    pub(crate) units: f64,
    /// By name; the name ends in the unit.
    pub(crate) figures: BTreeMap<String, f64>,
    /// While the load ran, where that is a phase of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load_cpu: Option<Cpu>,
    /// In the timed phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<Cpu>,
    /// Memory peaks of A's and B's daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) daemon_peak_bytes: Option<[u64; 2]>,
}

impl Record {
    /// One figure.
    pub(crate) fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// One with these figures, for tests of what is made of records.
    #[cfg(test)]
    pub(crate) fn of(system: &str, scenario: &str, figures: &[(&str, f64)]) -> Record {
        let mut record = Record {
            system: system.into(),
            scenario: scenario.into(),
            ok: true,
            units: 1e6,
            unit: "row".into(),
            ..Record::default()
        };
        for (name, value) in figures {
            record.set(name, *value);
        }
        record
    }

    /// The CPU bill of replication: a system that decodes while the load runs has that on its bill.
    pub(crate) fn total_cpu(&self) -> Option<Cpu> {
        let cpu = self.cpu.as_ref()?;
        Some(
            self.load_cpu
                .as_ref()
                .map_or_else(|| cpu.clone(), |load| cpu.plus(load)),
        )
    }

    /// Whether something else used the machine in the timed phase.
    pub(crate) fn noisy(&self) -> bool {
        self.cpu
            .as_ref()
            .is_some_and(|cpu| cpu.foreign_processors() > NOISY)
    }
}
