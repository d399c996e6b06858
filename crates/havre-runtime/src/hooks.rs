//! Programs that run at points of a container's life.
//!
//! Invariants: a hook gets the container's state as JSON on its standard input and an environment of its own;
//! one that outlives its time is killed; one that fails stops whatever it was called from.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use havre_oci::runtime::{Hook, Hooks, State};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{RuntimeError, Step};

/// Refuses hooks that could never run.
pub(crate) fn check(hooks: &Hooks) -> Result<(), RuntimeError> {
    let all = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    for hook in all.into_iter().flatten() {
        if !hook.path.starts_with('/') {
            return Err(RuntimeError::invalid("hooks", format!("path {:?} is not absolute", hook.path)));
        }
        if hook.timeout.is_some_and(|timeout| timeout <= 0) {
            return Err(RuntimeError::invalid("hooks", format!("timeout of {} is not positive", hook.path)));
        }
    }
    Ok(())
}

/// Runs `hooks` one after another; `point` names them in errors.
pub fn run(point: &str, hooks: &[Hook], state: &State) -> Result<(), RuntimeError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(std::io::Error::from).step("write the state for hooks")?;
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        run_one(hook, &state)
            .map_err(|reason| RuntimeError::Hook(format!("{point} hook #{index} ({}): {reason}", hook.path)))
    })
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // Hooks must not write into whatever our output is: a runtime's caller parses it.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(text)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its input is none the worse for it.
        let _unread = stdin.write_all(state);
    }
    let timeout = hook.timeout.map(|seconds| Timespec { tv_sec: seconds, tv_nsec: 0 });
    let mut waited = [PollFd::new(&pidfd, PollFlags::IN)];
    let ended = loop {
        match rustix::event::poll(&mut waited, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map_err(|error| error.to_string())?,
        }
    };
    if ended == 0 {
        child.kill().map_err(text)?;
        child.wait().map_err(text)?;
        return Err(format!("timed out after {} s", hook.timeout.unwrap_or_default()));
    }
    let status = child.wait().map_err(text)?;
    match (status.success(), status.code(), status.signal()) {
        (true, ..) => Ok(()),
        (_, Some(code), _) => Err(format!("exit status {code}")),
        (_, _, Some(signal)) => Err(format!("killed by signal {signal}")),
        _ => Err("ended in an unknown way".into()),
    }
}
