//! The end of a run, explained from the record. Pure.
//!
//! What makes proofs possible: of the signals from outside a container's own process namespace only SIGKILL ends
//! its first process against its will, and of those from inside none (pid_namespaces(7)); faults and filters are
//! the kernel's own signals.

use havre_runtime::shim::evidence::{Ending, Evidence, Sent};
use havre_runtime::shim::protocol::Exit;

use super::program::command;
use super::{Cause, Verdict, asker};
use crate::record::Fixed;
use crate::signal;
use crate::spec::Sharing;

const KILL: i32 = 9;
const SYS: i32 = 31;
/// ILL, TRAP, BUS, FPE, SEGV: what a processor's exception becomes.
const FAULTS: [i32; 5] = [4, 5, 7, 8, 11];
/// Shells by the names of their programs.
const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox"];

/// Whether the first process is the first of a process namespace of its own.
fn is_private(fixed: &Fixed) -> bool {
    fixed.spec.pid == Sharing::Private
}

pub(super) fn verdict(fixed: &Fixed, exit: &Exit) -> Verdict {
    let evidence = &*exit.evidence;
    let verdict = match evidence.ending {
        Ending::Unknown => Verdict::new(Cause::Unknown, format!("It ended with code {}.", exit.code))
            .unproven()
            .fact("How was not recorded: an older version of its supervisor ran it."),
        Ending::SupervisorLost => Verdict::new(
            Cause::SupervisorKilled,
            "Its supervisor (havre shim) was killed, so the engine ended the container.",
        )
        .fact("The supervisor ended without recording an end of the container; the engine never ends it so.")
        .advise("Look for who killed it: the host's own OOM killer (dmesg), or a kill by name on the host."),
        Ending::MachineDown => Verdict::new(Cause::MachineDown, "The machine went down while it ran.")
            .fact("The machine was started after the container was.")
            .advise(
                "A restart policy starts it again with the machine: havre update --restart unless-stopped",
            ),
        Ending::Exited => exited(fixed, exit, evidence),
        Ending::Signalled(number) => signalled(fixed, exit, evidence, number),
    };
    limits(verdict, evidence)
}

/// What a request is called where users meet it.
fn request(by: &str) -> &'static str {
    match by {
        asker::STOP => "a stop (POST /containers/{id}/stop)",
        asker::RESTART => "a restart (POST /containers/{id}/restart)",
        asker::KILL => "a kill (POST /containers/{id}/kill)",
        asker::REMOVE => "a forced removal (DELETE /containers/{id}?force=1)",
        asker::GRACE_OVER => "a stop or restart whose grace period was over",
        _ => "a request that was not recorded",
    }
}

fn sent(sent: &Sent) -> String {
    format!("The engine sent {} at {} for {}.", signal::name(sent.signal), sent.at, request(&sent.by))
}

fn sent_all(verdict: Verdict, evidence: &Evidence) -> Verdict {
    evidence.signals.iter().fold(verdict, |verdict, one| verdict.fact(sent(one)))
}

fn exited(fixed: &Fixed, exit: &Exit, evidence: &Evidence) -> Verdict {
    let code = exit.code;
    if let Some(last) = evidence.signals.iter().rev().find(|one| one.by != asker::KILL || ends(one.signal)) {
        let verdict = Verdict::new(
            Cause::Stopped,
            format!(
                "It exited with code {code} after the engine had sent it {} for {}.",
                signal::name(last.signal),
                request(&last.by)
            ),
        );
        return meaning(sent_all(verdict, evidence), fixed, code);
    }
    if code == 128 + KILL && evidence.limits.as_ref().is_some_and(|limits| limits.oom_kills > 0) {
        let verdict = Verdict::new(
            Cause::OutOfMemory,
            "The kernel killed a child of its first process for the memory limit, and the first process exited with that child's code 137.",
        );
        let verdict = out_of_memory(verdict, evidence);
        return if evidence.victims.is_empty() { verdict.unproven() } else { verdict };
    }
    let verdict =
        Verdict::new(Cause::Exited, format!("Its first process exited by itself with code {code}."));
    meaning(verdict.fact("The engine sent it no signal that ends a program."), fixed, code)
}

