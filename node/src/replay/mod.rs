//! Stage 4: peers' transactions → local rows.
//!
//! | file         | role |
//! |--------------|------|
//! | `feed`       | journal → batches whose causes are here |
//! | `batch`      | transactions folded into one net change a key |
//! | `mapping`    | an origin's relation over the local table: statements |
//! | `writer`     | batches → one write of a session |
//! | `arrays`     | rows as parameters of one statement |
//! | `careful`    | rows locked, decided, recorded |
//! | `columns`    | updates of rows that are merged by columns |
//! | `history`    | an entry of the conflict history |
//! | `counts`     | conflicts by table and kind |
//! | `truncate`   | TRUNCATE against newer rows |
//! | `session`    | a session whose writes are not captured |
//! | `stream`     | the loop of one origin |
//! | `turns`      | others' turns while much is taken in |
//! | `landing`    | what of the index lands besides a batch |
//! | `priors`     | what announced changes met, for when they come again |
//! | `under_way`  | groups of the fast path: sent, answered |
//! | `lanes`      | its two sessions |
//! | `beside`     | what may be written in both at once |
//! | `long`       | transactions that are applied in parts |
//! | `merging`    | rows that lost, merged by a function of the user's |
//! | `outbox`     | deletes that travel, into the local stream |
//! | `repair`     | rows that stand although they are gone |
//! | `rebuild`    | the index, from the journals, at start |
//! | `second_looks` | what `repair` had not done before a restart |
//! | `rows`       | answers of a site that is asked for a row |

mod arrays;
mod batch;
pub mod beside;
pub mod blindly;
mod careful;
mod columns;
mod control;
mod counts;
mod error;
mod feed;
mod history;
mod image;
mod known;
mod landing;
mod lanes;
mod long;
mod mapping;
#[doc(hidden)]
pub mod measured;
pub mod meets;
mod merging;
mod outbox;
mod policy;
pub mod priors;
mod rebuild;
mod repair;
mod rows;
mod second_looks;
mod session;
mod stream;
mod table;
mod toast;
mod travelling;
mod truncate;
mod turns;
mod under_way;
mod updates;
pub mod waits;
mod wal_position;
mod writer;

pub use careful::Context;
pub use control::Control;
pub use counts::ConflictCounts;
pub use error::Error;
pub use feed::Limits;
pub use merging::{Merging, run as run_merging};
pub use outbox::run as run_outbox;
pub use rebuild::{Start, rebuild};
pub use repair::run as run_repairs;
pub(crate) use rows::key_of;
pub use rows::{Answers, Rows, very};
pub use second_looks::SecondLooks;
pub use stream::{Options, Stream};
pub use toast::{Toast, Values};
