//! What the daemon says about itself.

use havre_api::ApiVersion;

use crate::Defaults;

/// What the daemon says about itself, and what it decides for requests that leave it open.
#[derive(Debug, Clone)]
pub struct Info {
    /// Of the product.
    pub version: String,
    /// Of the source it was built from.
    pub git_commit: String,
    /// Identifies this engine for ever.
    pub id: String,
    /// Debug mode.
    pub debug: bool,
    /// Experimental mode.
    pub experimental: bool,
    /// Labels of the engine.
    pub labels: Vec<String>,
    /// The oldest API version that is answered.
    pub oldest: ApiVersion,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// Proxies for HTTP, HTTPS, and what goes around them; without credentials.
    pub proxies: [String; 3],
    /// Mirrors of registries, as the administrator wrote them.
    pub mirrors: Vec<String>,
    /// Registries that need no valid certificate, as the administrator wrote them.
    pub insecure_registries: Vec<String>,
    /// What a request to create a container leaves open.
    pub defaults: Defaults,
}
