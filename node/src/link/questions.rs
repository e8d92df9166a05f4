//! Questions that the link carries without understanding them: who asks and who answers do.
//!
//! A question is a control message; the answer travels in pieces like a fetched row. A node says in
//! its hello which version of the questions it answers; one that says nothing is not asked.

use std::sync::Arc;

use bytes::Bytes;
use everywrite_conflict::NodeId;
use futures_util::future::BoxFuture;
use prost::Message;

use super::error::Error;
use super::frame::{CONTROL_BYTES_MAX, malformed};
use super::message::{Question, QuestionAnswer};
use super::rows;
use super::session::Session;

/// The version of the questions that this release answers (`crate::verify::question`).
pub(super) const VERSION: u32 = 1;

/// A larger one would not fit into a control frame, and the peer would give up the connection.
pub(super) const QUESTION_BYTES_MAX: usize = CONTROL_BYTES_MAX - 1024;

/// What answers other nodes' questions.
pub trait QuestionSource: Send + Sync {
    /// The answer, or one line for a person at the other node. Takes as long as it takes: who asks
    /// gives up by itself.
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Answers one question; ends quietly when the connection does.
pub(super) async fn answer(
    session: Arc<Session>,
    source: Option<Arc<dyn QuestionSource>>,
    asked: Question,
) {
    let answer = match source {
        Some(source) => source.answer(asked.question).await,
        None => Err("the node is still starting".to_owned()),
    };
    let answer = match answer {
        Ok(answer) => QuestionAnswer {
            error: None,
            answer,
        },
        Err(reason) => QuestionAnswer {
            error: Some(reason),
            answer: Bytes::new(),
        },
    };
    rows::send(&session, asked.request, answer.encode_to_vec().into()).await;
}

/// From the wire.
pub(super) fn result(node: NodeId, answer: Bytes) -> Result<Bytes, Error> {
    let answer =
        QuestionAnswer::decode(answer).map_err(|err| malformed(format!("an answer: {err}")))?;
    match answer.error {
        Some(reason) => Err(Error::NoAnswer { node, reason }),
        None => Ok(answer.answer),
    }
}
