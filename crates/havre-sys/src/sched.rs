//! Scheduling of CPU and I/O, and the execution domain.

use std::io;

use crate::check;

/// What sched_setattr takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedAttr {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Niceness of the time-sharing policies.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Deadline policy: run time.
    pub runtime: u64,
    /// Deadline policy: deadline.
    pub deadline: u64,
    /// Deadline policy: period.
    pub period: u64,
}

#[repr(C)]
struct RawAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling of the calling thread.
pub fn set_scheduler(attr: &SchedAttr) -> io::Result<()> {
    let raw = RawAttr {
        size: 48,
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        runtime: attr.runtime,
        deadline: attr.deadline,
        period: attr.period,
    };
    // SAFETY: the structure has the layout and size (48, its first version) that it states.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })?;
    Ok(())
}

/// Sets the I/O priority of the calling thread: class 1 real time, 2 best effort, 3 idle; level 0 to 7.
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    let value = libc::c_long::from((u32::from(class) << 13) | u32::from(level & 0x1fff));
    // SAFETY: only numbers are passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// Execution domain: Linux.
pub const PER_LINUX: u32 = 0;
/// Execution domain: 32-bit Linux.
pub const PER_LINUX32: u32 = 8;

/// Sets the execution domain.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: only a number is passed.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })?;
    Ok(())
}
