//! Waiting on levels ("everything is applied"), never on edges or by sleeping for a guessed time.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a level may take to be reached before a test gives up: far longer than it ever takes,
/// because machines that run tests are busy.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Asks `probe` again and again until it gives a value; its last reason why not is the error.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(reason) if begin.elapsed() > limit => {
                bail!("waited {limit:?} for {what}: {reason}")
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
