//! Closing so that the last words arrive.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// As long as the other side may need to read and close: some round trips.
const LINGER: Duration = Duration::from_millis(500);

/// Ends the own direction and reads the other to its end. A socket that is closed with unread
/// bytes makes the kernel send a reset, which may overtake the reason for closing.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) {
    let drain = async {
        let _ = io.shutdown().await;
        let mut unread = [0_u8; 4096];
        while matches!(io.read(&mut unread).await, Ok(n) if n > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
