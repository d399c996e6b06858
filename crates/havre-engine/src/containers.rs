//! The containers service: what the server calls.
//!
//! Invariants: an operation on one container is a command to its task; lists and inspections read
//! snapshots and wait for nobody; the service joins every task it started.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use havre_base::{Clock as _, ContainerId, ContainerName, ExecId, SystemClock};
use havre_image::{Image, ImageError};
use havre_net::networks::EndpointSpec;
use havre_runtime::shim::protocol::{AttachSpec, Target};
use havre_store::db::Batch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::container::{Attachment, Command, Container, ExecView, Origin, Reply, log_path};
use crate::index::{Handle, Index};
use crate::launcher::Launcher;
use crate::merged::Merged;
use crate::names;
use crate::record::{CONTAINERS, Changing, Fixed, STATES, View};
use crate::spec::{ContainerSpec, ExecSpec, IpcMode, NetworkMode, Sharing};
use crate::state::State;
use crate::stats::Samplers;
use crate::{EngineError, OWN_RUNTIME};

/// Commands that may wait for one container's task.
const INBOX: usize = 64;

/// When [`Containers::wait`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// As soon as it does not run, perhaps at once.
    NotRunning,
    /// When the next run ends.
    NextExit,
    /// When it is removed.
    Removed,
}

/// A request to create a container.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// The wanted name; one is made up when absent.
    pub name: Option<ContainerName>,
    /// What to run.
    pub spec: ContainerSpec,
    /// Given back by inspection; the engine never looks inside.
    pub asked: serde_json::Value,
}

/// All containers of the engine.
pub struct Containers {
    pub(crate) launcher: Arc<Launcher>,
    index: Arc<Index>,
    pub(crate) samplers: Arc<Samplers>,
    /// Protects the set of tasks.
    pub(crate) tasks: Mutex<JoinSet<()>>,
}

impl Containers {
    pub(crate) fn new(launcher: Arc<Launcher>) -> Self {
        let index = Arc::clone(&launcher.index);
        let mut tasks = JoinSet::new();
        let reaping = Arc::clone(&launcher);
        tasks.spawn(async move { reaping.reaper.run().await });
        Self { launcher, index, samplers: Arc::default(), tasks: Mutex::new(tasks) }
    }

    /// Creates a container. Nothing touches the kernel; after the answer it survives power loss.
    pub async fn create(&self, request: CreateRequest) -> Result<ContainerId, EngineError> {
        let CreateRequest { name, mut spec, asked } = request;
        let image = self.image(&spec.image).await?;
        let merged = Merged::new(&spec, &image.config.config)?;
        self.launcher.sources.look(&spec.mounts, crate::sources::Look::Exist).await?;
        if self.launcher.settings.no_new_privileges {
            spec.security.no_new_privileges = true;
        }
        let id = ContainerId::random();
        let hostname = self.host_name(&spec, &id)?;
        let fixed = Arc::new(Fixed {
            id: id.clone(),
            created: SystemClock.now(),
            image: image.id.clone(),
            spec,
            merged,
            hostname,
            asked,
        });
        self.check(&fixed)?;
        let name = match name {
            Some(name) => name,
            None => names::pick(|name| self.index.user_of(name).is_none()),
        };
        let now = Changing {
            name: name.clone(),
            state: State::Created,
            started_at: None,
            oom_killed: false,
            finished_at: None,
            restart_count: 0,
            stopped_by_user: false,
            start_error: None,
            start_failed_at: None,
            last_exit: None,
        };
        let batch = Batch::new().put(CONTAINERS, id.as_str(), &*fixed).put(STATES, id.as_str(), &now);
        // The name is taken before the record is written, so that two creations cannot both succeed.
        self.adopt(fixed, now, Origin::Resting)?;
        if let Err(error) = self.launcher.commit(batch).await {
            self.index.remove(&id, &name);
            return Err(error);
        }
        let mut attributes = std::collections::BTreeMap::from([("name".to_owned(), name.to_string())]);
        if let Ok(view) = self.view(id.as_str()) {
            attributes.insert("image".into(), view.fixed.spec.image.clone());
            attributes.extend(view.fixed.merged.labels.clone());
        }
        self.launcher.events.publish("container", "create", id.as_str(), attributes);
        Ok(id)
    }

