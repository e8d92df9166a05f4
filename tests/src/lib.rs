//! The harness of the integration tests, the soak, the demo and the benchmark: real servers, real
//! daemons, a network that fails on demand, and a checker that says what is right.
//!
//! | module       | role |
//! |--------------|------|
//! | [`place`]      | where PostgreSQL, the daemon and scratch space are; who servers run as |
//! | [`process`]    | children whose output is kept and who are ended by their own id |
//! | [`ports`]      | free ports |
//! | [`postgres`]   | one server: start, stop, crash |
//! | [`machine`]    | one process's clock and disk: wrong, slow, full |
//! | [`proxy`]      | one direction between two nodes: cut, hold, delay |
//! | [`node`]       | one daemon: init, run, crash |
//! | [`cluster`]    | several sites with proxies between them |
//! | [`random`]     | numbers from a seed |
//! | [`workload`]   | random transactions |
//! | [`merged`]     | those of tables whose rows are merged |
//! | [`history`]    | what they did |
//! | [`journals`]   | which versions the nodes gave to that |
//! | [`checker`]    | what must be true in the end |
//! | [`agreement`]  | when all sites hold the same rows |
//! | [`conflicts`]  | what a site's conflict history says |
//! | [`soak`]       | workload, faults and checker together |
//! | [`demo`]       | `make demo` |
//! | [`http`]       | asking the admin port |
//! | [`logs`]       | what a daemon said |
//! | [`wait`]       | waiting on levels |

pub mod agreement;
pub mod checker;
pub mod cluster;
pub mod conflicts;
pub mod demo;
pub mod history;
pub mod http;
pub mod journals;
pub mod logs;
pub mod machine;
pub mod merged;
pub mod node;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod soak;
pub mod wait;
pub mod workload;
