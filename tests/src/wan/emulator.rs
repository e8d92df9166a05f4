//! The wire between two TUN devices: every packet waits, some are lost, all are counted.
//!
//! ```text
//!  site A ─ TUN ─► read: lost? when due? ─► queue ─► write at that time ─► TUN ─ site B
//!         ◄────────────────────── the same the other way ──────────────────────
//! ```
//! What netem does in a kernel, for kernels that are built without it. Packets are lost
//! independently of each other, and none is reordered while the delay stays the same. TCP above
//! is the kernel's own.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use everywrite_tests::random::Random;
use parking_lot::Mutex;

/// Packets under way in one direction: 200 ms of a gigabit are 17,000.
const PACKETS_MAX: usize = 65_536;
/// The largest packet that a TUN device hands out.
const PACKET_BYTES: usize = 65_536;

/// What the wire is like; the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weather {
    /// From one end to the other.
    pub(super) delay: Duration,
    /// Lost packets of a million.
    pub(super) loss_ppm: u32,
    /// What goes onto the wire in a second.
    pub(super) bits_per_s: u64,
}

/// What one service's packets in one direction have amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// IP packets offered, those that were lost among them.
    pub(super) packets: u64,
    /// Their bytes, IP and TCP headers included.
    pub(super) bytes: u64,
    /// Without the headers: what TCP carries, what it repeats included.
    pub(super) payload: u64,
    /// Packets that were lost.
    pub(super) lost: u64,
}

impl std::ops::Sub for Count {
    type Output = Count;

    fn sub(self, before: Count) -> Count {
        Count {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            payload: self.payload - before.payload,
            lost: self.lost - before.lost,
        }
    }
}

#[derive(Debug, Default)]
struct Counter {
    packets: AtomicU64,
    bytes: AtomicU64,
    payload: AtomicU64,
    lost: AtomicU64,
}

impl Counter {
    fn add(&self, bytes: usize, payload: usize, lost: bool) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.payload.fetch_add(payload as u64, Ordering::Relaxed);
        self.lost.fetch_add(u64::from(lost), Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        Count {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            payload: self.payload.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

/// One direction's counters, one for each port that is watched.
type Counters = Arc<Vec<(u16, Counter)>>;

/// Both directions of one port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) there: Count,
    pub(super) back: Count,
}

impl std::ops::Sub for Traffic {
    type Output = Traffic;

    fn sub(self, before: Traffic) -> Traffic {
        Traffic {
            there: self.there - before.there,
            back: self.back - before.back,
        }
    }
}

/// The wire; it ends with the value, once the devices are gone or the next packets come.
#[derive(Debug)]
pub(super) struct Wire {
    weather: Arc<Mutex<Weather>>,
    there: Counters,
    back: Counters,
    ending: Arc<AtomicBool>,
    _threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Joins the two devices. Traffic is counted by TCP port, on either side of a connection.
    pub(super) fn join(a: File, b: File, ports: &[u16], weather: Weather) -> anyhow::Result<Wire> {
        let weather = Arc::new(Mutex::new(weather));
        let counters = || -> Counters {
            Arc::new(
                ports
                    .iter()
                    .map(|&port| (port, Counter::default()))
                    .collect(),
            )
        };
        let (there, back) = (counters(), counters());
        let ending = Arc::new(AtomicBool::new(false));
        let ends = [
            (a.try_clone(), b.try_clone(), &there, 1),
            (Ok(b), Ok(a), &back, 2),
        ];
        let mut threads = Vec::new();
        for (from, to, counters, seed) in ends {
            let (from, to) = (
                from.context("share a device")?,
                to.context("share a device")?,
            );
            let (send, receive) = mpsc::sync_channel(PACKETS_MAX);
            let (weather, ending) = (Arc::clone(&weather), Arc::clone(&ending));
            let counters = Arc::clone(counters);
            threads.push(spawn("wire-in", move || {
                take(from, &send, &weather, &counters, &ending, Random::new(seed));
            })?);
            threads.push(spawn("wire-out", move || deliver(to, &receive))?);
        }
        Ok(Wire {
            weather,
            there,
            back,
            ending,
            _threads: threads,
        })
    }

    /// Changes what the wire is like for packets that come from now on.
    pub(super) fn set(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    /// What has gone over it from and to a port until now.
    pub(super) fn traffic(&self, port: u16) -> Traffic {
        let of = |counters: &Counters| {
            let found = counters.iter().find(|(known, _)| *known == port);
            found.map_or_else(Count::default, |(_, counter)| counter.read())
        };
        Traffic {
            there: of(&self.there),
            back: of(&self.back),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).context("start a thread of the wire")
}

struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

fn take(
    mut device: File,
    queue: &mpsc::SyncSender<Packet>,
    weather: &Mutex<Weather>,
    counters: &Counters,
    ending: &AtomicBool,
    mut random: Random,
) {
    let mut buffer = vec![0; PACKET_BYTES];
    let mut free_at = Instant::now();
    while !ending.load(Ordering::Relaxed) {
        let packet = match device.read(&mut buffer) {
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            // The device is not up yet.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        let weather = *weather.lock();
        let lost = random.below(1_000_000) < u64::from(weather.loss_ppm);
        if let Some(segment) = segment(packet)
            && let Some((_, counter)) = counters
                .iter()
                .find(|(port, _)| *port == segment.from || *port == segment.to)
        {
            counter.add(packet.len(), segment.payload, lost);
        }
        let bits = packet.len() as u64 * 8;
        let on_the_wire = Duration::from_nanos(bits * 1_000_000_000 / weather.bits_per_s);
        free_at = free_at.max(Instant::now()) + on_the_wire;
        let due = free_at + weather.delay;
        let bytes = packet.into();
        // A full queue is a router's: what comes then is lost.
        if !lost
            && let Err(mpsc::TrySendError::Disconnected(_)) = queue.try_send(Packet { due, bytes })
        {
            return;
        }
    }
}

fn deliver(mut device: File, queue: &mpsc::Receiver<Packet>) {
    while let Ok(packet) = queue.recv() {
        let wait = packet.due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        // A device that is down loses packets, like any.
        let _ = device.write(&packet.bytes);
    }
}

/// What of a TCP segment is counted.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    from: u16,
    to: u16,
    payload: usize,
}

/// The TCP segment in an IPv4 packet.
fn segment(packet: &[u8]) -> Option<Segment> {
    const TCP: u8 = 6;
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let tcp = packet.get(usize::from(first & 15) * 4..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from: port(0)?,
        to: port(2)?,
        payload: tcp.len().checked_sub(header)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_payload_of_a_segment_are_found() {
        let mut packet = vec![0; 20 + 32 + 7];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20..24].copy_from_slice(&[0x15, 0x38, 0x90, 0x01]);
        packet[32] = 0x80;
        let expected = Segment {
            from: 5432,
            to: 0x9001,
            payload: 7,
        };
        assert_eq!(segment(&packet), Some(expected));
        packet[9] = 17;
        assert_eq!(segment(&packet), None);
    }
}
