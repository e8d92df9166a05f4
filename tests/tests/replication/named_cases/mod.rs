//! The cases in which replicas of one another are known to diverge, each on three real servers. Every
//! test asserts that all three have the same rows, that these are the rows of the highest versions, and,
//! where it matters, what the conflict history says; both orders of arrival where there are two.
//!
//! | case | tests |
//! |---|---|
//! | delete against a late update, over three nodes | `delete_against_late_update`, [`deletes`] |
//! | delete against a late insert, over three nodes | [`deletes`] |
//! | update that arrives before the insert it saw | `update_before_its_insert` |
//! | equal timestamps | [`clocks`]: `equal_timestamps…` |
//! | a node whose clock is seconds behind or ahead | [`clocks`]: `…seconds_behind…`, `…seconds_ahead…`, `…too_far_ahead…` |
//! | a clock that steps back | [`clocks`]: `…steps_back…` |
//! | primary-key change against update | `primary_key_change`, [`keys`] |
//! | primary-key change against primary-key change | `primary_key_change`, [`keys`] |
//! | two rows that take one second unique key at two sites | `second_unique_key`, [`unique_values`] |
//! | chains and swaps of them | `second_unique_key`, [`unique_values`] |
//! | NULLs in them | [`unique_values`]: `…null…` |
//! | TRUNCATE against insert | `truncate_against_insert`, [`truncates`] |
//! | TOAST column untouched by the winner | `toast`, [`large_values`] |
//! | delete and re-insert of the same key at two sites | `delete_and_insert_again`, [`deletes`] |
//! | a row moved between partitions at one site and updated at another | [`partitions`] |
//! | vacuum, also FREEZE, between a delete and the late update | `delete_against_late_update`, [`in_between`] |
//! | a restart of everything in between | [`in_between`] |
//! | multi-row transactions that conflict in some rows only | [`part_of_a_transaction`] |
//!
//! Names without a link are modules beside this one.

mod clocks;
mod deletes;
mod in_between;
mod keys;
mod large_values;
mod meeting;
mod part_of_a_transaction;
mod partitions;
mod truncates;
mod unique_values;