/// Whether programs usually end on it.
fn ends(number: i32) -> bool {
    matches!(number, 2 | 3 | 9 | 15)
}

fn meaning(verdict: Verdict, fixed: &Fixed, code: i32) -> Verdict {
    let words = command(fixed);
    let program = words.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let init = fixed.spec.init == Some(true);
    if init && code > 128 {
        return verdict.fact(format!(
            "With --init, {code} usually means that {} ended the program (128 + {}).",
            signal::name(code - 128),
            code - 128
        ));
    }
    if !SHELLS.contains(&program) {
        return match code {
            0 => verdict,
            _ => verdict
                .advise(format!("What the code means, {program} decides; its log may say more: havre logs")),
        };
    }
    match code {
        0 => verdict,
        126 => verdict
            .fact(format!("A shell ({program}) exits with 126 when its last command was found but could not be executed."))
            .advise("Check the mode and the architecture of that command; the log names it: havre logs"),
        127 => verdict
            .fact(format!("A shell ({program}) exits with 127 when its last command was not found."))
            .advise("Check its spelling, or install it in the image; the log names it: havre logs"),
        129..=192 => verdict.fact(format!(
            "A shell ({program}) exits with {code} when its last command was ended by {} (128 + {}).",
            signal::name(code - 128),
            code - 128
        )),
        _ => verdict.advise("The code is that of the shell's last command; its log may say more: havre logs"),
    }
}

fn signalled(fixed: &Fixed, exit: &Exit, evidence: &Evidence, number: i32) -> Verdict {
    let name = signal::name(number);
    let private = is_private(fixed);
    let oom_kills = evidence.limits.as_ref().map_or(0, |limits| limits.oom_kills);
    let taken = evidence.victims.iter().any(|victim| victim.pid == evidence.pid);
    let by_engine = evidence.signals.iter().rev().find(|one| one.signal == number);
    if number == KILL && taken {
        let text = "The kernel killed its first process because the memory limit was reached.";
        return out_of_memory(Verdict::new(Cause::OutOfMemory, text), evidence);
    }
    if let Some(one) = by_engine {
        let text = format!("{name} ended it, which the engine sent for {}.", request(&one.by));
        let verdict = sent_all(Verdict::new(Cause::Stopped, text), evidence);
        return match one.by.as_str() {
            asker::GRACE_OVER => verdict.advise(format!(
                "It did not end on {} in time. Handle that signal in the first process, use --init, or give it longer with --stop-timeout.",
                evidence.signals.first().map_or_else(|| "the stop signal".to_owned(), |one| signal::name(one.signal))
            )),
            _ => verdict,
        };
    }
    if number == KILL && oom_kills > 0 && evidence.victims.is_empty() {
        let text =
            "SIGKILL ended it, and the kernel counts processes of it that it killed for the memory limit.";
        return out_of_memory(Verdict::new(Cause::OutOfMemory, text).unproven(), evidence)
            .fact("Which one was not readable in the kernel's log.");
    }
    let verdict = if number == SYS {
        seccomp(evidence, private)
    } else if FAULTS.contains(&number) {
        let text = match private {
            true => format!("The program crashed: {name}."),
            false => format!("{name} ended it, usually a crash of the program itself."),
        };
        let verdict = Verdict::new(Cause::Fault, text);
        let verdict = match &evidence.fault {
            Some(line) => verdict.fact(format!("The kernel's log: {line}")),
            None => verdict,
        };
        let verdict = verdict.advise("It is a bug in the program, or a program for another processor model; run it under a debugger or take a core (--ulimit core=-1).");
        if private || evidence.fault.is_some() { verdict } else { verdict.unproven() }
    } else {
        outside(fixed, number, private)
    };
    let verdict = verdict.fact(match evidence.signals.is_empty() {
        true => "The engine sent it no signal.".to_owned(),
        false => format!("The engine did not send {name}."),
    });
    let verdict = sent_all(verdict, evidence);
    if exit.oom_killed { out_of_memory(verdict, evidence) } else { verdict }
}

