//! Policies: what decides between two writes instead of the stamp.
//!
//! A choice made pair by pair does not converge. Three sites with the priorities a > c > b: b
//! overwrites a row of a that it has seen, c writes the same row unseen. b's row beats a's (it
//! replaced it), a's beats c's, c's beats b's: the last one to arrive stays, and that is another
//! one at each site. So a policy that picks one of two rows is a **total order that extends
//! causality**: the [`Rank`], which a version has before its stamp.
//!
//! ```text
//!   version = (epoch, height, stamp, origin)
//!              └── rank ───┘
//!   epoch    the newest change of the table's policy that the write's origin had
//!   height   what the policy says of the write alone ([`Policy::height`]),
//!            or that of what the write replaced, if that is greater
//! ```
//!
//! - **A height is inherited.** Whoever replaces a row knowingly stands at least as high as that row
//!   did, so nothing that lost to the row can win against its successor. What is stable is not
//!   inherited from: everything that is still to come has seen it, so there is nothing to win against.
//! - **What a write has seen it replaces**, whatever the ranks say. It can be the greater one only if
//!   it was stable where the write was captured, and the index here has not forgotten it yet. All
//!   that is concurrent with the write has then seen it too.
//! - **The epoch comes first.** Heights of two policies cannot be compared, so between writes under
//!   different ones the newer policy's stays, and a switch in mid stream makes no cycle.
//! - **The rank travels** with the change. It is made once, where the write was captured, from what was
//!   in the index there; nobody can compute it a second time.

mod active;
pub mod columns;
pub mod merging;
mod rank;

pub use active::{Active, Begins, Policies, Setting};
pub use rank::{Aside, Epoch, Policy, Rank};
