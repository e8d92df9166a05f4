//! A TUN device: an interface of the kernel whose packets this program reads and writes.
//!
//! The only unsafe code of the workspace: attaching to a TUN device takes an ioctl, and nothing safe
//! wraps it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use anyhow::Context;

/// `IFF_TUN | IFF_NO_PI`: IP packets, without a header of the device's own.
const TUN_WITHOUT_HEADER: u16 = 0x0001 | 0x1000;

/// `struct ifreq` as `TUNSETIFF` reads it: a name, the flags, and room up to the size of the union.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes a TUN device that lives as long as the file is open, also in another network namespace.
pub(super) fn create(name: &str) -> anyhow::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    let mut request = Request {
        name: [0; 16],
        flags: TUN_WITHOUT_HEADER,
        rest: [0; 22],
    };
    // The last byte stays zero.
    for (place, byte) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *place = byte;
    }
    attach(&file, request).with_context(|| format!("make the device {name}"))?;
    Ok(file)
}

#[allow(unsafe_code)]
fn attach(file: impl AsFd, request: Request) -> std::io::Result<()> {
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u32>(b'T', 202);
    // SAFETY: TUNSETIFF reads one `struct ifreq` (40 bytes, which `Request` has with the same
    // layout) from the address that `Setter` passes, and keeps nothing of it.
    unsafe {
        let set = rustix::ioctl::Setter::<TUNSETIFF, Request>::new(request);
        rustix::ioctl::ioctl(file, set)?;
    }
    Ok(())
}
