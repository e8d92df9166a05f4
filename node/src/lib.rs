//! The Everywrite daemon: one beside each PostgreSQL server.
//!
//! Modules in the order of the flow of a change:
//!
//! | module      | role |
//! |-------------|------|
//! | [`pg`]        | the only code that speaks PostgreSQL's protocol |
//! | [`capture`]   | 1. local WAL → transactions |
//! | [`journal`]   | 2. transactions → durable segments |
//! | [`link`]      | 3. segments ↔ peers |
//! | [`replay`]    | 4. peers' transactions → local rows |
//! | [`settle`]    | 5. what is durable where → slot, journal, index |
//! | [`admin`]     | HTTP, SQL schema, commands |
//! | [`telemetry`] | status, metrics, logs |
//! | [`verify`]     | comparing and repairing tables |
//! | [`runtime`]   | wiring, shutdown, retry |
//! | [`cli`]       | `everywrite init | check | run | status | verify` |

pub mod admin;
pub mod capture;
pub mod cli;
pub mod journal;
pub mod link;
pub mod pg;
pub mod replay;
pub mod runtime;
pub mod settle;
#[cfg(test)]
mod small_disk;
pub mod telemetry;
pub mod verify;
