//! What is known of a container's end beyond its exit code, gathered when it happens.
//!
//! Invariants: everything here was told by the kernel or done by this supervisor, nothing is concluded; all of
//! it is bounded; every field may be absent, because an older supervisor may have written the record.

use havre_base::Timestamp;
use rustix::process::WaitStatus;
use serde::{Deserialize, Serialize};

use super::kernel_log::KernelLog;
use crate::cgroup::Cgroup;
pub use crate::cgroup::Struck;

/// Signals and victims that are kept: the last ones.
const KEPT: usize = 8;
/// Signals by which a program ends itself: ILL, TRAP, BUS, FPE, SEGV.
const FAULTS: [i32; 5] = [4, 5, 7, 8, 11];
/// SIGSYS.
const SYS: i32 = 31;

/// How the first process ended, as `wait` told it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Not recorded: an older supervisor.
    #[default]
    Unknown,
    /// It exited.
    Exited,
    /// A signal ended it.
    Signalled(i32),
    /// Nobody saw it: the supervisor was gone first.
    SupervisorLost,
    /// Nobody saw it: the machine went down.
    MachineDown,
}

/// A signal that the engine had this supervisor send to the first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The kernel's number.
    pub signal: i32,
    /// When.
    pub at: Timestamp,
    /// For which request: a word of the engine's; empty when it did not say.
    #[serde(default)]
    pub by: String,
}

/// A process that the kernel killed for its group's memory limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// Its process id on the host.
    pub pid: i32,
    /// Its name, at most 15 bytes, as the process chose it.
    pub name: String,
    /// The control group whose limit was hit.
    pub group: String,
}

/// A system call that a seccomp filter ended a process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCall {
    /// The audit number of the architecture.
    pub architecture: u32,
    /// Its number there.
    pub number: i64,
}

/// Everything recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// How it ended.
    pub ending: Ending,
    /// The first process, as the host numbers it; zero when unknown.
    pub pid: i32,
    /// Signals sent for the engine, oldest first.
    pub signals: Vec<Sent>,
    /// Limits, and how often each was hit.
    pub limits: Option<Struck>,
    /// Processes killed for memory, oldest first.
    pub victims: Vec<Victim>,
    /// The system call that a filter ended the first process for.
    pub refused: Option<RefusedCall>,
    /// What the kernel wrote of the first process's fault.
    pub fault: Option<String>,
}

impl Evidence {
    /// Of an end that nobody saw.
    #[must_use]
    pub fn unseen(ending: Ending) -> Self {
        Self { ending, ..Self::default() }
    }
}

/// The evidence of the running container.
#[derive(Default)]
pub(super) struct Collector {
    evidence: Evidence,
    log: Option<KernelLog>,
}

impl Collector {
    pub(super) fn sent(&mut self, signal: i32, by: String) {
        use havre_base::Clock as _;
        let at = havre_base::SystemClock.now();
        push(&mut self.evidence.signals, Sent { signal, at, by });
    }

    /// Looks for victims in the kernel's log. It tells the name of the process before it kills.
    pub(super) fn look_for_victims(&mut self, container: &str, buffer: &mut [u8]) {
        let victims = &mut self.evidence.victims;
        let log = self.log.get_or_insert_with(KernelLog::open);
        log.read(buffer, |line| {
            if let Some(victim) = super::kernel_log::victim(line, container) {
                push(victims, victim);
            }
        });
    }

    /// Completes the evidence. The control group must still be there.
    pub(super) fn finish(
        &mut self,
        pid: i32,
        status: WaitStatus,
        cgroup: &Cgroup,
        buffer: &mut [u8],
    ) -> Evidence {
        let mut evidence = std::mem::take(&mut self.evidence);
        evidence.pid = pid;
        evidence.limits = Some(cgroup.struck());
        evidence.ending = match status.terminating_signal() {
            Some(signal) => Ending::Signalled(signal),
            None => Ending::Exited,
        };
        if let Ending::Signalled(signal) = evidence.ending
            && (signal == SYS || FAULTS.contains(&signal))
        {
            // A log of its own, from the start: another reading may have passed the line.
            KernelLog::open().read(buffer, |line| {
                if signal == SYS {
                    evidence.refused = super::kernel_log::refused(line, pid).or(evidence.refused);
                } else if let Some(fault) = super::kernel_log::fault(line, pid) {
                    evidence.fault = Some(fault);
                }
            });
        }
        evidence
    }
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push(item);
}
