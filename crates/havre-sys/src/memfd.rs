//! Sealed files in memory.
//!
//! Invariant: what `sealed_copy` returns can be executed and read, and by nobody ever changed again: a
//! container that finds it through `/proc/self/exe` can do nothing with it (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

/// A sealed, executable copy of the whole of `source`.
pub fn sealed_copy(mut source: File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(c"havre", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag, and every memfd can be executed.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(c"havre", flags)?,
        other => other?,
    };
    let mut memory = File::from(memory);
    io::Seek::rewind(&mut source)?;
    io::copy(&mut source, &mut memory)?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let copy = sealed_copy(File::open("/proc/self/exe").unwrap()).unwrap();
        let length = std::fs::metadata("/proc/self/exe").unwrap().len();
        let mut file = File::from(copy);
        assert_eq!(file.metadata().unwrap().len(), length);
        assert!(file.write(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
