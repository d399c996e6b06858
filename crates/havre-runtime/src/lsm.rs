//! Labels of AppArmor and SELinux.
//!
//! Invariant: a label that was asked for is written and accepted by the kernel, or it is an error; one that
//! the kernel could not honour is refused before anything is made.

use std::os::fd::OwnedFd;

use havre_oci::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{RuntimeError, Step};

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

fn has_selinux() -> bool {
    std::fs::metadata("/sys/fs/selinux/enforce").is_ok()
}

fn wanted(label: Option<&String>) -> Option<&str> {
    label.map(String::as_str).filter(|label| !label.is_empty())
}

/// The AppArmor profile that has to be set. Without AppArmor everything is unconfined anyway.
fn apparmor(process: &Process) -> Option<&str> {
    wanted(process.apparmor_profile.as_ref()).filter(|profile| *profile != "unconfined" || has_apparmor())
}

/// Refuses labels that this kernel cannot honour.
pub(crate) fn check(process: &Process, mount_label: Option<&String>) -> Result<(), RuntimeError> {
    if let Some(profile) = apparmor(process)
        && !has_apparmor()
    {
        return Err(RuntimeError::unsupported(
            "process.apparmorProfile",
            format!("profile {profile:?} was asked for and the kernel has no AppArmor"),
        ));
    }
    if (wanted(process.selinux_label.as_ref()).is_some() || wanted(mount_label).is_some()) && !has_selinux() {
        return Err(RuntimeError::unsupported(
            "process.selinuxLabel",
            "a label was asked for and the kernel has no SELinux",
        ));
    }
    Ok(())
}

/// Sets the labels that the next execve takes. `proc` is the host's procfs, opened before the container
/// could have a say.
pub(crate) fn set(process: &Process, proc: &OwnedFd) -> Result<(), RuntimeError> {
    if let Some(profile) = apparmor(process) {
        let text = format!("exec {profile}");
        if write(proc, "self/attr/apparmor/exec", &text).is_err() {
            // Before Linux 5.8 there is only the shared file.
            write(proc, "self/attr/exec", &text).step_with(|| format!("set AppArmor profile {profile}"))?;
        }
    }
    if let Some(label) = wanted(process.selinux_label.as_ref()) {
        write(proc, "self/attr/exec", label).step_with(|| format!("set SELinux label {label}"))?;
    }
    Ok(())
}

/// Writes a file of procfs, on no other mount and through no link that jumps.
pub(crate) fn write(proc: &OwnedFd, path: &str, text: &str) -> std::io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let written = rustix::io::write(file, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

/// The host's procfs, verified to be one.
pub(crate) fn open_proc() -> Result<OwnedFd, RuntimeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).step("open /proc")?;
    let genuine = crate::path::is_on(&proc, crate::path::PROC_MAGIC).step("examine /proc")?
        && rustix::fs::fstat(&proc).step("examine /proc")?.st_ino == 1;
    if genuine { Ok(proc) } else { Err(RuntimeError::invalid("/proc", "it is not a procfs")) }
}
