//! Long computations and the runtime that they run on.
//!
//! One of the runtime's threads watches all sockets. When something comes it goes on with what that wakes, and while this
//! computes **nobody** watches: the other threads sleep until more than one task is to run. What writes a group to its server
//! would then stand still as soon as the socket is full (some 200 KB, which a COPY has read within 3 ms), and so would links and beats.
//! So what takes in many changes stops from time to time.

/// After so many bytes of changes others have a turn: a quarter of a millisecond or so.
const TURN_BYTES: usize = 64 << 10;

/// How much was taken in since others had a turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: usize,
}

impl Turns {
    /// So many bytes of changes were taken in. May be cancelled.
    pub(super) async fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= TURN_BYTES {
            self.taken = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody else is at work every now and then, on a runtime of one thread.
    #[tokio::test]
    async fn others_have_a_turn_while_much_is_taken_in() {
        let others = tokio::spawn(async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
        let mut turns = Turns::default();
        let mut taken = 0;
        while !others.is_finished() {
            turns.took(1_000).await;
            taken += 1_000;
            assert!(taken <= 20 * TURN_BYTES, "nobody had a turn");
        }
        assert!(taken > TURN_BYTES);
    }
}
