//! Starting: from a wish or a restart policy to a running shim.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use havre_base::{Clock as _, SystemClock};
use havre_net::fabric::Connected;
use havre_net::networks::EndpointSpec;
use havre_runtime::shim::protocol::{Ask, Event, Packet, Status, Target};
use havre_store::db::Batch;
use tokio::time::Instant;

use super::{ARRIVES_WITHIN, Attachment, Container};
use crate::EngineError;
use crate::error_text::exit_code_of;
use crate::record::STATES;
use crate::sources::Look;
use crate::spec::{NetworkMode, RestartPolicy};
use crate::state::{Change, State};

/// Thousands of times what a start takes.
const STARTS_WITHIN: Duration = Duration::from_secs(40);
/// A start that runs programs of others.
const SLOW_STARTS_WITHIN: Duration = Duration::from_secs(300);

impl Container {
    pub(super) async fn start_by_user(&mut self) -> Result<(), EngineError> {
        match self.now.state {
            State::Running { .. } => Err(EngineError::Unchanged(self.fixed.id.clone())),
            State::Paused { .. } => {
                Err(EngineError::State("cannot start a paused container, try unpause instead".into()))
            }
            State::Removing => {
                Err(EngineError::State("container is marked for removal and cannot be started".into()))
            }
            State::Created | State::Exited(_) | State::Restarting(_) => self.start_fresh().await,
        }
    }

    /// A start that a user asked for: counters begin again.
    pub(super) async fn start_fresh(&mut self) -> Result<(), EngineError> {
        self.now.restart_count = 0;
        self.now.stopped_by_user = false;
        self.last_delay = None;
        let result = self.start().await;
        if let Err(error) = &result {
            self.start_failed(error);
            if self.fixed.spec.auto_remove {
                self.remove_now();
            }
            return result;
        }
        self.remember_wish().await
    }

    /// Whether a user wants the container to run decides what a restart policy does after a power loss: it
    /// is durable before the user is answered. Without a policy nothing depends on it.
    pub(super) async fn remember_wish(&self) -> Result<(), EngineError> {
        if self.fixed.spec.restart == RestartPolicy::No || self.removed {
            return Ok(());
        }
        self.record().await
    }

    /// Makes the present state durable.
    pub(super) async fn record(&self) -> Result<(), EngineError> {
        self.launcher.commit(Batch::new().put(STATES, self.fixed.id.as_str(), &self.now)).await
    }

    /// Makes the files of a container that is a tree of its own. Copying takes as long as it takes, and nobody else
    /// shall wait for it; two folders for overlayfs are made in passing.
    async fn copied(&self) -> Result<(), EngineError> {
        if self.launcher.images.driver().mounts() {
            return Ok(());
        }
        let (launcher, fixed) = (Arc::clone(&self.launcher), Arc::clone(&self.fixed));
        let copy = move || launcher.images.create_writable(&fixed.id, &fixed.image).map(drop);
        Ok(tokio::task::spawn_blocking(copy).await.map_err(|_| EngineError::ShuttingDown)??)
    }

    /// Joins the networks that the container asks for. Also returns what the supervisor shall keep.
    async fn connected(&self) -> Result<(Option<Connected>, Vec<OwnedFd>), EngineError> {
        if self.fixed.spec.network != NetworkMode::Networks {
            return Ok((None, Vec::new()));
        }
        let (launcher, fixed, name) =
            (Arc::clone(&self.launcher), Arc::clone(&self.fixed), self.now.name.to_string());
        let join = move || {
            let ports = crate::networking::ports(&fixed);
            // Who was taken from all networks starts where it began.
            let home = [EndpointSpec { network: fixed.spec.home.clone(), ..EndpointSpec::default() }];
            let asked = match fixed.spec.endpoints.as_slice() {
                [] if !fixed.spec.home.is_empty() => &home,
                asked => asked,
            };
            let connected = launcher.fabric.connect(&fixed.id, &name, asked, &ports)?;
            let limited = match fixed.spec.rates {
                rates if rates.is_none() => Ok(()),
                rates => launcher.fabric.limit(&fixed.id, rates),
            };
            match limited.and_then(|()| launcher.names.changed(&fixed, connected.namespace.as_fd())) {
                Ok(keep) => Ok((Some(connected), keep)),
                Err(error) => {
                    launcher.disconnected(&fixed.id);
                    Err(error)
                }
            }
        };
        let joined = tokio::task::spawn_blocking(join).await.map_err(|_| EngineError::ShuttingDown)?;
        joined.map_err(|error| crate::networking::unconnected(&self.fixed, &self.now.name, error))
    }

    /// Gives back what was joined, behind: the links go with the namespace.
    pub(super) fn disconnect(&self) {
        if self.fixed.spec.network == NetworkMode::Networks {
            let (launcher, id) = (Arc::clone(&self.launcher), self.fixed.id.clone());
            self.networks_happened("disconnect", &launcher.fabric.networks().of_container(&id));
            let leaving = launcher.fabric.leaving();
            drop(tokio::task::spawn_blocking(move || {
                launcher.disconnected(&id);
                drop(leaving);
            }));
        }
    }