fn seccomp(evidence: &Evidence, private: bool) -> Verdict {
    let verdict = match evidence.refused {
        Some(call) => {
            let called = match (call.architecture, u32::try_from(call.number)) {
                (own, Ok(number)) if own == OWN_AUDIT => havre_runtime::seccomp::calls()
                    .find(|(known, _)| *known == number)
                    .map(|(_, name)| name.to_owned()),
                _ => None,
            };
            let called = called.unwrap_or_else(|| {
                format!("number {} of architecture {:#x}", call.number, call.architecture)
            });
            Verdict::new(
                Cause::Seccomp,
                format!("Its seccomp filter ended it for the system call {called}."),
            )
            .fact("The kernel's audit record names the call.")
            .advise(format!("If the program should be allowed to, permit {called} in the profile (--security-opt seccomp=PROFILE.json)."))
        }
        None => Verdict::new(Cause::Seccomp, "A seccomp filter ended it (SIGSYS).")
            .fact("Which system call it was, the kernel did not tell: it writes no audit records here.")
            .advise("To find the call: strace -f the program, or change the profile's action to SCMP_ACT_LOG and read the audit log."),
    };
    match (private, evidence.refused) {
        (true, _) => verdict.fact("No process can send SIGSYS to the first process of a process namespace to end it: only the kernel does, for a filter."),
        (false, Some(_)) => verdict,
        (false, None) => verdict.unproven(),
    }
}

/// The audit number of our own architecture.
const OWN_AUDIT: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

fn outside(fixed: &Fixed, number: i32, private: bool) -> Verdict {
    let name = signal::name(number);
    let limited = fixed.spec.rlimits.iter().any(|limit| limit.kind.ends_with("CPU"));
    if private && number == KILL && !limited {
        return Verdict::new(
            Cause::Signal,
            "A process of the host outside the engine killed it with SIGKILL.",
        )
        .fact("No process inside a container can kill its first process with SIGKILL, and the kernel's OOM killer did not take it.")
        .advise("Look for who did on the host: kill, pkill or killall in scripts, a service manager, an OOM daemon. Next time: auditctl -a always,exit -S kill -F a1=9");
    }
    let who = match (private, limited && number == KILL) {
        (_, true) => "It may have been its limit of processor time (--ulimit cpu), or a process of the host.",
        (true, false) => "It came from the kernel or from a process of the host.",
        (false, false) => "It shares its processes with others: one of them, in it or on the host, sent it.",
    };
    Verdict::new(Cause::Signal, format!("{name} ended it, and the engine did not send it."))
        .unproven()
        .fact(who)
        .advise("The kernel does not tell a parent who sent a signal. Next time: auditctl -a always,exit -S kill, or strace the program.")
}

