//! From a record to a running shim, and everything that a container leaves behind back to nothing.
//!
//! Invariants: what a container owns on the machine carries its id: the run folder, the folder in the
//! data root, the writable layer, the control group. Removal of each is idempotent; what is absent
//! counts as removed.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Instant;

use havre_base::{ContainerId, ContainerName, ExecId};
use havre_image::{Images, Writable};
use havre_net::fabric::{Connected, Fabric};
use havre_net::networks::Endpoint;
use havre_oci::runtime::{LinuxCapabilities, LinuxPids, LinuxResources, Process, Spec};
use havre_runtime::capabilities::{self, CapabilitySet};
use havre_runtime::cgroup::{Cgroup, Changed, Layout};
use havre_runtime::shim::protocol::{Donor, Exit, LogConfig, RootConfig, ShimConfig};
use havre_store::db::{Batch, Db};
use tokio::sync::oneshot;

use crate::EngineError;
use crate::container::{Attachment, log_path};
use crate::etc::{self, Surroundings};
use crate::events::Events;
use crate::filters::{self, Filters};
use crate::index::Index;
use crate::link::{self, CLIENTS_AT_START, Link};
use crate::links::{self, Linked};
use crate::nameservers::NameServers;
use crate::plan::{self, EtcFiles, Facts};
use crate::reaper::Reaper;
use crate::record::Fixed;
use crate::settings::{self, Settings};
use crate::sources::Sources;
use crate::spec::{ExecSpec, IpcMode, NetworkMode, SeccompSpec, Sharing};

/// A started shim.
pub(crate) struct Launched {
    pub(crate) link: Link,
    pub(crate) child: Child,
    pub(crate) timings: Vec<(String, u64)>,
    /// Clients for which the start had no room.
    pub(crate) more_clients: Vec<Attachment>,
}

/// What every container's task shares.
pub(crate) struct Launcher {
    pub(crate) settings: Settings,
    pub(crate) images: Arc<Images>,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) names: NameServers,
    pub(crate) events: Arc<Events>,
    pub(crate) index: Arc<Index>,
    db: Arc<Db>,
    filters: Filters,
    pub(crate) reaper: Reaper,
    pub(crate) checking: crate::fsck::Checking,
    facts: Facts,
    /// Processes and threads of a container that says nothing of them.
    most_processes: Option<LinuxPids>,
    pub(crate) sources: Sources,
    /// A sealed copy of our own program.
    binary: OwnedFd,
}

impl Launcher {
    pub(crate) fn new(
        settings: Settings,
        images: Arc<Images>,
        fabric: Arc<Fabric>,
        events: Arc<Events>,
        index: Arc<Index>,
        db: Arc<Db>,
    ) -> Result<Self, EngineError> {
        let own = std::fs::File::open("/proc/self/exe").map_err(EngineError::io("open", "/proc/self/exe"))?;
        let binary = havre_sys::memfd::sealed_copy(own).map_err(EngineError::io("copy", "/proc/self/exe"))?;
        let facts = Facts {
            time_namespace: Path::new("/proc/self/ns/time").exists(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            apparmor: Path::new("/sys/kernel/security/apparmor/profiles").exists(),
            apparmor_default: apparmor_profile_loaded("docker-default"),
            ..Facts::default()
        };
        for path in [settings.exec_root.join("containers"), settings.exec_root.join("rootfs")] {
            std::fs::create_dir_all(&path).map_err(EngineError::io("create", &path))?;
        }
        Ok(Self {
            names: NameServers::new(Arc::clone(fabric.networks()), settings.dns.clone()),
            settings,
            images,
            fabric,
            events,
            index,
            db,
            filters: Filters::default(),
            reaper: Reaper::default(),
            checking: crate::fsck::Checking::default(),
            facts,
            most_processes: most_processes(),
            sources: Sources::default(),
            binary,
        })
    }

    /// The folder of a container's sockets and state.
    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.settings.exec_root.join("containers").join(id.as_str())
    }

    /// The folder of a container's persistent files.
    pub(crate) fn data_dir(&self, id: &ContainerId) -> PathBuf {
        self.settings.data_root.join("containers").join(id.as_str())
    }

