//! Which process belongs to which system, shared with the meter while daemons come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a process is to its system; the letter is the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// A postmaster; its children belong to it.
    Server(char),
    /// A replication daemon.
    Daemon(char),
}

/// Process ids by system and role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<BTreeMap<(String, Role), u32>>>);

impl Registry {
    pub(crate) fn set(&self, system: &str, role: Role, pid: u32) {
        self.0.lock().insert((system.to_owned(), role), pid);
    }

    pub(crate) fn remove(&self, system: &str, role: Role) {
        self.0.lock().remove(&(system.to_owned(), role));
    }

    /// Forgets a system that has been stopped.
    pub(crate) fn forget(&self, system: &str) {
        self.0.lock().retain(|(name, _), _| name != system);
    }

    /// The daemons of one system that run now: site and process id.
    pub(crate) fn daemons(&self, system: &str) -> Vec<(char, u32)> {
        let entries = self.0.lock();
        entries
            .iter()
            .filter(|((name, _), _)| name == system)
            .filter_map(|((_, role), &pid)| match role {
                Role::Daemon(site) => Some((*site, pid)),
                Role::Server(_) => None,
            })
            .collect()
    }

    /// The processes of all other systems, which should be idle.
    pub(crate) fn others(&self, system: &str) -> Vec<u32> {
        self.0
            .lock()
            .iter()
            .filter(|((name, _), _)| name != system)
            .map(|(_, &pid)| pid)
            .collect()
    }
}