fn out_of_memory(verdict: Verdict, evidence: &Evidence) -> Verdict {
    let mut verdict = verdict;
    for victim in &evidence.victims {
        let who = if victim.pid == evidence.pid { "its first process" } else { "a child" };
        verdict = verdict.fact(format!(
            "The kernel killed {} (process {} of the host, {who}) for the limit of control group {}.",
            victim.name, victim.pid, victim.group
        ));
    }
    match evidence.limits.as_ref().and_then(|limits| limits.memory_limit) {
        Some(limit) => verdict.advise(format!(
            "Give it more than {} of memory (havre update --memory), or make the program use less.",
            size(limit)
        )),
        None => verdict.advise(
            "It has no memory limit of its own: one of the groups above it has, or the host ran out.",
        ),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{} {name}", bytes / unit))
}

/// The limits that were hit, whatever ended it.
fn limits(mut verdict: Verdict, evidence: &Evidence) -> Verdict {
    let Some(limits) = &evidence.limits else { return verdict };
    let group = &limits.group;
    if let Some(limit) = limits.memory_limit
        && limits.memory_hits + limits.oom_kills > 0
    {
        // The kernel does not count every hit of a limit of memory with swap.
        let hits = match limits.memory_hits {
            0 => String::new(),
            hits => format!(" was reached {hits} times"),
        };
        verdict = verdict.fact(format!(
            "Its memory limit of {}{hits}; the kernel killed {} of its processes for it (control group {group}).",
            size(limit),
            limits.oom_kills
        ));
    }
    if let (Some(limit), 1..) = (limits.pids_limit, limits.pids_refused) {
        verdict = verdict
            .fact(format!(
                "Its limit of {limit} processes and threads refused {} new ones (control group {group}).",
                limits.pids_refused
            ))
            .advise("Give it more with havre update --pids-limit, if it should have so many.");
    }
    if limits.cpu_throttled > 0 {
        verdict = verdict.fact(format!(
            "Its processor limit held it back in {} of {} periods, {} ms in all.",
            limits.cpu_throttled,
            limits.cpu_periods,
            limits.cpu_throttled_nanos / 1_000_000
        ));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use havre_base::Timestamp;
    use havre_runtime::shim::evidence::{Struck, Victim};

    use super::*;
    use crate::spec::ContainerSpec;

    fn fixed(pid: Sharing) -> Fixed {
        let spec = ContainerSpec { pid, command: Some(vec!["app".into()]), ..ContainerSpec::default() };
        let merged = crate::Merged::new(&spec, &havre_oci::image::ContainerConfig::default()).unwrap();
        Fixed {
            id: havre_base::ContainerId::random(),
            created: Timestamp::from_nanos(0),
            image: havre_oci::Digest::of_bytes(b""),
            spec,
            merged,
            hostname: String::new(),
            asked: serde_json::Value::Null,
        }
    }

    fn exit(ending: Ending, more: impl FnOnce(&mut Evidence)) -> Exit {
        let code = match ending {
            Ending::Signalled(number) => 128 + number,
            _ => 137,
        };
        let mut evidence = Evidence { ending, pid: 7, ..Evidence::default() };
        more(&mut evidence);
        Exit { code, oom_killed: false, at: Timestamp::from_nanos(1), evidence: Box::new(evidence) }
    }

    #[test]
    fn each_record_has_its_cause_and_only_proof_is_called_proven() {
        let by = |signal, by: &str| Sent { signal, at: Timestamp::from_nanos(0), by: by.into() };
        let victim = |pid| Victim { pid, name: "x".into(), group: "/g".into() };
        let killed = Struck { oom_kills: 1, memory_limit: Some(1 << 20), ..Struck::default() };
        let of = |pid, exit: Exit| {
            let verdict = verdict(&fixed(pid), &exit);
            (verdict.cause, verdict.proven)
        };
        let private = |exit| of(Sharing::Private, exit);
        let killed_by = |more: &dyn Fn(&mut Evidence)| exit(Ending::Signalled(9), more);
        assert_eq!(private(killed_by(&|_| {})), (Cause::Signal, true));
        assert_eq!(of(Sharing::Host, killed_by(&|_| {})), (Cause::Signal, false));
        assert_eq!(private(killed_by(&|e| e.signals.push(by(15, "stop")))), (Cause::Signal, true));
        assert_eq!(private(killed_by(&|e| e.signals.push(by(9, "kill")))), (Cause::Stopped, true));
        let taken = |pid: Option<i32>| {
            killed_by(&|e: &mut Evidence| {
                e.limits = Some(killed.clone());
                e.victims.extend(pid.map(victim));
            })
        };
        assert_eq!(private(taken(Some(7))), (Cause::OutOfMemory, true));
        // Another one was taken: whoever sent SIGKILL to the first process is on the host.
        assert_eq!(private(taken(Some(8))), (Cause::Signal, true));
        assert_eq!(private(taken(None)), (Cause::OutOfMemory, false));
        assert_eq!(private(exit(Ending::Signalled(SYS), |_| {})), (Cause::Seccomp, true));
        assert_eq!(of(Sharing::Host, exit(Ending::Signalled(SYS), |_| {})), (Cause::Seccomp, false));
        assert_eq!(private(exit(Ending::Signalled(11), |_| {})), (Cause::Fault, true));
        assert_eq!(of(Sharing::Host, exit(Ending::Signalled(11), |_| {})), (Cause::Fault, false));
        assert_eq!(private(exit(Ending::Exited, |_| {})), (Cause::Exited, true));
        // A signal that ends nothing by custom is no stop.
        assert_eq!(private(exit(Ending::Exited, |e| e.signals.push(by(1, "kill")))), (Cause::Exited, true));
        assert_eq!(private(exit(Ending::Exited, |e| e.signals.push(by(1, "stop")))), (Cause::Stopped, true));
        assert_eq!(private(exit(Ending::Unknown, |_| {})), (Cause::Unknown, false));
    }
}
