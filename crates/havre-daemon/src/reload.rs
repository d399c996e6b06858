//! A changed configuration file, taken over by SIGHUP.
//!
//! Invariants: a file that cannot be used changes nothing; what can only be chosen at the start stays as it
//! is. Keys that are gone from the file get their defaults back.

use std::collections::BTreeMap;

use havre_engine::Engine;
use havre_server::Server;
use serde_json::json;

use crate::config::Config;
use crate::options::Values;
use crate::{DaemonError, log, notify};

/// What is needed to read the configuration again.
pub(crate) struct Reloader {
    /// The configuration in force.
    pub(crate) config: Config,
    flags: Values,
    as_dockerd: bool,
}

impl Reloader {
    pub(crate) fn new(config: Config, (flags, as_dockerd): (Values, bool)) -> Self {
        Self { config, flags, as_dockerd }
    }

    /// Takes over the file, or says why not.
    pub(crate) fn reload(&mut self, engine: &Engine, server: &Server) {
        tracing::info!("Got signal to reload configuration, reloading");
        notify::reloading();
        match self.try_reload(engine, server) {
            Ok(()) => tracing::info!("Reloaded configuration"),
            Err(error) => tracing::error!("Error reloading configuration: {}", havre_base::chain(&error)),
        }
        notify::tell("READY=1");
    }

    fn try_reload(&mut self, engine: &Engine, server: &Server) -> Result<(), DaemonError> {
        let new = Config::load(self.flags.clone(), self.as_dockerd)?;
        let registries = new.registries.settings(&new.proxies)?;
        engine.images.registries().configure(registries);
        engine.images.set_transfers(new.registries.downloads, new.registries.uploads);
        let config = &mut self.config;
        config.registries = new.registries;
        config.debug = new.debug;
        config.log_level = new.log_level;
        config.labels = new.labels;
        config.live = new.live;
        config.shutdown_timeout = new.shutdown_timeout;
        config.defaults.shm_size = new.defaults.shm_size;
        config.defaults.ipc_mode = new.defaults.ipc_mode;
        config.features = new.features;
        config.proxies = new.proxies;
        log::set_level(&config.log_level);
        engine.settings.live.set(config.live.clone());
        let id = server.info().id.clone();
        server.set_info(crate::info(config, id.clone()));
        engine.events.publish("daemon", "reload", &id, attributes(config));
        Ok(())
    }
}

/// What the event of a reload says, with dockerd's names.
fn attributes(config: &Config) -> BTreeMap<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let runtimes: BTreeMap<&str, serde_json::Value> = config
        .live
        .runtimes
        .iter()
        .map(|(name, runtime)| (name.as_str(), json!({"path": runtime.path, "runtimeArgs": runtime.args})))
        .collect();
    let shutdown = config.shutdown_timeout.map_or_else(|| "-1".to_owned(), |seconds| seconds.to_string());
    [
        ("name", name.trim().to_owned()),
        ("debug", config.debug.to_string()),
        ("labels", json!(config.labels).to_string()),
        ("live-restore", "true".to_owned()),
        ("max-concurrent-downloads", config.registries.downloads.to_string()),
        ("max-concurrent-uploads", config.registries.uploads.to_string()),
        ("max-download-attempts", config.registries.tries.to_string()),
        ("registry-mirrors", json!(config.registries.mirrors).to_string()),
        ("insecure-registries", json!(config.registries.insecure).to_string()),
        ("registry-token-servers", json!(config.registries.token_servers).to_string()),
        ("default-stop-timeout", config.live.stop_timeout.to_string()),
        ("shutdown-timeout", shutdown),
        ("default-runtime", config.live.default_runtime.clone()),
        ("runtimes", json!(runtimes).to_string()),
        ("default-shm-size", config.defaults.shm_size.to_string()),
        ("default-ipc-mode", config.defaults.ipc_mode.clone()),
        ("features", json!(config.features).to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
