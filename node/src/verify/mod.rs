//! Comparing tables between sites while they are written, and repairing them.
//!
//! ```text
//!  everywrite verify ── control socket ──► its daemon ══ link ══► the other daemons
//!   ranges, disputes, plan (pure)            │ answers              │ answers
//!                                            ▼                      ▼
//!                                        PostgreSQL             PostgreSQL
//! ```
//!
//! The command does the comparing; every daemon answers questions about its own server, over
//! one session; a daemon passes on what is for another one. Nothing here touches capture or replay.
//!
//! | module | role |
//! |--------|------|
//! | [`question`] | what is asked and answered, on the wire |
//! | [`ranges`] (pure) | finds keys that may differ, by ranges and hashes |
//! | [`disputes`] (pure) | judges them: on its way, or different for good |
//! | [`plan`] (pure) | which site's row wins, and what to write where |
//! | [`answers`], `shape` | the answering site: SQL |
//! | [`control`] | the socket beside the data, for the command |
//!
//! Invariant: a row that is on its way is never called a difference; see [`disputes`] for why.
//! ADR 13 says why it is built this way, `docs/guide/verify.md` how it is used.

pub mod answers;
pub mod control;
pub mod disputes;
mod error;
pub mod plan;
pub mod question;
pub mod ranges;
mod shape;

pub use answers::{Answers, Shared};
pub use control::Control;
