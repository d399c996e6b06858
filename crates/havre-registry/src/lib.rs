//! The distribution protocol (OCI Distribution 1.1, Docker's schema 2): registries as one pulls from and pushes to.
//!
//! A registry may lie, stall, break off, or point elsewhere. Invariants: everything is bounded in size, time and number of
//! tries; a document is what its digest says or it is not handed out; what a user proves himself with goes to the host it
//! is for, or its own token server, and nowhere else; nobody is sent from https to http, and no strange registry sends us to
//! this machine's own addresses or its neighbours'.
//! Not here: what the bytes mean. Blobs are handed on as they come; whoever asked for one digests it.

mod address;
mod auth;
mod blob;
mod challenge;
mod connect;
mod error;
mod http;
mod login;
mod referrers;
mod repository;
mod search;
mod settings;
mod upload;

pub use address::{DOCKER_HUB, HUB_KEY};
pub use auth::Credentials;
pub use blob::Blob;
pub use error::RegistryError;
pub use login::LoggedIn;
pub use repository::{Access, Fetched, Registries, Repository};
pub use search::{Found, SearchSpec};
pub use settings::{Insecure, InvalidSetting, Mirror, Proxies, Settings, TokenServer};
pub use upload::Source;

type Result<T> = std::result::Result<T, RegistryError>;
