//! The only recovery code: what a daemon does at its start, after whatever happened before.
//!
//! Invariants: it is safe to run at any time and twice; when it is done, every container in the
//! database has a task that tells the truth, and nothing on the machine belongs to a container that the
//! database does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use havre_base::{Clock as _, ContainerId, SystemClock, Timestamp};
use havre_runtime::cgroup::Cgroup;
use havre_runtime::shim::evidence::{Ending, Evidence};
use havre_runtime::shim::protocol::{Answer, Ask, Exit, Packet, Status};
use havre_store::db::{Batch, Db};

use crate::EngineError;
use crate::container::{Command, Origin};
use crate::containers::Containers;
use crate::etc::wants_gateway;
use crate::launcher::{Launcher, remove_cgroup, remove_tree};
use crate::link::{self, Found, Link};
use crate::record::{CONTAINERS, Changing, Fixed, STATES};
use crate::restart;
use crate::spec::NetworkMode;
use crate::state::{Change, State};

/// The exit code of a container whose machine went down under it.
const MACHINE_LOST: i32 = 255;

/// A supervisor that takes longer than this is stopped, or its machine stands still.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Brings every container of the database to life, then removes what belongs to none.
pub(crate) async fn recover(
    launcher: &Arc<Launcher>,
    containers: &Containers,
    db: &Db,
) -> Result<(), EngineError> {
    let mut states: BTreeMap<String, Changing> = db.load(STATES)?.into_iter().collect();
    let mut known = BTreeSet::new();
    let mut to_start = Vec::new();
    for (key, fixed) in db.load::<Fixed>(CONTAINERS)? {
        let Some(now) = states.remove(&key) else {
            tracing::error!(container = key, "a container without a state is forgotten");
            launcher.enqueue(Batch::new().delete(CONTAINERS, &key));
            continue;
        };
        let id = fixed.id.clone();
        known.insert(id.clone());
        match recover_one(launcher, containers, fixed, now).await {
            Ok(true) => to_start.push(id),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(container = %id, error = havre_base::chain(&error), "cannot recover a container");
            }
        }
    }
    sweep(launcher, &known);
    let there = Arc::clone(launcher);
    let restore = move || {
        let runs = |id: &ContainerId| {
            there.index.find(id.as_str()).is_ok_and(|handle| handle.view.borrow().now.state.is_alive())
        };
        there.fabric.restore(&runs);
        // Before anybody else can ask for something.
        for handle in there.index.handles() {
            if handle.view.borrow().now.state.is_alive()
                && handle.inbox.try_send(Command::MendNetworks).is_err()
            {
                tracing::error!("a container's networks are not looked at");
            }
        }
    };
    tokio::task::spawn_blocking(restore).await.map_err(|_| EngineError::ShuttingDown)?;
    // Not before: the places of those that do not run yet are taken back.
    for id in to_start {
        let inbox = launcher.index.find(id.as_str())?.inbox;
        inbox.send(Command::Resume).await.unwrap_or(());
    }
    Ok(())
}

/// Returns whether the container is to be started.
async fn recover_one(
    launcher: &Arc<Launcher>,
    containers: &Containers,
    fixed: Fixed,
    mut now: Changing,
) -> Result<bool, EngineError> {
    let fixed = Arc::new(fixed);
    let run_dir = launcher.run_dir(&fixed.id);
    let was_alive = now.state.is_alive();
    let found = if run_dir.is_dir() {
        link::find(&run_dir).await.map_err(EngineError::io("look for a supervisor in", &run_dir))?
    } else {
        Found::Dead
    };
    let (mut origin, mut exit) = (Origin::Resting, None);
    match found {
        Found::Alive(mut link) => {
            let status = match tokio::time::timeout(ANSWERS_WITHIN, ask_status(&mut link)).await {
                Ok(answered) => answered.map_err(EngineError::io("ask the supervisor in", &run_dir))?,
                Err(_) => {
                    tracing::error!(container = %fixed.id, "the supervisor does not answer; what it recorded last counts");
                    let recorded = havre_runtime::shim::read_state(&run_dir).ok().flatten();
                    recorded.ok_or_else(|| EngineError::Shim(fixed.id.clone()))?
                }
            };
            exit.clone_from(&status.exit);
            note_running(&mut now, &status);
            if exit.is_none() {
                take_over_names(launcher, &fixed, status.pid, &mut link).await;
                origin = Origin::Adopted(link);
            }
        }
        Found::Dead => {
            let recorded = havre_runtime::shim::read_state(&run_dir).ok().flatten();
            if let Some(status) = recorded {
                note_running(&mut now, &status);
                exit = status.exit;
            }
            if now.state.is_alive() && exit.is_none() {
                // The supervisor or the machine was killed.
                exit = Some(lost(now.started_at));
            }
            launcher.destroy(&fixed);
        }
    }
    if let Some(exit) = exit {
        now.finished_at = Some(exit.at);
        now.last_exit = Some(exit.clone());
        if now.state.is_alive() {
            now.state = apply(now.state, Change::Died(exit));
        }
    }
    let alive = matches!(origin, Origin::Adopted(_));
    let ended = !alive && (was_alive || now.state.exit().is_some());
    if !alive {
        if matches!(now.state, State::Restarting(_)) {
            now.state = apply(now.state, Change::GaveUp);
        }
        launcher.tidy(&fixed.id);
        if (ended && fixed.spec.auto_remove) || now.state == State::Removing {
            tracing::info!(container = %fixed.id, "removing a container that asked to be removed");
            let id = fixed.id.as_str();
            launcher.enqueue(Batch::new().delete(CONTAINERS, id).delete(STATES, id));
            launcher.remove(&fixed.id);
            return Ok(false);
        }
    }
    let started_before = now.started_at.is_some();
    let start_now = !alive
        && started_before
        && restart::at_daemon_start(fixed.spec.restart, now.stopped_by_user, was_alive);
    launcher.enqueue(Batch::new().put(STATES, fixed.id.as_str(), &now));
    containers.adopt(fixed, now, origin)?;
    Ok(start_now)
}