    /// Who is linked to this container hears, behind, where it is now.
    fn tell_linked(&self) {
        if self.fixed.spec.network == NetworkMode::Networks {
            let (launcher, id) = (Arc::clone(&self.launcher), self.fixed.id.clone());
            drop(tokio::task::spawn_blocking(move || crate::links::tell(&launcher, &id)));
        }
    }

    pub(super) async fn start(&mut self) -> Result<(), EngineError> {
        self.restart_at = None;
        self.now.start_error = None;
        self.await_clean().await;
        self.leases.clear(true).await;
        let waiting = self.arrived().await;
        self.launcher.sources.look(&self.fixed.spec.mounts, Look::Ready).await?;
        self.copied().await?;
        let (connected, keep) = self.connected().await?;
        if let Some(connected) = &connected {
            self.networks_happened("connect", &connected.endpoints);
        }
        let launched = match self.launcher.launch(&self.fixed, waiting, connected) {
            Ok(launched) => launched,
            Err(error) => {
                self.disconnect();
                return Err(error);
            }
        };
        self.shim = Some(launched.child);
        let mut link = launched.link;
        // Other runtimes, and hooks of devices, have patience of their own with what they run.
        let slow = self.fixed.spec.runtime.is_some() || !self.fixed.spec.device_requests.is_empty();
        let deadline = Instant::now() + if slow { SLOW_STARTS_WITHIN } else { STARTS_WITHIN };
        let begun = loop {
            match tokio::time::timeout_at(deadline, link.recv()).await {
                Ok(Ok(Some(Packet::Event(Event::Started { status, timings, warnings })))) => {
                    break Ok((status, timings, warnings));
                }
                Ok(Ok(Some(Packet::Event(Event::StartFailed(failure))))) => {
                    break Err(EngineError::Start { kind: failure.kind, message: failure.message });
                }
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) => break Err(EngineError::Shim(self.fixed.id.clone())),
                Err(_) => {
                    self.give_up_start();
                    break Err(EngineError::Shim(self.fixed.id.clone()));
                }
            }
        };
        match begun {
            Ok((status, timings, warnings)) => {
                for warning in warnings {
                    tracing::warn!(container = %self.fixed.id, warning, "limit not applied");
                }
                self.link = Some(link);
                let mut steps = launched.timings;
                steps.extend(timings);
                tracing::debug!(container = %self.fixed.id, nanos = ?steps, "started");
                self.timings = Arc::new(steps);
                self.started(&status);
                if !keep.is_empty() {
                    self.ask_quietly(Ask::Keep, keep).await;
                }
                self.tell_linked();
                for (spec, fd) in launched.more_clients {
                    self.ask_quietly(Ask::Attach { target: Target::Init, spec }, vec![fd]).await;
                }
                Ok(())
            }
            Err(error) => {
                drop(link);
                self.disconnect();
                self.reap_shim();
                self.launcher.tidy(&self.fixed.id);
                Err(error)
            }
        }
    }

    /// Ends a supervisor that cannot start the container: the kernel keeps it waiting for something.
    fn give_up_start(&mut self) {
        tracing::error!(container = %self.fixed.id, "the supervisor does not start the container; ending it");
        if let Some(Err(error)) = self.shim.as_mut().map(std::process::Child::kill) {
            tracing::warn!(container = %self.fixed.id, %error, "cannot end the supervisor");
        }
        self.launcher.destroy(&self.fixed);
    }

    /// The clients to attach from the first byte on. One that was announced is waited for: its request was
    /// answered, so it may count on seeing everything.
    pub(super) async fn arrived(&mut self) -> Vec<Attachment> {
        let mut clients = Vec::new();
        let deadline = Instant::now() + ARRIVES_WITHIN;
        for client in std::mem::take(&mut self.waiting) {
            if let Ok(Ok(client)) = tokio::time::timeout_at(deadline, client).await {
                clients.push(client);
            }
        }
        if !clients.is_empty() {
            self.happened("attach", &[]);
        }
        clients
    }

    pub(super) fn started(&mut self, status: &Status) {
        self.now.started_at = Some(status.started_at);
        self.now.oom_killed = false;
        self.apply(Change::Started { pid: status.pid, at: status.started_at });
        self.happened("start", &[]);
    }

    pub(super) fn start_failed(&mut self, error: &EngineError) {
        self.now.start_error = Some((havre_base::chain(error), exit_code_of(error)));
        self.now.start_failed_at = Some(SystemClock.now());
        if matches!(self.now.state, State::Restarting(_)) {
            self.apply(Change::GaveUp);
        } else {
            self.changed();
        }
    }
}
