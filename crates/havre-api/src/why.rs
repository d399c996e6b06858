//! Why a container ended or did not start: `GET /containers/{id}/why`, which only Havre has.

#![expect(missing_docs, reason = "the fields are described in docs/why.md")]

use crate::wire::wire;

wire! {
    pub struct WhyResponse {
        id: String,
        name: String,
        state: String,
        cause: String,
        proven: bool,
        summary: String,
        facts: Vec<String>,
        advice: Vec<String>,
        started_at: String,
        restart_count: u32,
        start_error: String,
        start_failed_at: String,
        death: Option<WhyDeath>,
    }

    /// The last end of the container.
    pub struct WhyDeath {
        cause: String,
        proven: bool,
        summary: String,
        facts: Vec<String>,
        advice: Vec<String>,
        at: String,
        exit_code: i32,
        ending: String,
        signal: String,
        pid: i32,
        signals_sent: Vec<WhySignal>,
        limits: Option<WhyLimits>,
        victims: Vec<WhyVictim>,
        system_call: Option<WhyCall>,
    }

    /// A signal that the engine sent.
    pub struct WhySignal {
        signal: String,
        at: String,
        request: String,
    }

    /// Limits, and how often each was hit.
    pub struct WhyLimits {
        cgroup: String,
        memory: Option<u64>,
        memory_peak: Option<u64>,
        memory_hits: u64,
        oom_kills: u64,
        pids: Option<u64>,
        pids_refused: u64,
        cpu_periods: u64,
        cpu_throttled: u64,
        cpu_throttled_nanos: u64,
    }

    /// A process that the kernel killed for memory.
    pub struct WhyVictim {
        pid: i32,
        name: String,
        cgroup: String,
    }

    /// The system call that a seccomp filter ended the container for.
    pub struct WhyCall {
        architecture: u32,
        number: i64,
    }
}