/// The end of a container whose supervisor did not live to tell: it was killed, or the machine went down.
fn lost(started: Option<Timestamp>) -> Exit {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    let booted = booted.map(|seconds| Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000)));
    let ending = match (booted, started) {
        (Some(booted), Some(started)) if started < booted => Ending::MachineDown,
        _ => Ending::SupervisorLost,
    };
    Exit {
        code: MACHINE_LOST,
        oom_killed: false,
        at: SystemClock.now(),
        evidence: Box::new(Evidence::unseen(ending)),
    }
}

/// The record may be older than the run that the shim knows.
fn note_running(now: &mut Changing, status: &Status) {
    if now.started_at.is_none_or(|at| at <= status.started_at) || now.state.is_alive() {
        let paused = matches!(now.state, State::Paused { .. });
        now.started_at = Some(status.started_at);
        now.oom_killed = status.oom_kills > 0;
        now.start_error = None;
        let (pid, since) = (status.pid, status.started_at);
        now.state = if paused { State::Paused { pid, since } } else { State::Running { pid, since } };
    }
}

fn apply(state: State, change: Change) -> State {
    state.clone().apply(change).unwrap_or(state)
}

async fn ask_status(link: &mut Link) -> std::io::Result<Status> {
    let seq = link.send(Ask::Status, &[]).await?;
    loop {
        match link.recv().await? {
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Some(Packet::Reply(reply)) if reply.seq == seq => {
                if let Answer::Status(status) = reply.answer {
                    return Ok(*status);
                }
                return Err(std::io::Error::other("the supervisor answered something else"));
            }
            Some(Packet::Reply(_) | Packet::Event(_)) => {}
        }
    }
}

/// Goes on answering a running container that asks for names. One that cannot be answered goes on without.
async fn take_over_names(launcher: &Arc<Launcher>, fixed: &Arc<Fixed>, pid: i32, link: &mut Link) {
    if fixed.spec.network != NetworkMode::Networks {
        return;
    }
    if wants_gateway(&fixed.spec) && launcher.settings.host_gateways.is_empty() {
        launcher.fabric.use_default();
    }
    let taken = async {
        let kept = tokio::time::timeout(ANSWERS_WITHIN, ask_kept(link)).await;
        let kept = kept.map_err(std::io::Error::other).and_then(|kept| kept).unwrap_or_default();
        let (there, fixed) = (Arc::clone(launcher), Arc::clone(fixed));
        let adopt = move || there.names.adopt(&fixed, pid, kept);
        let keep = tokio::task::spawn_blocking(adopt).await.map_err(|_| EngineError::ShuttingDown)??;
        if !keep.is_empty() {
            let keep: Vec<_> = keep.iter().map(OwnedFd::as_fd).collect();
            // Its answer is one that nobody waits for.
            link.send(Ask::Keep, &keep).await.map_err(EngineError::io("hand over", "name server sockets"))?;
        }
        Ok::<_, EngineError>(())
    };
    if let Err(error) = taken.await {
        tracing::error!(container = %fixed.id, error = havre_base::chain(&error), "no names for a running container");
    }
}

async fn ask_kept(link: &mut Link) -> std::io::Result<Vec<OwnedFd>> {
    let seq = link.send(Ask::Kept, &[]).await?;
    loop {
        match link.recv_with().await? {
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Some((Packet::Reply(reply), fds)) if reply.seq == seq => return Ok(fds),
            Some(_) => {}
        }
    }
}

/// Removes run folders, data folders, writable layers and control groups without a container.
fn sweep(launcher: &Launcher, known: &BTreeSet<ContainerId>) {
    let parent = &launcher.settings.cgroup_parent;
    for name in Cgroup::children_under(parent) {
        if ContainerId::parse(&name).is_ok_and(|id| !known.contains(&id)) {
            let path = format!("{}/{name}", parent.trim_end_matches('/'));
            tracing::info!(path, "removing a control group without a container");
            remove_cgroup(&path);
        }
    }
    for root in [&launcher.settings.exec_root, &launcher.settings.data_root] {
        let Ok(entries) = std::fs::read_dir(root.join("containers")) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owned = name
                .to_str()
                .and_then(|name| ContainerId::parse(name).ok())
                .is_some_and(|id| known.contains(&id));
            if !owned && let Err(error) = remove_tree(&entry.path()) {
                tracing::error!(
                    error = havre_base::chain(&error),
                    "cannot remove a folder without a container"
                );
            }
        }
    }
    if let Err(error) = launcher.images.sweep(&|id| known.contains(id)) {
        tracing::error!(error = havre_base::chain(&error), "cannot remove what no image or container owns");
    }
}
