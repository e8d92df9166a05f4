//! Groups through replay's own writer, by one session or two.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use everywrite_conflict::NodeId;
use everywrite_node::replay::measured::{Applying, Inserts};

use super::backlog::{Backlog, Transaction, groups};
use super::clock;
use super::figure::Spent;
use super::walsender::target;
use crate::bench::server::Server;

/// Statements of so many changes are made ready before the clock starts.
const ROUND_CHANGES: usize = 200_000;

/// How a backlog is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// Changes of a group, at least; then the transaction's end.
    pub(crate) group: usize,
    pub(crate) inserts: Inserts,
    /// Sessions at the same time, which share the transactions evenly.
    pub(crate) sessions: usize,
}

impl Way {
    /// One session, groups of so many changes.
    pub(crate) fn groups_of(group: usize) -> Self {
        Way {
            group,
            inserts: Inserts::Usual,
            sessions: 1,
        }
    }
}

struct Session<'t> {
    applying: Applying,
    process: u32,
    groups: Vec<&'t [Transaction]>,
    /// Groups that are written.
    done: usize,
}

/// Writes `transactions` of `backlog` to `server`.
pub(crate) async fn run(
    server: &Server,
    backlog: &Backlog,
    transactions: &[Transaction],
    way: Way,
) -> Result<Spent> {
    let mut sessions = Vec::new();
    let share = transactions.len().div_ceil(way.sessions).max(1);
    for (number, share) in transactions.chunks(share).enumerate() {
        sessions.push(open(server, backlog, number, groups(share, way.group)).await?);
    }
    let mut spent = Spent::default();
    loop {
        let mut ready = false;
        for session in &mut sessions {
            ready |= session.prepare(way.inserts)?;
        }
        if !ready {
            break;
        }
        spent += round(server, &mut sessions).await?;
    }
    for session in sessions {
        let ended = format!(
            "select not exists (select from pg_stat_activity where pid = {})",
            session.process
        );
        drop(session);
        server.wait_until(&ended, Duration::from_secs(60)).await?;
    }
    Ok(spent)
}

async fn open<'t>(
    server: &Server,
    backlog: &Backlog,
    number: usize,
    groups: Vec<&'t [Transaction]>,
) -> Result<Session<'t>> {
    let origin = format!("floor_{number}");
    let connected = Applying::connect(&target(server), NodeId(1), &origin).await;
    let (mut applying, process) = connected.context("open a session that applies")?;
    for relation in &backlog.relations {
        let shaped = applying.shape(relation).await;
        shaped.context("lay a relation over the table")?;
    }
    Ok(Session {
        applying,
        process,
        groups,
        done: 0,
    })
}

impl Session<'_> {
    /// Makes the next groups ready; false if there are none.
    fn prepare(&mut self, inserts: Inserts) -> Result<bool> {
        let mut changes = 0;
        while changes < ROUND_CHANGES
            && let Some(group) = self.groups.get(self.done)
        {
            let transactions = group.iter().map(|t| (&t.header, t.changes.as_slice()));
            let folded = self.applying.group(transactions, inserts);
            folded.context("fold a group")?;
            changes += group.iter().map(|t| t.changes.len()).sum::<usize>();
            self.done += 1;
        }
        Ok(changes > 0)
    }
}

async fn round(server: &Server, sessions: &mut [Session<'_>]) -> Result<Spent> {
    let postmaster = server.postmaster()?;
    let processes: Vec<u32> = sessions.iter().map(|session| session.process).collect();
    let of_sessions = || {
        processes
            .iter()
            .copied()
            .map(clock::of_process)
            .sum::<f64>()
    };
    let (server_before, before) = (clock::of_server(postmaster), of_sessions());
    let begun = Instant::now();
    match sessions {
        [one] => one.applying.run().await.context("apply groups")?,
        [one, two] => {
            let both = tokio::join!(one.applying.run(), two.applying.run());
            both.0.context("apply groups")?;
            both.1.context("apply groups")?;
        }
        _ => anyhow::bail!("one session or two"),
    }
    let wall = begun.elapsed().as_secs_f64();
    let cpu = of_sessions() - before;
    Ok(Spent {
        wall,
        cpu,
        other: (clock::of_server(postmaster) - server_before - cpu).max(0.0),
    })
}
