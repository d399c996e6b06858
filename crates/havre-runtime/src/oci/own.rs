//! Our own executable, out of a container's reach.
//!
//! Invariant: no container is started from an executable that could be opened for writing through
//! `/proc/PID/exe` of a process in it (CVE-2019-5736): an image whose program is a link to `/proc/self/exe`
//! runs our file, and holds it when we have gone and nothing protects it any more.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use havre_sys::mount::{MountAttr, attr, mount_setattr};
use havre_sys::process::Program;
use rustix::fs::{Mode, OFlags, SealFlags, StatVfsMountFlags};

use crate::error::{RuntimeError, Step};
use crate::fscontext;

/// Starts this program again from where nobody can write it, unless it was started from there.
pub(super) fn protect() -> Result<(), RuntimeError> {
    let step = "protect the runtime's executable";
    let own =
        rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(step)?;
    let read_only = rustix::fs::fstatvfs(&own).step(step)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    let sealed = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if read_only || sealed {
        return Ok(());
    }
    let safe = match read_only_view(&own) {
        Ok(view) => view,
        // Without the right to mount, or from a mount of another namespace: a copy costs more and always works.
        Err(_) => havre_sys::memfd::sealed_copy(std::fs::File::from(own)).step(step)?,
    };
    let text = |text: std::ffi::OsString| CString::new(text.into_vec());
    let arguments: Result<Vec<_>, _> = std::env::args_os().map(text).collect();
    let environment: Result<Vec<_>, _> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    let nul = |_| RuntimeError::invalid("arguments", "a text has a NUL");
    let (arguments, environment) = (arguments.map_err(nul)?, environment.map_err(nul)?);
    Err(havre_sys::process::execute(Program::Fd(safe.as_fd()), &arguments, &environment)).step(step)
}

/// The same file on a mount of its own, which is read-only and in no namespace, so that nobody can change it.
fn read_only_view(own: &OwnedFd) -> std::io::Result<OwnedFd> {
    let view = fscontext::copy(own, false)?;
    let change = MountAttr { set: attr::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(&view, c"", false, change)?;
    Ok(view)
}
