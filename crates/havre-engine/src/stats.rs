//! What containers use: one sample, or one every second while somebody watches.
//!
//! Invariants: however many watch a container, one task reads; it ends with its last watcher. A sample of a
//! container that does not run is empty.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use havre_base::{Clock as _, ContainerId, SystemClock, Timestamp};
use havre_runtime::cgroup::{Cgroup, Usage, machine_memory};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::launcher::Launcher;
use crate::record::View;
use crate::spec::NetworkMode;

/// The time between two samples of a watched container, as Docker has it.
const PERIOD: Duration = Duration::from_secs(1);

/// What a container used up to one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was read.
    pub at: Timestamp,
    /// Processor time of the whole machine until then, idle time included, in nanoseconds.
    pub system: u64,
    /// Processors that are on.
    pub processors: u32,
    /// What the control group counts.
    pub usage: Usage,
    /// Interfaces of the container; none when they are the host's.
    pub networks: BTreeMap<String, Traffic>,
}

/// What went through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: bytes, packets, errors, dropped.
    pub sent: [u64; 4],
}

/// A sample, or that the container did not run.
pub type Reading = Option<Arc<Sample>>;

/// The samplers that are at work.
#[derive(Debug, Default)]
pub(crate) struct Samplers {
    /// Protects the map; held for a look-up only.
    working: Mutex<HashMap<ContainerId, Weak<watch::Sender<Option<Reading>>>>>,
}

impl Samplers {
    /// Watches a container. When nobody else does, the second value is for a new task, to be spawned.
    pub(crate) fn watch(
        self: &Arc<Self>,
        launcher: &Arc<Launcher>,
        view: watch::Receiver<Arc<View>>,
    ) -> (watch::Receiver<Option<Reading>>, Option<impl Future<Output = ()> + Send + use<>>) {
        let id = view.borrow().id().clone();
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = working.get(&id).and_then(Weak::upgrade) {
            return (sender.subscribe(), None);
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        working.insert(id.clone(), Arc::downgrade(&sender));
        (receiver, Some(sample_always(Arc::clone(self), Arc::clone(launcher), id, view, sender)))
    }

    /// Ends a sampler that nobody watches; from then on there is none.
    fn ends(&self, id: &ContainerId, sender: &watch::Sender<Option<Reading>>, gone: bool) -> bool {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = gone || sender.is_closed();
        if ends {
            working.remove(id);
        }
        ends
    }
}

async fn sample_always(
    samplers: Arc<Samplers>,
    launcher: Arc<Launcher>,
    id: ContainerId,
    mut view: watch::Receiver<Arc<View>>,
    sender: Arc<watch::Sender<Option<Reading>>>,
) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = sender.closed() => {}
            // Only the removal matters, and a change of the run is seen at the next tick.
            gone = view.wait_for(|view| view.removed) => {
                drop(gone);
                samplers.ends(&id, &sender, true);
                return;
            }
        }
        if samplers.ends(&id, &sender, false) {
            return;
        }
        let now = Arc::clone(&view.borrow());
        let reading = take(&launcher, now).await;
        sender.send_replace(Some(reading));
    }
}

/// Reads once. The files are the kernel's own, but some take it a while.
pub(crate) async fn take(launcher: &Arc<Launcher>, view: Arc<View>) -> Reading {
    let launcher = Arc::clone(launcher);
    let read = tokio::task::spawn_blocking(move || read(&launcher, &view));
    read.await.ok().flatten().map(Arc::new)
}

fn read(launcher: &Launcher, view: &View) -> Option<Sample> {
    let pid = view.now.state.pid()?;
    let mut usage = Cgroup::open(&launcher.cgroup_path(&view.fixed)).ok()?.usage().ok()?;
    let processors = processors();
    // The sum that `/proc/stat` has, but exact: it counts in hundredths of a second, and a short window
    // between two samples would be measured wrong.
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanos =
        |seconds: i64, rest: i64| u64::try_from(seconds.saturating_mul(1_000_000_000).saturating_add(rest));
    let up = nanos(up.tv_sec, up.tv_nsec).unwrap_or(0);
    usage.memory.limit = usage.memory.limit.min(machine_memory());
    let networks = match view.fixed.spec.network {
        NetworkMode::Host => BTreeMap::new(),
        NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Networks => {
            traffic(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
        }
    };
    Some(Sample {
        at: SystemClock.now(),
        system: up.saturating_mul(u64::from(processors)),
        processors,
        usage,
        networks,
    })
}

/// How many processors are on: `0-1,4`.
fn processors() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    text.trim().split(',').filter_map(count).sum::<u32>().max(1)
}

/// Reads `/proc/PID/net/dev`, without the loopback interface.
fn traffic(text: &str) -> BTreeMap<String, Traffic> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, figures) = line.split_once(':')?;
            let figures: Vec<u64> = figures.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let four = |at: usize| figures.get(at..at + 4)?.try_into().ok();
            Some((name.trim().to_owned(), Traffic { received: four(0)?, sent: four(8)? }))
        })
        .filter(|(name, _)| name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_but_for_the_loopback() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n\
            lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let read = traffic(text);
        assert_eq!(read.len(), 1);
        assert_eq!(read["eth0"], Traffic { received: [1, 2, 3, 4], sent: [5, 6, 7, 8] });
        assert!(processors() >= 1);
    }
}
