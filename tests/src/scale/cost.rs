//! What one number of sites costs a node: sizes from the real encodings, times from the real code.

use std::time::Instant;

use everywrite_conflict::{
    Entry, HybridClock, Index, KeyHasher, Lsn, NodeId, Position, RelationHash, Settled, Stamp,
    Version,
};
use everywrite_node::journal::record;
use serde::Serialize;

use super::gossip::{self, beat, delay_ms};
use super::transaction::{Kind, vector};

/// A TLS 1.3 record's header, content type and tag.
const TLS_BYTES: usize = 5 + 1 + 16;
/// IPv4 and TCP with timestamps.
const PACKET_BYTES: usize = 20 + 32;
/// The steward looks for work, asks for a barrier and forgets at most so often; a beat leaves after it.
const TICK_MS: f64 = 50.0;
/// int8, its OID.
const INT8: u32 = 20;
/// Connections of a pair of nodes: each dials the other.
const CONNECTIONS_PER_PAIR: usize = 2;
/// Sessions in which one peer's transactions are applied.
const SESSIONS_PER_PEER: usize = 2;

/// One line of the table. Names end in their units.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) sites: usize,
    pub(crate) header_bytes: usize,
    pub(crate) insert_row_bytes: usize,
    pub(crate) insert_frame_bytes: usize,
    pub(crate) insert_header_share: f64,
    pub(crate) tpcb_row_bytes: usize,
    pub(crate) tpcb_frame_bytes: usize,
    pub(crate) tpcb_header_share: f64,
    /// The link's frame, TLS record and one packet, for an insert that travels alone.
    pub(crate) insert_alone_wire_bytes: usize,
    pub(crate) node_out_data_kb_per_s: f64,
    pub(crate) node_in_data_kb_per_s: f64,
    /// Each with one beat.
    pub(crate) beat_messages_out_per_s: f64,
    pub(crate) beat_bytes: usize,
    pub(crate) node_out_beats_kb_per_s: f64,
    pub(crate) pings_kb_per_s: f64,
    pub(crate) unstable_for_ms: f64,
    pub(crate) index_keys_insert: usize,
    pub(crate) index_keys_tpcb: usize,
    pub(crate) index_bytes_per_key: f64,
    pub(crate) index_tpcb_mib: f64,
    pub(crate) vectors_kib: f64,
    pub(crate) connections_node: usize,
    pub(crate) connections_cluster: usize,
    pub(crate) replay_sessions_node: usize,
    pub(crate) merge_ns: f64,
    pub(crate) covers_ns: f64,
    pub(crate) encode_ns: f64,
    pub(crate) decode_ns: f64,
    pub(crate) beat_decode_us: f64,
    pub(crate) stable_us: f64,
    pub(crate) vectors_cpu_percent: f64,
    pub(crate) beats_cpu_percent: f64,
}

/// At so many transactions a second in the whole cluster, evenly spread.
pub(crate) fn of(sites: usize, per_s: f64) -> Cost {
    let others = sites - 1;
    let (insert, tpcb) = (Kind::Insert.frame(7, others), Kind::TpcB.frame(7, others));
    let header_bytes = insert.len() - Kind::Insert.row_bytes() - 4;
    let link_bytes = crate::link::data(1, insert.clone().freeze()).len();
    let own_per_s = per_s / sites as f64;
    let data_bytes_per_s = own_per_s * others as f64 * link_bytes as f64;
    let gossip = gossip::sent(sites);
    let one_beat = crate::link::beats(&[beat(sites, 0)], others).len();
    let unstable_for_ms = unstable_for_ms(sites);
    let keys = |kind: Kind| (per_s * unstable_for_ms / 1e3) as usize * kind.keys();
    let index = index(sites, keys(Kind::TpcB).max(1000));
    let times = times(sites);
    let received_per_s = per_s * others as f64 / sites as f64;
    Cost {
        sites,
        header_bytes,
        insert_row_bytes: Kind::Insert.row_bytes(),
        insert_frame_bytes: insert.len(),
        insert_header_share: header_bytes as f64 / insert.len() as f64,
        tpcb_row_bytes: Kind::TpcB.row_bytes(),
        tpcb_frame_bytes: tpcb.len(),
        tpcb_header_share: (tpcb.len() - Kind::TpcB.row_bytes()) as f64 / tpcb.len() as f64,
        insert_alone_wire_bytes: link_bytes + TLS_BYTES + PACKET_BYTES,
        node_out_data_kb_per_s: data_bytes_per_s / 1e3,
        node_in_data_kb_per_s: data_bytes_per_s / 1e3,
        beat_messages_out_per_s: gossip.messages_per_s,
        beat_bytes: one_beat,
        node_out_beats_kb_per_s: gossip.bytes_per_s / 1e3,
        pings_kb_per_s: (crate::link::ping_and_pong(1000, 1_800_000_000_000_000)
            * CONNECTIONS_PER_PAIR
            * others) as f64
            / 1e3,
        unstable_for_ms,
        index_keys_insert: keys(Kind::Insert),
        index_keys_tpcb: keys(Kind::TpcB),
        index_bytes_per_key: index,
        index_tpcb_mib: index * keys(Kind::TpcB) as f64 / 1_048_576.0,
        vectors_kib: vectors_bytes(sites) as f64 / 1024.0,
        connections_node: CONNECTIONS_PER_PAIR * others,
        connections_cluster: others * sites,
        replay_sessions_node: SESSIONS_PER_PEER * others,
        merge_ns: times.merge_ns,
        covers_ns: times.covers_ns,
        encode_ns: times.encode_ns,
        decode_ns: times.decode_ns,
        beat_decode_us: times.beat_decode_us,
        stable_us: times.stable_us,
        vectors_cpu_percent: (received_per_s
            * (times.merge_ns + times.covers_ns + times.decode_ns)
            + own_per_s * times.encode_ns)
            / 1e7,
        beats_cpu_percent: gossip.messages_per_s * times.beat_decode_us / 1e4
            + times.stable_us * 1e3 / TICK_MS / 1e4,
    }
}

