//! Free TCP ports of the loopback, below the range that the kernel hands out by itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

/// 20000..32000: above the usual services, below Linux' ephemeral ports (32768 and up), so that an
/// outgoing connection never takes a port that a restarting daemon wants back.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);

/// A port that nobody listens on, never the same one twice in this process.
pub fn free_port() -> anyhow::Result<u16> {
    let start = (std::process::id().wrapping_mul(97)) % COUNT;
    NEXT.compare_exchange(u32::MAX, start, Ordering::Relaxed, Ordering::Relaxed)
        .ok();
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let Ok(port) = u16::try_from(port) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}
