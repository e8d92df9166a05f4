//! What can go wrong between two nodes. Every text is one line for a person: what, why, what to do.

use std::io;

use everywrite_conflict::{Lsn, NodeId};

use crate::journal;

/// A link failed, was refused, or could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Setting up.
    /// A PEM file cannot be read.
    #[error("cannot read {path}: {source}; check the path and its permissions")]
    ReadFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM file holds no usable certificate or key.
    #[error(
        "{path} holds no usable {what}: {reason}; write it again with the cluster's certificate tool"
    )]
    BadPem {
        /// The file.
        path: String,
        /// "certificate", "private key", "CA certificate".
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The configured certificate is somebody else's.
    #[error(
        "the certificate {path} is for {found}, but this node is {expected}: \
         issue one for this node, or correct the node's number or cluster"
    )]
    NotOurCertificate {
        /// The file.
        path: String,
        /// Whom it names.
        found: String,
        /// Who this node is.
        expected: String,
    },
    /// rustls refuses the certificate and key.
    #[error("cannot set up TLS: {0}; check that the key belongs to the certificate")]
    TlsSetup(#[source] rustls::Error),
    /// The listening address cannot be used.
    #[error("cannot listen on {address}: {source}; is the address local and the port free?")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A peer has this node's number, or a number is used twice.
    #[error("node {0} is listed more than once among this node and its peers: give each its own")]
    DuplicateNode(NodeId),

    // Making certificates.
    /// A cluster's name has characters that a certificate's URI cannot carry as they are.
    #[error("\"{0}\" cannot be a cluster's name: use letters, digits, '-', '_' and '.'")]
    ClusterName(String),
    /// Node 0 means nobody.
    #[error("a node's number is between 1 and 65535")]
    NodeNumber,
    /// A certificate or key cannot be made.
    #[error("cannot {operation}: {reason}")]
    Certificate {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },

    // Connecting.
    /// TCP does not come through.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other side did not finish connecting in time.
    #[error("{0} did not answer in time: is it overloaded, or is something in between silent?")]
    HandshakeTimeout(String),
    /// The other side does not speak TLS.
    #[error("{0} does not speak TLS: only Everywrite nodes may use this port, is the port right?")]
    ClearText(String),
    /// TLS failed in another way.
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// The other side.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other side's certificate is not acceptable.
    #[error("the certificate of {address} {reason}")]
    PeerCertificate {
        /// The other side.
        address: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The other side does not accept this node's certificate.
    #[error("{address} refused this node's certificate, which {reason}")]
    OurCertificateRefused {
        /// The other side.
        address: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A certificate cannot be parsed.
    #[error("the certificate cannot be read: {0}; issue it again")]
    CertificateUnreadable(String),
    /// A certificate names no node.
    #[error(
        "the certificate names no Everywrite node: issue one with everywrite://cluster/node in it"
    )]
    CertificateAnonymous,
    /// The other side is of another cluster.
    #[error(
        "the other node is of cluster \"{theirs}\", this one of \"{ours}\": \
         correct the address, or the cluster's name"
    )]
    WrongCluster {
        /// This node's.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// Another node answers at a peer's address.
    #[error("node {answered} answers where node {dialled} is expected: correct the peer's address")]
    WrongNode {
        /// Who was meant.
        dialled: NodeId,
        /// Who is there.
        answered: NodeId,
    },
    /// What a node says and what its certificate says differ.
    #[error("the other node says it is node {said}, its certificate is for node {certified}")]
    NotItsCertificate {
        /// By its hello.
        said: NodeId,
        /// By its certificate.
        certified: NodeId,
    },
    /// A node that this one was not told about.
    #[error("node {0} is not among node {1}'s peers: add it to the configuration there")]
    UnknownPeer(NodeId, NodeId),
    /// A node that dialled itself.
    #[error("node {0} has dialled itself: correct the peer's address")]
    Myself(NodeId),
    /// The two have no protocol version in common.
    #[error(
        "node {node} ({name}) speaks link protocol {theirs}, this node {ours}: upgrade {older} first"
    )]
    Version {
        /// The other node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its range.
        theirs: String,
        /// Our range.
        ours: String,
        /// "the other node" or "this node".
        older: &'static str,
    },
    /// Journal bytes travel as they are, so both must write them alike.
    #[error(
        "node {node} ({name}) writes journal format {theirs}, this node {ours}: \
         upgrade both to the same release"
    )]
    JournalFormat {
        /// The other node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its format.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The other side closed and said why.
    #[error("{who} closed the connection: {reason}")]
    Goodbye {
        /// The other side.
        who: String,
        /// Its words.
        reason: String,
    },
    /// A person paused this link here.
    #[error("the link between node {0} and node {1} is paused at node {0}: resume it there")]
    Paused(NodeId, NodeId),

    // While connected.
    /// Reading or writing failed.
    #[error("the connection broke while {operation}: {source}")]
    Broken {
        /// "reading" or "writing".
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other side closed without a word.
    #[error("the other node closed the connection")]
    Closed,
    /// Nothing came for too long.
    #[error(
        "nothing was received for {0:?}, not even an answer to a ping: \
         the other node hangs or the network drops packets"
    )]
    Silent(std::time::Duration),
    /// The other side sent what the protocol does not allow.
    #[error("the other node sent a malformed frame: {0}")]
    Malformed(String),
    /// The other side does not read what it is sent.
    #[error("the other node does not read: {0} control messages wait for it")]
    NotReading(usize),
    /// The connection was given up because a newer one from the same node came.
    #[error("a newer connection from the same node replaced this one")]
    Replaced,
    /// A task of a connection ended in a way it must not.
    #[error("internal error in a task of the connection: {0}; please report it")]
    Internal(String),
    /// This node shuts down.
    #[error("node {0} is shutting down")]
    ShuttingDown(NodeId),

    // Subscriptions.
    /// The other side cannot send an origin's transactions from where this node needs them.
    #[error("node {node} cannot feed origin {origin}: {reason}")]
    Refused {
        /// Who refuses.
        node: NodeId,
        /// Whose transactions.
        origin: NodeId,
        /// Its words.
        reason: String,
    },
    /// The own journal did not take what was received.
    #[error("cannot store what node {node} sent of origin {origin}: {source}")]
    Store {
        /// Who sent it.
        node: NodeId,
        /// Whose transactions.
        origin: NodeId,
        /// Why.
        #[source]
        source: journal::Error,
    },
    /// A journal cannot be opened.
    #[error("cannot open the journal of origin {origin}: {source}")]
    OpenJournal {
        /// Whose.
        origin: NodeId,
        /// Why.
        #[source]
        source: journal::Error,
    },
    /// An origin says it has less than it once sent.
    #[error(
        "origin {origin} holds its own transactions only up to {holds}, but {asked} was asked for: \
         was it restored from a backup? rebuild it as a new node"
    )]
    OriginBehind {
        /// The origin.
        origin: NodeId,
        /// Its journal's end.
        holds: Lsn,
        /// From where it was asked to send.
        asked: Lsn,
    },

    // Rows.
    /// The node to ask is not connected.
    #[error("cannot fetch a row from node {0}: it is not connected")]
    NotConnected(NodeId),
    /// The connection broke before the answer.
    #[error("cannot fetch a row from node {0}: the connection broke before the answer came")]
    FetchLost(NodeId),
    /// No answer in time.
    #[error("cannot fetch a row from node {0}: no answer within {1:?}")]
    FetchTimeout(NodeId, std::time::Duration),
    /// The node to ask is not connected.
    #[error("node {0} is not connected: see `everywrite status` for the reason")]
    CannotAsk(NodeId),
    /// The node to ask does not know such questions.
    #[error("node {0} runs an older release that cannot answer: upgrade it")]
    TooOldToAsk(NodeId),
    /// More than the link carries at once.
    #[error("a question of {0} bytes is too large for the link: are the keys that long?")]
    QuestionTooLarge(usize),
    /// The connection broke before the answer.
    #[error("the connection to node {0} broke before the answer came")]
    AnswerLost(NodeId),
    /// No answer in time.
    #[error("node {0} gave no answer within {1:?}")]
    AnswerTimeout(NodeId, std::time::Duration),
    /// The other side does not answer, and says why.
    #[error("node {node} does not answer: {reason}")]
    NoAnswer {
        /// Who was asked.
        node: NodeId,
        /// Its words.
        reason: String,
    },
    /// The other side tried and failed.
    #[error("node {node} cannot answer for a row: {reason}")]
    FetchFailed {
        /// Who was asked.
        node: NodeId,
        /// Its words.
        reason: String,
    },
}