    /// The control group of a container.
    pub(crate) fn cgroup_path(&self, fixed: &Fixed) -> String {
        let parent = fixed.spec.cgroup_parent.as_deref().unwrap_or(&self.settings.cgroup_parent);
        format!("/{}/{}", parent.trim_matches('/'), fixed.id)
    }

    pub(crate) fn host_name(&self) -> &str {
        &self.facts.host_name
    }

    /// Starts a shim for the container, whose bind sources are ready. What this made is removed again by [`Launcher::tidy`].
    pub(crate) fn launch(
        &self,
        fixed: &Fixed,
        mut clients: Vec<Attachment>,
        connected: Option<Connected>,
    ) -> Result<Launched, EngineError> {
        let began = Instant::now();
        let id = &fixed.id;
        let data_dir = self.data_dir(id);
        std::fs::create_dir_all(&data_dir).map_err(EngineError::io("create", &data_dir))?;
        let name = self.index.find(id.as_str())?.view.borrow().now.name.clone();
        let links = links::of(self, fixed, &name)?;
        let files = self.etc_files(fixed, connected.as_ref(), &links)?;
        let runtime = self.settings.live.get().runtime(fixed.spec.runtime.as_deref())?.cloned();
        let init = fixed.spec.init.unwrap_or(self.settings.default_init);
        let donors = self.donors(fixed)?;
        let facts = Facts {
            pids: donors.iter().map(|donor| (donor.id.to_string(), donor.pid)).collect(),
            // Other runtimes know no time namespaces, or only new ones do.
            time_namespace: self.facts.time_namespace && self.settings.time_namespaces && runtime.is_none(),
            ..self.facts.clone()
        };
        let mut spec = plan::plan_spec(&fixed.spec, &fixed.merged, &fixed.hostname, &files, &facts)?;
        if let Some(process) = spec.process.as_mut().filter(|_| !links.is_empty()) {
            process.env = self.environment(fixed, &links, &name, fixed.spec.tty);
        }
        if let Some(resources) = spec.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
            resources.pids = resources.pids.take().or_else(|| self.most_processes.clone());
        }
        if let Some(process) = &mut spec.process {
            process.rlimits = settings::limits(&process.rlimits, &self.settings.rlimits);
        }
        let groups =
            crate::cdi::apply(&mut spec, &fixed.spec.device_requests, self.settings.cdi_folders.as_deref())?;
        let groups = groups.iter().map(u32::to_string);
        let filter = match &runtime {
            None => self.filter(fixed, false)?,
            Some(_) => {
                plan::check_external(&spec, init)?;
                self.external_seccomp(fixed, &mut spec)?;
                None
            }
        };
        let planned = began.elapsed();
        let writable = self.images.create_writable(id, &fixed.image)?;
        let layered = began.elapsed();
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let log = &fixed.spec.log;
        let attributes = crate::logged::attributes(fixed, name.as_str(), &log.attributes)?;
        let run_dir = self.run_dir(id);
        let config = ShimConfig {
            id: id.clone(),
            root: match writable {
                Writable::Overlay { upper, work, lowers } => RootConfig::Overlay {
                    lowers,
                    upper,
                    work,
                    volatile: fixed.spec.auto_remove,
                    target: self.settings.exec_root.join("rootfs"),
                },
                Writable::Tree(path) => RootConfig::Path(path),
            },
            user: fixed.merged.user.clone(),
            additional_groups: fixed.spec.group_add.iter().cloned().chain(groups).collect(),
            cgroup: self.cgroup_path(fixed),
            open_stdin: fixed.spec.open_stdin,
            stdin_once: fixed.spec.stdin_once,
            log: (!log.none).then_some(LogConfig {
                attributes,
                path: log_path(&data_dir, id),
                max_size: log.max_size,
                max_file: log.max_file,
                compress: log.compress,
            }),
            run_dir: run_dir.clone(),
            init,
            trace: fixed.merged.labels.contains_key(havre_image::HELLO_LABEL).then(|| {
                let layer = layered.saturating_sub(planned);
                vec![("plan".to_owned(), nanos(planned)), ("layer".to_owned(), nanos(layer))]
            }),
            console: fixed.spec.console,
            runtime,
            donors,
            spec,
        };
        remove_tree(&run_dir)?;
        std::fs::create_dir_all(&run_dir).map_err(EngineError::io("create", &run_dir))?;
        let more_clients = clients.split_off(clients.len().min(CLIENTS_AT_START));
        let started = {
            let filter = filter.as_ref().map(|fd| fd.as_fd());
            let network = connected.as_ref().map(|connected| connected.namespace.as_fd());
            link::spawn(self.binary.as_fd(), &config, filter, network, clients)
        };
        let (link, child) = match started {
            Ok(started) => started,
            Err(error) => {
                self.tidy(id);
                return Err(EngineError::io("start a supervisor in", run_dir)(error));
            }
        };
        let timings = vec![
            ("plan".to_owned(), nanos(planned)),
            ("layer".to_owned(), nanos(layered.saturating_sub(planned))),
            ("supervisor".to_owned(), nanos(began.elapsed().saturating_sub(layered))),
        ];
        Ok(Launched { link, child, timings, more_clients })
    }

    /// The files that are mounted below `/etc`: its own, or those of the container whose network it shares.
    fn etc_files(
        &self,
        fixed: &Fixed,
        connected: Option<&Connected>,
        links: &[Linked],
    ) -> Result<EtcFiles, EngineError> {
        if let NetworkMode::Container(owner) = &fixed.spec.network {
            let handle = self.index.find(owner.as_str())?;
            let owner = handle.view.borrow();
            return match &owner.fixed.spec.network {
                NetworkMode::Container(_) => Err(EngineError::Invalid(format!(
                    "cannot join network of container {}: it has joined that of another one",
                    owner.id()
                ))),
                _ => Ok(etc::files(&self.data_dir(owner.id()))),
            };
        }
        let gateways = match etc::wants_gateway(&fixed.spec) {
            true if self.settings.host_gateways.is_empty() => self.fabric.host_gateways()?,
            true => self.settings.host_gateways.clone(),
            false => Vec::new(),
        };
        let around = Surroundings {
            dns: self.settings.dns.of(&fixed.spec),
            places: connected.map_or(&[][..], |connected| &connected.endpoints),
            served: self.names.serves(&fixed.id),
            gateways: &gateways,
            links,
        };
        etc::write(&self.data_dir(&fixed.id), fixed, &around)
    }

    /// The environment of a process of a container with links.
    fn environment(&self, fixed: &Fixed, links: &[Linked], name: &ContainerName, tty: bool) -> Vec<String> {
        let linked = links.iter().flat_map(|link| link.variables(name)).collect();
        fixed.merged.environment_with(&fixed.hostname, tty, linked)
    }

    /// A running container is in other networks than before: it may need a name server now. Returns sockets that its
    /// supervisor shall keep ([`Ask::Keep`]). To be called within the runtime; blocks for a moment.
    ///
    /// [`Ask::Keep`]: havre_runtime::shim::protocol::Ask::Keep
    pub(crate) fn names_changed(
        &self,
        fixed: &Fixed,
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<OwnedFd>, EngineError> {
        Ok(self.names.changed(fixed, namespace)?)
    }

    /// A container has ended, or could not be started: takes back its places and its name server.
    pub(crate) fn disconnected(&self, id: &ContainerId) {
        self.names.end(id);
        self.fabric.disconnect(id);
    }

    /// The same for its files; after [`Launcher::names_changed`].
    pub(crate) fn etc_changed(&self, fixed: &Fixed, before: &[Endpoint], after: &[Endpoint]) {
        let dns = self.settings.dns.of(&fixed.spec);
        let served = self.names.serves(&fixed.id);
        etc::changed(&self.data_dir(&fixed.id), fixed, &dns, [before, after], served);
    }

    fn filter(&self, fixed: &Fixed, privileged: bool) -> Result<Option<OwnedFd>, EngineError> {
        let security = &fixed.spec.security;
        if security.privileged || privileged {
            return Ok(None);
        }
        let caps = capabilities(fixed, false)?;
        self.filters.get(self.seccomp(fixed), caps)
    }

    /// The profile of a container that is not privileged.
    fn seccomp<'a>(&'a self, fixed: &'a Fixed) -> &'a SeccompSpec {
        match &fixed.spec.security.seccomp {
            SeccompSpec::Default => &self.settings.seccomp,
            own => own,
        }
    }

    /// Other runtimes compile the filter themselves.
    fn external_seccomp(&self, fixed: &Fixed, spec: &mut Spec) -> Result<(), EngineError> {
        if !fixed.spec.security.privileged
            && let Some(linux) = &mut spec.linux
        {
            linux.seccomp = filters::profile(self.seccomp(fixed), capabilities(fixed, false)?)?;
        }
        Ok(())
    }

    /// The running containers whose namespaces are joined.
    fn donors(&self, fixed: &Fixed) -> Result<Vec<Donor>, EngineError> {
        let spec = &fixed.spec;
        let mut donors: Vec<Donor> = Vec::new();
        let network = match &spec.network {
            NetworkMode::Container(id) => Some(id),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Networks => None,
        };
        let pid = match &spec.pid {
            Sharing::Container(id) => Some(id),
            Sharing::Private | Sharing::Host => None,
        };
        let ipc = match &spec.ipc {
            IpcMode::Container(id) => Some(id),
            IpcMode::Private | IpcMode::Shareable | IpcMode::None | IpcMode::Host => None,
        };
        for id in [network, pid, ipc].into_iter().flatten() {
            let handle = self.index.find(id.as_str())?;
            let view = handle.view.borrow();
            if let Some(pid) = view.now.state.pid()
                && !donors.iter().any(|donor| donor.id == view.fixed.id)
            {
                donors.push(Donor { id: id.clone(), pid, cgroup: self.cgroup_path(&view.fixed) });
            }
        }
        Ok(donors)
    }

    /// The process of an exec, and its filter.
    pub(crate) fn plan_exec(
        &self,
        fixed: &Fixed,
        exec: &ExecSpec,
    ) -> Result<(Process, Option<OwnedFd>), EngineError> {
        let caps = capabilities(fixed, exec.privileged)?.names();
        let name = self.index.find(fixed.id.as_str())?.view.borrow().now.name.clone();
        // One that it is linked to may have ended meanwhile.
        let links = links::of(self, fixed, &name).unwrap_or_default();
        let mut env = self.environment(fixed, &links, &name, exec.tty);
        for entry in &exec.env {
            crate::merged::set_variable(&mut env, entry);
        }
        let own = |text: &str, container: &str| {
            if text.is_empty() { container.to_owned() } else { text.to_owned() }
        };
        let cwd = own(&exec.working_dir, &own(&fixed.merged.working_dir, "/"));
        let process = Process {
            terminal: exec.tty,
            cwd,
            args: exec.command.clone(),
            env,
            capabilities: Some(LinuxCapabilities {
                bounding: caps.clone(),
                effective: caps.clone(),
                permitted: caps,
                ..LinuxCapabilities::default()
            }),
            rlimits: settings::limits(&fixed.spec.rlimits, &self.settings.rlimits),
            no_new_privileges: fixed.spec.security.no_new_privileges,
            selinux_label: plan::selinux(&fixed.spec)?.map(|labels| labels.process),
            apparmor_profile: plan::apparmor(&fixed.spec, &self.facts)?,
            oom_score_adj: Some(fixed.spec.oom_score_adj),
            ..Process::default()
        };
        let filter = match fixed.spec.runtime {
            None => self.filter(fixed, exec.privileged)?,
            // The runtime knows the container's, and puts it on every process.
            Some(_) => None,
        };
        Ok((process, filter))
    }

    /// Changes the limits of a running container, all or none.
    pub(crate) fn limit(
        &self,
        fixed: &Fixed,
        resources: &LinuxResources,
    ) -> Result<(Cgroup, Changed), EngineError> {
        let changed = Cgroup::open(&self.cgroup_path(fixed)).and_then(|cgroup| {
            let changed = cgroup.change(resources)?;
            Ok((cgroup, changed))
        });
        changed.map_err(|source| EngineError::Update { id: fixed.id.clone(), source })
    }

    pub(crate) fn freeze(&self, fixed: &Fixed, frozen: bool) -> Result<(), EngineError> {
        let path = self.cgroup_path(fixed);
        let done =
            Cgroup::open(&path).and_then(|cgroup| if frozen { cgroup.freeze() } else { cgroup.thaw() });
        done.map_err(|error| EngineError::State(havre_base::chain(&error)))
    }

    /// What the processes of a container wait for that cannot be interrupted, in words.
    pub(crate) fn uninterruptible(&self, fixed: &Fixed) -> Vec<String> {
        let group = Cgroup::open(&self.cgroup_path(fixed));
        let processes = group.map(|group| group.processes()).unwrap_or_default();
        processes.into_iter().filter_map(crate::ps::uninterruptible).collect()
    }

    /// The exit that a shim recorded before it went.
    pub(crate) fn recorded_exit(&self, id: &ContainerId) -> Option<Exit> {
        havre_runtime::shim::read_state(&self.run_dir(id)).ok().flatten().and_then(|status| status.exit)
    }

    /// Ends what a killed shim left running.
    pub(crate) fn destroy(&self, fixed: &Fixed) {
        remove_cgroup(&self.cgroup_path(fixed));
    }

    /// Removes what a run leaves behind.
    pub(crate) fn tidy(&self, id: &ContainerId) {
        if let Err(error) = remove_tree(&self.run_dir(id)) {
            tracing::error!(container = %id, error = havre_base::chain(&error), "cannot tidy up");
        }
    }

    /// Removes everything a container owns on disk.
    pub(crate) fn remove(&self, id: &ContainerId) {
        self.tidy(id);
        if let Err(error) = self.images.remove_writable(id) {
            tracing::error!(container = %id, error = havre_base::chain(&error), "cannot remove the writable layer");
        }
        if let Err(error) = remove_tree(&self.data_dir(id)) {
            tracing::error!(container = %id, error = havre_base::chain(&error), "cannot remove the data folder");
        }
    }

    pub(crate) fn forget(&self, id: &ContainerId, name: &ContainerName) {
        self.index.remove(id, name);
    }

    pub(crate) fn remember_exec(&self, exec: &ExecId, owner: &ContainerId) {
        self.index.insert_exec(exec, owner);
    }

    pub(crate) fn forget_exec(&self, exec: &ExecId) {
        self.index.remove_exec(exec);
    }

    /// Makes a change durable.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let (done, wait) = oneshot::channel();
        self.db.submit(batch, Box::new(move |result| done.send(result).map(drop).unwrap_or(())));
        wait.await.map_err(|_| EngineError::ShuttingDown)?.map_err(EngineError::Store)
    }

    /// Makes a change durable behind, in order with all others.
    pub(crate) fn enqueue(&self, batch: Batch) {
        self.db.enqueue(batch);
    }
}

/// Half of what the machine has, so that one container that only ever forks leaves room for all others. None
/// where the kernel cannot count.
fn most_processes() -> Option<LinuxPids> {
    if !Layout::current().is_ok_and(Layout::counts_processes) {
        return None;
    }
    let number = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let all = number("pid_max")?.min(number("threads-max")?);
    Some(LinuxPids { limit: (all / 2).max(1) })
}

fn capabilities(fixed: &Fixed, privileged: bool) -> Result<CapabilitySet, EngineError> {
    let security = &fixed.spec.security;
    capabilities::docker_set(&security.cap_add, &security.cap_drop, security.privileged || privileged)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

/// Ends everything in a control group and removes it.
pub(crate) fn remove_cgroup(path: &str) {
    let removed = Cgroup::open(path).and_then(|cgroup| {
        cgroup.kill()?;
        cgroup.remove()
    });
    if let Err(error) = removed {
        tracing::error!(path, error = havre_base::chain(&error), "cannot remove a control group");
    }
}

fn apparmor_profile_loaded(name: &str) -> bool {
    std::fs::read_to_string("/sys/kernel/security/apparmor/profiles")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().next() == Some(name)))
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), EngineError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