    /// The image to run. The embedded one is made when it is first asked for.
    async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let images = Arc::clone(&self.launcher.images);
        match images.resolve(name) {
            Err(ImageError::NotFound(_)) if matches!(name, "hello" | "hello:latest") => {
                let made =
                    tokio::task::spawn_blocking(move || images.ensure_hello(Path::new("/proc/self/exe")));
                made.await.map_err(|_| EngineError::ShuttingDown)?.map_err(EngineError::Image)
            }
            found => Ok(found?),
        }
    }

    /// Refuses at creation what could only fail at start.
    fn check(&self, fixed: &Fixed) -> Result<(), EngineError> {
        crate::plan::capability_names(&fixed.spec)?;
        crate::plan::plan_resources(&fixed.spec.resources)?;
        if fixed.spec.auto_remove && fixed.spec.restart != crate::spec::RestartPolicy::No {
            return Err(EngineError::Invalid(
                "can't create 'AutoRemove' container with restart policy".into(),
            ));
        }
        Ok(())
    }

    fn host_name(&self, spec: &ContainerSpec, id: &ContainerId) -> Result<String, EngineError> {
        if !spec.hostname.is_empty() {
            return Ok(spec.hostname.clone());
        }
        if let NetworkMode::Container(other) = &spec.network {
            return Ok(self.view(other.as_str())?.fixed.hostname.clone());
        }
        if spec.uts_host || spec.network == NetworkMode::Host {
            return Ok(self.launcher.host_name().to_owned());
        }
        Ok(id.short().to_owned())
    }

    /// Starts the task of a container.
    pub(crate) fn adopt(&self, fixed: Arc<Fixed>, now: Changing, origin: Origin) -> Result<(), EngineError> {
        let (sender, inbox) = mpsc::channel(INBOX);
        let (id, name) = (fixed.id.clone(), now.name.clone());
        let (container, view) = Container::new(Arc::clone(&self.launcher), fixed, now, inbox, origin);
        self.index.insert(&id, &name, Handle { inbox: sender, view })?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(container.run());
        Ok(())
    }

    /// A snapshot of one container, by name, id, or the beginning of an id.
    pub fn view(&self, text: &str) -> Result<Arc<View>, EngineError> {
        Ok(Arc::clone(&self.index.find(text)?.view.borrow()))
    }

    /// Snapshots of all containers, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<View>> {
        let mut views = self.index.views();
        views.sort_by(|a, b| b.fixed.created.cmp(&a.fixed.created).then_with(|| a.id().cmp(b.id())));
        views
    }

    async fn ask<T>(
        &self,
        handle: Handle,
        text: &str,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::NoContainer(text.to_owned());
        handle.inbox.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(crate) async fn ask_named<T>(
        &self,
        text: &str,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, EngineError> {
        self.ask(self.index.find(text)?, text, command).await
    }

    /// Starts a container.
    pub async fn start(&self, text: &str) -> Result<(), EngineError> {
        self.ask_named(text, Command::Start).await
    }

    /// Stops a container: its stop signal (or `signal`), then SIGKILL after `grace` seconds.
    pub async fn stop(&self, text: &str, signal: Option<i32>, grace: Option<i64>) -> Result<(), EngineError> {
        self.ask_named(text, |reply| Command::Stop { signal, grace, reply }).await
    }

    /// Stops and starts a container.
    pub async fn restart(
        &self,
        text: &str,
        signal: Option<i32>,
        grace: Option<i64>,
    ) -> Result<(), EngineError> {
        self.ask_named(text, |reply| Command::Restart { signal, grace, reply }).await
    }

    /// Sends a signal.
    pub async fn kill(&self, text: &str, signal: i32) -> Result<(), EngineError> {
        self.ask_named(text, |reply| Command::Kill { signal, reply }).await
    }

    /// Removes a container.
    pub async fn remove(&self, text: &str, force: bool) -> Result<(), EngineError> {
        self.ask_named(text, |reply| Command::Remove { force, reply }).await
    }

    /// Freezes or thaws all processes.
    pub async fn freeze(&self, text: &str, frozen: bool) -> Result<(), EngineError> {
        self.ask_named(text, |reply| Command::Freeze { frozen, reply }).await
    }

    /// Adds a network to a container's.
    pub async fn connect(&self, text: &str, spec: EndpointSpec) -> Result<(), EngineError> {
        let spec = Box::new(spec);
        self.ask_named(text, |reply| Command::Connect { spec, reply }).await
    }

    /// Takes a network from a container; with `force` also one that is gone.
    pub async fn disconnect(&self, text: &str, network: &str, force: bool) -> Result<(), EngineError> {
        let network = network.to_owned();
        self.ask_named(text, |reply| Command::Disconnect { network, force, reply }).await
    }

    /// Gives a container another name.
    pub async fn rename(&self, text: &str, name: ContainerName) -> Result<(), EngineError> {
        let handle = self.index.find(text)?;
        let (id, old) = {
            let view = handle.view.borrow();
            (view.id().clone(), view.now.name.clone())
        };
        if old == name {
            return Err(EngineError::Invalid(
                "Renaming a container with the same name as its current name".into(),
            ));
        }
        self.index.rename(&id, &old, &name)?;
        self.ask(handle, text, |reply| Command::Rename { name, reply }).await
    }

    /// Attaches a client's connection. One that comes before the start sees everything.
    pub async fn attach(&self, text: &str, spec: AttachSpec, client: OwnedFd) -> Result<(), EngineError> {
        let attachment: Attachment = (spec, client);
        self.ask_named(text, |reply| Command::Attach { attachment, reply }).await
    }

    /// Announces a client to a container that does not run: its start waits for the client to arrive. None
    /// when it runs, so that [`Containers::attach`] is the way.
    pub async fn announce(&self, text: &str) -> Result<Option<oneshot::Sender<Attachment>>, EngineError> {
        self.ask_named(text, Command::Announce).await
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, text: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        let target = Target::Init;
        self.ask_named(text, |reply| Command::Resize { target, rows, columns, reply }).await
    }

    /// Prepares one more process.
    pub async fn exec_create(&self, text: &str, spec: ExecSpec) -> Result<ExecId, EngineError> {
        if spec.command.is_empty() || spec.command.iter().all(String::is_empty) {
            return Err(EngineError::Invalid("No exec command specified".into()));
        }
        let spec = Box::new(spec);
        self.ask_named(text, |reply| Command::ExecCreate { spec, reply }).await
    }

    /// Runs a prepared process, with its client's connection unless it is detached.
    pub async fn exec_start(
        &self,
        text: &str,
        attachment: Option<(AttachSpec, OwnedFd)>,
        console: (u16, u16),
    ) -> Result<(), EngineError> {
        let (id, handle) = self.index.find_exec(text)?;
        self.ask(handle, text, |reply| Command::ExecStart { id, attachment, console, reply }).await
    }

    /// What is known of an exec, and its container.
    pub async fn exec(&self, text: &str) -> Result<(ExecId, Arc<View>, ExecView), EngineError> {
        let (id, handle) = self.index.find_exec(text)?;
        let view = Arc::clone(&handle.view.borrow());
        let exec = self.ask(handle, text, |reply| Command::ExecInspect { id: id.clone(), reply }).await?;
        Ok((id, view, exec))
    }

    /// Sets the size of an exec's terminal.
    pub async fn exec_resize(&self, text: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        let (id, handle) = self.index.find_exec(text)?;
        let target = Target::Exec(id);
        self.ask(handle, text, |reply| Command::Resize { target, rows, columns, reply }).await
    }

    /// Waits for a container. The returned future watches from now on, also before it is first polled.
    pub fn wait(
        &self,
        text: &str,
        condition: WaitFor,
    ) -> Result<impl Future<Output = Result<i32, EngineError>> + Send + use<>, EngineError> {
        let mut view: watch::Receiver<Arc<View>> = self.index.find(text)?.view;
        let exits = view.borrow().exits;
        let text = text.to_owned();
        Ok(async move {
            loop {
                {
                    let now = view.borrow_and_update();
                    let resting = !now.now.state.is_alive() && !matches!(now.now.state, State::Restarting(_));
                    let done = match condition {
                        WaitFor::NotRunning => resting,
                        WaitFor::NextExit => now.exits > exits || now.removed,
                        WaitFor::Removed => now.removed,
                    };
                    if done {
                        return Ok(now.exit_code());
                    }
                }
                if view.changed().await.is_err() {
                    return Err(EngineError::NoContainer(text));
                }
            }
        })
    }

    /// Watches one container's snapshots.
    pub fn watch(&self, text: &str) -> Result<watch::Receiver<Arc<View>>, EngineError> {
        Ok(self.index.find(text)?.view)
    }

    /// The current log file of a container.
    #[must_use]
    pub fn log_path(&self, view: &View) -> PathBuf {
        log_path(&self.launcher.data_dir(view.id()), view.id())
    }

    /// The folder of a container's persistent files.
    #[must_use]
    pub fn data_dir(&self, view: &View) -> PathBuf {
        self.launcher.data_dir(view.id())
    }

    /// Resolves `container:NAME` of a mode to an id.
    pub fn resolve(&self, text: &str) -> Result<ContainerId, EngineError> {
        Ok(self.view(text)?.id().clone())
    }

    /// The runtime that a request names, by the name that inspection shows.
    pub fn runtime(&self, asked: &str) -> Result<String, EngineError> {
        let live = self.launcher.settings.live.get();
        let name = if asked.is_empty() { &live.default_runtime } else { asked };
        if name != OWN_RUNTIME {
            live.runtime(Some(name))?;
        }
        Ok(name.to_owned())
    }

    /// Options of the storage driver: there is none yet, and only one file system could keep the one there may be.
    pub fn check_storage_options(&self, given: bool) -> Result<(), EngineError> {
        /// Of XFS, see statfs(2).
        const XFS: i64 = 0x5846_5342;
        let root = &self.launcher.settings.data_root;
        match given {
            false => Ok(()),
            true if rustix::fs::statfs(root).is_ok_and(|found| found.f_type == XFS) => {
                Err(EngineError::NotYet("--storage-opt".into()))
            }
            true => Err(EngineError::Invalid(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option".into(),
            )),
        }
    }

    /// Modes that join another container, checked at creation.
    pub fn check_modes(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        if let IpcMode::Container(id) = &spec.ipc
            && !matches!(self.view(id.as_str())?.fixed.spec.ipc, IpcMode::Shareable | IpcMode::Host)
        {
            return Err(EngineError::Invalid(format!(
                "can't join IPC of container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )));
        }
        if let Sharing::Container(id) = &spec.pid {
            self.view(id.as_str())?;
        }
        Ok(())
    }

    /// Lets go of all containers; they keep running under their shims.
    pub async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}