/// From a commit to the moment in which the slowest node may forget its keys: the way there, a
/// barrier, the beat's way, and two looks, each on average half a tick late, at most a whole one.
fn unstable_for_ms(sites: usize) -> f64 {
    let farthest = (0..sites).map(|site| delay_ms(sites, 0, site)).max();
    2.0 * farthest.unwrap_or(0) as f64 + 3.0 * TICK_MS
}

/// Bytes per key of an index with so many real keys.
fn index(sites: usize, keys: usize) -> f64 {
    let relation = RelationHash::new("public", "accounts");
    let (mut index, mut clock) = (Index::new(), HybridClock::restored(Stamp(0)));
    for number in 0..keys {
        let mut hasher = KeyHasher::new(relation);
        hasher.cell(INT8, Some(&(number as u64).to_be_bytes()), true);
        let origin = NodeId((number % sites) as u16 + 1);
        let lsn = Lsn(1 + number as u64);
        let entry = Entry {
            version: Version::new(clock.stamp(Stamp(number as i64)), origin),
            source: Some(Position { origin, lsn }),
            deleted: false,
            local_lsn: lsn,
        };
        index.announce(relation, hasher.finish(), entry);
    }
    index.memory_bytes() as f64 / index.len() as f64
}

/// What a node remembers of all others: their beats, and of each what it has settled, with up to 64
/// beats that wait for their place.
fn vectors_bytes(sites: usize) -> usize {
    let vector = sites * size_of::<(NodeId, Lsn)>();
    let beats = sites * 2 * vector;
    let settled = (sites - 1) * (2 + 64) * vector;
    let known_by_peers = 2 * (sites - 1) * sites * size_of::<(NodeId, u64)>();
    beats + settled + known_by_peers
}

struct Times {
    merge_ns: f64,
    covers_ns: f64,
    encode_ns: f64,
    decode_ns: f64,
    beat_decode_us: f64,
    stable_us: f64,
}

fn times(sites: usize) -> Times {
    let others = sites - 1;
    let mut settled = Settled::new(NodeId(1), (1..=sites as u16).map(NodeId));
    let mine = vector(sites, 1 << 20);
    let (mut growing, newer) = (vector(others, 1), vector(others, 2));
    let frame = Kind::Insert.frame(7, others).freeze();
    let beat_frame = crate::link::beats(&[gossip::beat(sites, 0)], others);
    for node in 2..=sites as u16 {
        settled.beat(NodeId(node), Lsn(1), vector(others, 3));
    }
    Times {
        merge_ns: nanoseconds(|n| {
            settled.replayed(NodeId(2), &vector_at(&newer, n));
            growing.merge(&newer);
        }),
        covers_ns: nanoseconds(|_| {
            std::hint::black_box(mine.covers_all(&newer));
        }),
        encode_ns: nanoseconds(|n| {
            std::hint::black_box(Kind::Insert.frame(n as i64 + 1, others));
        }),
        decode_ns: nanoseconds(|_| {
            let mut chunk = frame.clone();
            let _ = std::hint::black_box(record::decode(&mut chunk));
        }),
        beat_decode_us: nanoseconds(|_| {
            std::hint::black_box(crate::link::read_beats(&beat_frame));
        }) / 1e3,
        stable_us: nanoseconds(|_| {
            std::hint::black_box(settled.stable(&mine));
        }) / 1e3,
    }
}

/// The same vector; a copy is made so that nothing is taken out of the loop.
fn vector_at(vector: &everywrite_conflict::Vector, _: usize) -> everywrite_conflict::Vector {
    std::hint::black_box(vector).clone()
}

/// The least of several rounds: what the code takes when nobody disturbs it.
fn nanoseconds(mut work: impl FnMut(usize)) -> f64 {
    const ROUND: usize = 2000;
    let mut best = f64::INFINITY;
    for _ in 0..15 {
        let begin = Instant::now();
        (0..ROUND).for_each(&mut work);
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / ROUND as f64);
    }
    best
}
