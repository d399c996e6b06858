//! Docker's plugin protocol: programs of others that are found by a file and asked by JSON over HTTP.
//!
//! Invariants: a call takes no longer than its patience and holds no more than [`LARGEST`] bytes of an answer; a failure
//! names the plugin and what was asked of it; a name is never a path. Everything here blocks, and must not be called from
//! the threads of an async runtime.
//! Not here: what plugins are asked for (networks, addresses, volumes, logs), and plugins that are installed from registries.
//!
//! Source: Docker's "plugin API" and the behaviour of its client.

mod discovery;
mod error;
mod http;

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use discovery::{Address, Folders};
pub use error::PluginError;

type Result<T> = std::result::Result<T, PluginError>;

/// How long a call may take unless its caller says otherwise; as long as Docker tries to reach a plugin.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of an answer.
pub const LARGEST: usize = 1 << 20;

/// A plugin that answered.
#[derive(Debug, Clone)]
pub struct Plugin {
    name: String,
    address: Address,
    patience: Duration,
}

/// What it offers, by the names of the protocol.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(default)]
    implements: Option<Vec<String>>,
}

/// What says in an answer that it failed.
#[derive(Debug, Deserialize)]
struct Failure {
    #[serde(default, rename = "Err", alias = "Error")]
    error: Option<String>,
}

impl Plugin {
    /// Finds the plugin of this name and asks whether it is `what` (`NetworkDriver`, ...).
    pub fn find(folders: &Folders, name: &str, what: &str, patience: Duration) -> Result<Self> {
        let address = folders.find(name)?;
        let plugin = Self { name: name.to_owned(), address, patience };
        let manifest: Manifest = plugin.call("Plugin.Activate", &serde_json::json!({}))?;
        let offered = manifest.implements.unwrap_or_default();
        if offered.iter().any(|one| one == what) {
            return Ok(plugin);
        }
        let mut offered = offered.join(", ");
        // A list of a mebibyte helps nobody.
        offered.truncate(offered.char_indices().nth(200).map_or(offered.len(), |(at, _)| at));
        Err(PluginError::Other { plugin: plugin.name, what: what.to_owned(), offered })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same one, waited for only so long.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks it.
    pub fn call<Q: Serialize, A: DeserializeOwned>(&self, method: &str, question: &Q) -> Result<A> {
        let failed = |why: error::Why| PluginError::Call {
            plugin: self.name.clone(),
            method: method.to_owned(),
            address: self.address.to_string(),
            why,
        };
        let body = serde_json::to_vec(question).map_err(|error| failed(error::Why::Garbled(error)))?;
        let (status, answer) = http::ask(&self.address, method, body, self.patience).map_err(failed)?;
        let said = serde_json::from_slice::<Failure>(&answer).ok().and_then(|failure| failure.error);
        if status == 404 {
            return Err(PluginError::Unknown { plugin: self.name.clone(), method: method.to_owned() });
        }
        if status != 200 {
            let text = said.unwrap_or_else(|| String::from_utf8_lossy(&answer).into_owned());
            return Err(failed(error::Why::Status(status, error::short(&text))));
        }
        if let Some(text) = said.filter(|text| !text.is_empty()) {
            return Err(PluginError::Refused { plugin: self.name.clone(), text: error::short(&text) });
        }
        serde_json::from_slice(&answer).map_err(|error| failed(error::Why::Garbled(error)))
    }
}
