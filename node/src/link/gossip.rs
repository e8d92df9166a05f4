//! Passing beats on: every node tells every peer all the newest beats it knows, so they travel
//! wherever the data can.
//!
//! The own beat carries acknowledgements and goes out at once when it changes, then at most every
//! 10 ms. Others' beats follow at most every 100 ms. Once a second all go, changed or not. A beat
//! that the peer has already, because it sent it or was sent it, is not repeated before that.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::message::{BeatList, Body, WireBeat};
use super::node::Node;
use super::options::Timing;
use super::session::Session;
use crate::settle::Beat;

/// The sequence of each node's newest beat that the peer has.
#[derive(Default)]
pub(super) struct PeerHas(Mutex<HashMap<NodeId, u64>>);

impl PeerHas {
    /// The peer has this one, by sending it or being sent it.
    pub(super) fn note(&self, beat: &Beat) {
        let mut has = self.0.lock();
        let known = has.entry(beat.node).or_default();
        *known = beat.sequence.max(*known);
    }

    fn lacks(&self, beat: &Beat) -> bool {
        self.0
            .lock()
            .get(&beat.node)
            .is_none_or(|&known| known < beat.sequence)
    }
}

/// What the peer does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    own: bool,
    others: bool,
}

/// How long after the last sending the next one is due.
fn due_after(news: News, timing: &Timing) -> Duration {
    match news {
        News { own: true, .. } => timing.own_beat,
        News { others: true, .. } => timing.beats,
        News { .. } => timing.beats_idle,
    }
}

/// Sends beats until it is stopped.
pub(super) async fn run(node: Arc<Node>, session: Arc<Session>) -> Infallible {
    let timing = &node.options.timing;
    let mut changed = node.beats.subscribe();
    // The first sending tells all.
    let mut last: Option<Instant> = None;
    loop {
        changed.mark_unchanged();
        let all = node.beats.all();
        let mut news = News {
            own: false,
            others: false,
        };
        for beat in all.iter().filter(|beat| session.peer_has.lacks(beat)) {
            if beat.node == node.options.me {
                news.own = true;
            } else {
                news.others = true;
            }
        }
        let now = Instant::now();
        let due = last.map_or(now, |last| last + due_after(news, timing));
        if due > now {
            if news.own {
                // Nothing can be more urgent.
                tokio::time::sleep_until(due).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                // `Beats` outlives the links; an error would mean the process ends.
                _ = changed.changed() => {}
            }
            continue;
        }
        let everything = !news.own && !news.others || last.is_none();
        let beats: Vec<WireBeat> = all
            .iter()
            .filter(|beat| everything || session.peer_has.lacks(beat))
            .map(WireBeat::from)
            .collect();
        all.iter().for_each(|beat| session.peer_has.note(beat));
        if !beats.is_empty() {
            session.post(Body::Beats(BeatList { beats }));
        }
        last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_beat_is_the_quickest() {
        let timing = Timing::default();
        let due = |own, others| due_after(News { own, others }, &timing);
        assert_eq!(due(true, true), timing.own_beat);
        assert_eq!(due(false, true), timing.beats);
        assert_eq!(due(false, false), timing.beats_idle);
    }
}
