use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn dialled(node: NodeId) -> Via {
    Via {
        node,
        dialled: true,
    }
}

fn inbound(node: NodeId) -> Via {
    Via {
        node,
        dialled: false,
    }
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn holds(entries: &[(NodeId, u64)]) -> Vector {
    entries.iter().map(|&(n, l)| (n, Lsn(l))).collect()
}

fn subscribe(session: SessionId, origin: NodeId) -> Command {
    Command::Subscribe { session, origin }
}

fn unsubscribe(session: SessionId, origin: NodeId) -> Command {
    Command::Unsubscribe { session, origin }
}

#[test]
fn the_origin_feeds_itself_and_a_third_node_stands_in() {
    let mut router = Router::new([B, C]);
    router.connected(1, dialled(B));
    router.connected(2, dialled(C));
    assert_eq!(router.route(at(0)), [subscribe(1, B), subscribe(2, C)]);
    assert_eq!(router.route(at(1)), []);

    // The link to C breaks; B has no more of C than we have.
    router.holds(holds(&[(C, 100)]));
    router.beat(B, holds(&[(C, 100)]));
    router.disconnected(2);
    assert_eq!(router.route(at(2)), []);
    router.beat(B, holds(&[(C, 120)]));
    assert_eq!(router.route(at(3)), [subscribe(1, C)]);
    // Caught up with the relay: it stays.
    router.holds(holds(&[(C, 120)]));
    assert_eq!(router.route(at(9000)), []);

    // C is back, first by its own dialling, then by ours.
    router.connected(3, inbound(C));
    assert_eq!(router.route(at(9001)), [unsubscribe(1, C), subscribe(3, C)]);
    router.connected(4, dialled(C));
    assert_eq!(router.route(at(9002)), [unsubscribe(3, C), subscribe(4, C)]);
    router.connected(5, inbound(C));
    assert_eq!(router.route(at(9003)), []);
}

#[test]
fn a_relay_that_has_nothing_more_is_left_for_one_that_has() {
    let d = NodeId(4);
    let mut router = Router::new([B, C, d]);
    router.connected(1, dialled(B));
    router.connected(2, dialled(C));
    router.beat(B, holds(&[(d, 50)]));
    assert_eq!(
        router.route(at(0)),
        [subscribe(1, B), subscribe(2, C), subscribe(1, d)]
    );
    router.holds(holds(&[(d, 50)]));
    router.beat(C, holds(&[(d, 70)]));
    assert_eq!(router.route(at(10)), [], "not at once: beats are late");
    router.beat(B, holds(&[(d, 60)]));
    assert_eq!(router.route(at(900)), []);
    router.holds(holds(&[(d, 60)]));
    assert_eq!(router.route(at(1100)), [], "the wait starts over");
    assert_eq!(router.route(at(2100)), [unsubscribe(1, d), subscribe(2, d)]);
}

#[test]
fn a_refusal_is_remembered_for_a_while() {
    let mut router = Router::new([B, C]);
    router.connected(1, dialled(B));
    router.connected(2, dialled(C));
    router.beat(C, holds(&[(B, 10)]));
    router.route(at(0));
    router.refused(1, B, at(500));
    assert_eq!(router.route(at(1)), [subscribe(2, B)]);
    assert_eq!(router.route(at(500)), [unsubscribe(2, B), subscribe(1, B)]);
    // A refusal that crossed an unsubscription changes nothing.
    router.refused(2, B, at(900));
    assert_eq!(router.route(at(501)), []);
}

#[derive(Clone, Debug)]
enum Step {
    Connect(u16, bool),
    Disconnect(usize),
    Refuse(usize, u16, u64),
    Beat(u16, u16, u64),
    Ours(u16, u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 2u16..6;
    prop_oneof![
        (node.clone(), any::<bool>()).prop_map(|(n, d)| Step::Connect(n, d)),
        (0usize..8).prop_map(Step::Disconnect),
        (0usize..8, node.clone(), 0u64..3000).prop_map(|(s, o, t)| Step::Refuse(s, o, t)),
        (node.clone(), node.clone(), 0u64..50).prop_map(|(n, o, l)| Step::Beat(n, o, l)),
        (node, 0u64..50).prop_map(|(o, l)| Step::Ours(o, l)),
        (0u64..3000).prop_map(Step::Wait),
    ]
}

/// What the shell and the peers know, kept beside the router.
#[derive(Default)]
struct World {
    now: u64,
    next: SessionId,
    up: BTreeMap<SessionId, Via>,
    refused: BTreeMap<(SessionId, NodeId), u64>,
    feeds: BTreeMap<NodeId, SessionId>,
    theirs: BTreeMap<NodeId, Vector>,
    ours: Vector,
}

impl World {
    fn apply(&mut self, commands: &[Command]) {
        for command in commands {
            match *command {
                Command::Unsubscribe { session, origin } => {
                    assert_eq!(self.feeds.remove(&origin), Some(session));
                    assert!(self.up.contains_key(&session));
                }
                Command::Subscribe { session, origin } => {
                    assert_eq!(self.feeds.insert(origin, session), None, "two feeds");
                    assert!(self.up.contains_key(&session), "on a dead connection");
                    assert!(self.allowed(session, origin), "refused there");
                }
            }
        }
    }

    fn allowed(&self, session: SessionId, origin: NodeId) -> bool {
        self.refused
            .get(&(session, origin))
            .is_none_or(|&until| self.now >= until)
    }

    fn holds(&self, node: NodeId, origin: NodeId) -> Lsn {
        self.theirs.get(&node).map_or(Lsn::ZERO, |v| v.get(origin))
    }

    /// Everything is fed as well as it can be.
    fn check_settled(&self) {
        for origin in (2..6).map(NodeId) {
            let usable: Vec<_> = self
                .up
                .iter()
                .filter(|&(&s, _)| self.allowed(s, origin))
                .collect();
            let feed = self.feeds.get(&origin).and_then(|s| self.up.get(s));
            if usable.iter().any(|(_, via)| via.node == origin) {
                assert_eq!(feed.map(|via| via.node), Some(origin), "direct is possible");
            } else if usable
                .iter()
                .any(|(_, via)| self.holds(via.node, origin) > self.ours.get(origin))
            {
                let feed = feed.expect("somebody has more");
                assert!(
                    feed.node == origin || self.holds(feed.node, origin) > self.ours.get(origin),
                    "the feed has nothing while another one has"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn invariants_hold_after_every_step(steps in proptest::collection::vec(step(), 1..60)) {
        let mut router = Router::new((2..6).map(NodeId));
        let mut world = World::default();
        for step in steps {
            let nth = |world: &World, n: usize| world.up.keys().nth(n).copied();
            match step {
                Step::Connect(node, by_us) => {
                    world.next += 1;
                    let via = Via { node: NodeId(node), dialled: by_us };
                    world.up.insert(world.next, via);
                    router.connected(world.next, via);
                }
                Step::Disconnect(n) => if let Some(session) = nth(&world, n) {
                    world.up.remove(&session);
                    world.feeds.retain(|_, s| *s != session);
                    router.disconnected(session);
                },
                Step::Refuse(n, origin, ms) => if let Some(session) = nth(&world, n) {
                    let origin = NodeId(origin);
                    let until = world.now + ms;
                    world.refused.insert((session, origin), until);
                    if world.feeds.get(&origin) == Some(&session) {
                        world.feeds.remove(&origin);
                    }
                    router.refused(session, origin, at(until));
                },
                Step::Beat(node, origin, lsn) => {
                    let vector = world.theirs.entry(NodeId(node)).or_default();
                    vector.set(NodeId(origin), Lsn(lsn));
                    router.beat(NodeId(node), vector.clone());
                }
                Step::Ours(origin, lsn) => {
                    world.ours.raise(NodeId(origin), Lsn(lsn));
                    router.holds(world.ours.clone());
                }
                Step::Wait(ms) => world.now += ms,
            }
            world.apply(&router.route(at(world.now)));
            // The same moment again changes nothing.
            prop_assert!(router.route(at(world.now)).is_empty());
            let fed: BTreeSet<_> = world.feeds.values().copied().collect();
            prop_assert!(fed.iter().all(|s| world.up.contains_key(s)));
        }
        // Left alone for long enough, it is as it should be, and then stays so.
        world.now += 10_000;
        world.apply(&router.route(at(world.now)));
        world.now += 10_000;
        world.apply(&router.route(at(world.now)));
        world.check_settled();
        world.now += 10_000;
        prop_assert!(router.route(at(world.now)).is_empty());
    }
}
