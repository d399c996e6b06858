//! Container and exec lifecycle, events, restart policies, recovery.
//!
//! Invariants: what was acknowledged survives the daemon, and creation and removal survive power loss;
//! a container's run survives the daemon; the engine knows nothing of HTTP, of any wire format, of
//! builds or clusters.

mod cdi;
mod container;
mod containers;
mod error;
mod error_text;
mod etc;
mod events;
pub mod explain;
mod files;
mod filters;
mod fsck;
pub mod hygiene;
mod index;
mod launcher;
mod link;
mod links;
mod logged;
mod merged;
mod names;
mod nameservers;
pub mod networking;
mod observe;
mod plan;
mod propagation;
mod ps;
mod reaper;
mod record;
mod recovery;
mod restart;
mod settings;
pub mod signal;
mod sources;
mod space;
pub mod spec;
mod state;
mod stats;
mod why;

use std::sync::Arc;

use havre_image::Images;
use havre_net::fabric::Fabric;
use havre_net::networks::Networks;
use havre_runtime::cgroup::Cgroup;
use havre_store::db::Db;

// What a client has not read yet is known to the kernel only.
pub use cdi::{FOLDERS as CDI_FOLDERS, discovered as discovered_devices};
pub use container::{Attachment, ExecView, Revised, Revision};
pub use containers::{Containers, CreateRequest, WaitFor};
pub use error::EngineError;
pub use etc::HOST_GATEWAY;
pub use events::{Events, Happening};
pub use files::{
    Change, ChangeKind, CommitRequest, ExtractSpec, Files, Incoming, Outgoing, PathStat, Sizes, clean_path,
};
pub use havre_runtime::cgroup::DeviceFigure;
pub use havre_runtime::shim::evidence::{Ending, Evidence};
pub use havre_runtime::shim::protocol::{AttachSpec, Exit, ExternalRuntime, FailureKind};
pub use havre_sys::socket::is_drained;
// What the machine can limit is known to the control groups.
pub use havre_runtime::cgroup::Offers;
pub use logged::check_tag;
pub use merged::Merged;
pub use observe::Pruned;
pub use plan::protected_paths;
pub use ps::Table;
pub use record::{Changing, Fixed, View};
pub use settings::{DnsDefaults, Live, OWN_RUNTIME, Reloadable, STOP_TIMEOUT, Settings};
pub use space::is_want_of_space;
pub use state::State;
pub use stats::{Reading, Sample, Traffic};
pub use why::{Cause, Verdict, Why};

/// The services of an engine.
pub struct Engine {
    /// Containers and execs.
    pub containers: Containers,
    /// The files of containers.
    pub files: Files,
    /// Images.
    pub images: Arc<Images>,
    /// Networks and who is in them.
    pub networks: Arc<Networks>,
    /// What the kernel has of them.
    pub(crate) fabric: Arc<Fabric>,
    /// What happened.
    pub events: Arc<Events>,
    /// What the daemon decided for all containers.
    pub settings: Settings,
}

impl Engine {
    /// Opens the engine on its state and recovers every container.
    pub async fn open(
        settings: Settings,
        images: Arc<Images>,
        networks: Arc<Networks>,
        db: Arc<Db>,
    ) -> Result<Self, EngineError> {
        let events = Arc::new(Events::default());
        let index = Arc::new(index::Index::default());
        let fabric = Arc::new(Fabric::open(Arc::clone(&networks), &settings.fabric)?);
        let launcher = Arc::new(launcher::Launcher::new(
            settings.clone(),
            Arc::clone(&images),
            Arc::clone(&fabric),
            Arc::clone(&events),
            index,
            Arc::clone(&db),
        )?);
        let containers = Containers::new(Arc::clone(&launcher));
        let files = Files::new(Arc::clone(&launcher));
        recovery::recover(&launcher, &containers, &db).await?;
        Ok(Self { containers, files, images, networks, fabric, events, settings })
    }

    /// Lets go of everything; containers keep running.
    pub async fn shutdown(&self) {
        self.containers.close().await;
        self.containers.launcher.names.close();
        let fabric = Arc::clone(&self.fabric);
        // Whatever went wrong was told.
        drop(tokio::task::spawn_blocking(move || fabric.close()).await);
        // The parent group goes too when no container is in it; one above it may be another engine's.
        let parent = &self.settings.cgroup_parent;
        if Cgroup::children_under(parent).is_empty() {
            launcher::remove_cgroup(parent);
        }
    }
}
