//! Control messages: protobuf, so that an older node can read a newer one's.
//!
//! Field numbers are for ever; a field that is no longer used is reserved, never reused. An
//! unknown message decodes to no body and is ignored.

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Vector};

use crate::settle::Beat;

/// One control frame.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Control {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(super) body: Option<Body>,
}

/// What it says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Body {
    /// Who I am: the acceptor's first message, then the dialler's.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// The acceptor agrees; everything else may follow.
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    /// The last message before closing.
    #[prost(message, tag = "3")]
    Goodbye(Goodbye),
    #[prost(message, tag = "4")]
    Ping(Ping),
    #[prost(message, tag = "5")]
    Pong(Pong),
    #[prost(message, tag = "6")]
    Beats(BeatList),
    #[prost(message, tag = "7")]
    Subscribe(Subscribe),
    #[prost(message, tag = "8")]
    Unsubscribe(Unsubscribe),
    /// The receiver has stored so many bytes more.
    #[prost(message, tag = "9")]
    Credit(Credit),
    /// The sender ends a subscription.
    #[prost(message, tag = "10")]
    Refused(Refused),
    #[prost(message, tag = "11")]
    RowRequest(RowRequest),
    /// Only to who said in its hello that it answers questions.
    #[prost(message, tag = "12")]
    Question(Question),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(super) protocol_min: u32,
    #[prost(uint32, tag = "2")]
    pub(super) protocol_max: u32,
    #[prost(uint32, tag = "3")]
    pub(super) journal_format: u32,
    #[prost(uint32, tag = "4")]
    pub(super) node: u32,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(string, tag = "6")]
    pub(super) cluster: String,
    /// The daemon's release, for people.
    #[prost(string, tag = "7")]
    pub(super) release: String,
    /// The compressions that it understands; none: a release before 0.2.
    #[prost(uint32, repeated, tag = "8")]
    pub(super) unpacks: Vec<u32>,
    /// The version of the questions that it answers; 0: a release before 0.2, which answers none.
    #[prost(uint32, tag = "9")]
    pub(super) answers: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Welcome {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Goodbye {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ping {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pong {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    /// The answering node's wall clock, µs since the Unix epoch.
    #[prost(sint64, tag = "2")]
    pub(super) clock_unix_us: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BeatList {
    #[prost(message, repeated, tag = "1")]
    pub(super) beats: Vec<WireBeat>,
    /// With whom the sender is connected, and whose beats it therefore has from themselves; none:
    /// a release before 0.2, which wants them all.
    #[prost(uint32, repeated, tag = "2")]
    pub(super) direct: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireBeat {
    #[prost(uint32, tag = "1")]
    pub(super) node: u32,
    #[prost(uint64, tag = "2")]
    pub(super) sequence: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) journal_end: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) applied: Vec<Mark>,
    #[prost(message, repeated, tag = "5")]
    pub(super) holds: Vec<Mark>,
}

/// One entry of a vector.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Mark {
    #[prost(uint32, tag = "1")]
    pub(super) origin: u32,
    #[prost(fixed64, tag = "2")]
    pub(super) lsn: u64,
}

/// "Of this origin I have all up to `from`: send what follows."
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subscribe {
    /// Chosen by the receiver, not used twice on a connection; data frames carry it.
    #[prost(uint32, tag = "1")]
    pub(super) subscription: u32,
    #[prost(uint32, tag = "2")]
    pub(super) origin: u32,
    #[prost(fixed64, tag = "3")]
    pub(super) from: u64,
    /// The first credit.
    #[prost(uint32, tag = "4")]
    pub(super) window_bytes: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Unsubscribe {
    #[prost(uint32, tag = "1")]
    pub(super) subscription: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Credit {
    #[prost(uint32, tag = "1")]
    pub(super) subscription: u32,
    #[prost(uint32, tag = "2")]
    pub(super) bytes: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Refused {
    #[prost(uint32, tag = "1")]
    pub(super) subscription: u32,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

/// "Give me these columns of this row, once this transaction is applied at your site."
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RowRequest {
    /// Chosen by the asking side; the answer's frames carry it.
    #[prost(uint32, tag = "1")]
    pub(super) request: u32,
    #[prost(string, tag = "2")]
    pub(super) schema: String,
    #[prost(string, tag = "3")]
    pub(super) table: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) key: Vec<KeyColumn>,
    #[prost(string, repeated, tag = "5")]
    pub(super) columns: Vec<String>,
    #[prost(uint32, tag = "6")]
    pub(super) at_origin: u32,
    #[prost(fixed64, tag = "7")]
    pub(super) at_lsn: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyColumn {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// Travels in row frames, in pieces, because a value may be huge.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RowAnswer {
    #[prost(string, optional, tag = "1")]
    pub(super) error: Option<String>,
    #[prost(bool, tag = "2")]
    pub(super) found: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) cells: Vec<RowCell>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RowCell {
    /// Absent: NULL.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) value: Option<Bytes>,
}

/// "Answer this": what it means is known to who asks and who answers, not to the link.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Question {
    /// Chosen by the asking side, as for [`RowRequest`]; the answer's frames carry it.
    #[prost(uint32, tag = "1")]
    pub(super) request: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) question: Bytes,
}

/// Travels in row frames, too.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QuestionAnswer {
    /// Why there is no answer.
    #[prost(string, optional, tag = "1")]
    pub(super) error: Option<String>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) answer: Bytes,
}

/// A node's number as sent; `None` if it is none.
pub(super) fn node(number: u32) -> Option<NodeId> {
    u16::try_from(number).ok().filter(|&n| n > 0).map(NodeId)
}

impl From<&Beat> for WireBeat {
    fn from(beat: &Beat) -> Self {
        let marks = |vector: &Vector| {
            vector
                .iter()
                .map(|(origin, lsn)| Mark {
                    origin: u32::from(origin.0),
                    lsn: lsn.0,
                })
                .collect()
        };
        WireBeat {
            node: u32::from(beat.node.0),
            sequence: beat.sequence,
            journal_end: beat.journal_end.0,
            applied: marks(&beat.applied),
            holds: marks(&beat.holds),
        }
    }
}

impl WireBeat {
    /// `None` if a node's number in it is none.
    pub(super) fn decode_beat(&self) -> Option<Beat> {
        let vector = |marks: &[Mark]| {
            marks
                .iter()
                .map(|mark| Some((node(mark.origin)?, Lsn(mark.lsn))))
                .collect::<Option<Vector>>()
        };
        Some(Beat {
            node: node(self.node)?,
            sequence: self.sequence,
            journal_end: Lsn(self.journal_end),
            applied: vector(&self.applied)?,
            holds: vector(&self.holds)?,
        })
    }
}
