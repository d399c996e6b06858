//! The kernel's log, for what it says nowhere else: whom it killed for memory, which system call a filter
//! ended a process for, where a process faulted.
//!
//! Invariants: only lines of the kernel itself count, not those that programs write into its log; names in them
//! were chosen by hostile programs, so numbers are read from the side that names cannot reach; reading never waits.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::evidence::{RefusedCall, Victim};

/// Records read at most at a time: more than the largest log holds, so that a flood cannot hold us.
const RECORDS: usize = 1 << 18;
/// Bytes of a text that are kept.
const TEXT: usize = 256;

/// The log, read up to some record. Empty where it cannot be opened.
pub(super) struct KernelLog(Option<OwnedFd>);

impl KernelLog {
    /// From its first record on.
    pub(super) fn open() -> Self {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(rustix::fs::open("/dev/kmsg", flags, Mode::empty()).ok())
    }

    /// Every line of the kernel's since the last reading.
    pub(super) fn read(&mut self, buffer: &mut [u8], mut line: impl FnMut(&str)) {
        let Some(log) = &self.0 else { return };
        for _ in 0..RECORDS {
            match rustix::io::read(log, &mut *buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let record = String::from_utf8_lossy(buffer.get(..count).unwrap_or(&[]));
                    if let Some(text) = kernels_own(&record) {
                        line(text);
                    }
                }
                // Records were overwritten before we came to them, or a signal came.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// The text of a record that the kernel wrote: `priority,number,time,flags;text`, facility zero.
fn kernels_own(record: &str) -> Option<&str> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    (priority < 8).then(|| text.lines().next().unwrap_or(""))
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// Whom the kernel killed in the groups of `container`.
pub(super) fn victim(line: &str, container: &str) -> Option<Victim> {
    let rest = line.strip_prefix("oom-kill:")?;
    let (_, rest) = rest.split_once(",oom_memcg=")?;
    let (group, rest) = rest.split_once(",task_memcg=")?;
    let (of, rest) = rest.split_once(",task=")?;
    if !of.split('/').any(|part| part == container) {
        return None;
    }
    // From the right: a name may contain anything.
    let (rest, _) = rest.rsplit_once(",uid=")?;
    let (name, pid) = rest.rsplit_once(",pid=")?;
    Some(Victim { pid: pid.parse().ok()?, name: short(name), group: short(group) })
}

/// The system call that a filter ended process `pid` for.
pub(super) fn refused(line: &str, pid: i32) -> Option<RefusedCall> {
    let (_, rest) = line.split_once("type=1326 ")?;
    let (head, rest) = rest.split_once(" comm=")?;
    let (_, number) = head.rsplit_once(" pid=")?;
    let (_, rest) = rest.rsplit_once(" arch=")?;
    let (architecture, rest) = rest.split_once(" syscall=")?;
    if number.parse() != Ok(pid) {
        return None;
    }
    Some(RefusedCall {
        architecture: u32::from_str_radix(architecture, 16).ok()?,
        number: rest.split(' ').next()?.parse().ok()?,
    })
}

/// Where process `pid` faulted.
pub(super) fn fault(line: &str, pid: i32) -> Option<String> {
    let mark = format!("[{pid}]");
    let (_, rest) = line.split_once(mark.as_str())?;
    let rest = rest.trim_start_matches([':', ' ']);
    ["segfault at ", "general protection", "trap "]
        .iter()
        .any(|start| rest.starts_with(start))
        .then(|| short(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7445670412f9fabcdb0b934b0f9608ee5c0f2ca4f4abeee67965b4620ca12844";

    fn oom(name: &str) -> String {
        format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/havre/{ID},task_memcg=/havre/{ID}/sub,task={name},pid=16733,uid=0"
        )
    }

    #[test]
    fn victims_are_told_by_group_and_no_name_can_lie_about_the_number() {
        for name in ["awk", "x,pid=1,uid=0", ",task=y", ""] {
            let found = victim(&oom(name), ID).unwrap();
            assert_eq!((found.pid, found.name.as_str()), (16733, name));
            assert_eq!(found.group, format!("/havre/{ID}"));
        }
        assert_eq!(victim(&oom("awk"), "other"), None);
        assert_eq!(victim("oom-kill:nonsense", ID), None);
    }

    #[test]
    fn calls_that_a_filter_ended_a_process_for() {
        let line = "audit: type=1326 audit(1.2:3): auid=4294967295 uid=0 gid=0 ses=4294967295 pid=77 comm=\"a\" exe=\"/a\" sig=31 arch=c000003e syscall=165 compat=0 ip=0x40 code=0x80000000";
        assert_eq!(refused(line, 77), Some(RefusedCall { architecture: 0xc000_003e, number: 165 }));
        assert_eq!(refused(line, 7), None);
        assert_eq!(refused("audit: type=1326 pid=77", 77), None);
    }

    #[test]
    fn faults_are_told_by_process() {
        let line = "crash[88]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6 in crash[401000+1000]";
        assert!(fault(line, 88).unwrap().starts_with("segfault at 0 ip"));
        assert_eq!(fault(line, 8), None);
        assert!(fault("traps: crash[88] trap invalid opcode ip:40", 88).is_some());
    }

    #[test]
    fn what_programs_write_into_the_log_does_not_count() {
        assert_eq!(kernels_own("6,1,2,-;oom-kill:x\n KEY=v\n"), Some("oom-kill:x"));
        assert_eq!(kernels_own("12,1,2,-;oom-kill:x\n"), None);
        assert_eq!(kernels_own("nonsense"), None);
    }
}
