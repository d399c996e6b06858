//! What the API says of registries: credentials, what they hold, what a search finds.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use crate::image::{Descriptor, Platform};
use crate::wire::wire;

/// The header that carries an `AuthConfig`, as base64 for addresses.
pub const AUTH_HEADER: &str = "x-registry-auth";

wire! {
    /// What a user proves himself with at a registry.
    pub struct AuthConfig {
        #[serde(rename = "username")]
        omit username: String,
        #[serde(rename = "password")]
        omit password: String,
        #[serde(rename = "auth")]
        omit auth: String,
        #[serde(rename = "email")]
        omit email: String,
        #[serde(rename = "serveraddress")]
        omit serveraddress: String,
        #[serde(rename = "identitytoken")]
        omit identitytoken: String,
        #[serde(rename = "registrytoken")]
        omit registrytoken: String,
    }

    /// Answer of a login.
    pub struct AuthResponse {
        status: String,
        identity_token: String,
    }

    /// What a name leads to at its registry.
    pub struct DistributionInspect {
        descriptor: Descriptor,
        platforms: Option<Vec<Platform>>,
    }

    /// A repository that a search found.
    pub struct SearchResult {
        #[serde(rename = "star_count")]
        star_count: i64,
        #[serde(rename = "is_official")]
        is_official: bool,
        #[serde(rename = "name")]
        name: String,
        #[serde(rename = "is_automated")]
        is_automated: bool,
        #[serde(rename = "description")]
        description: String,
    }

    /// What a finished push says of a tag.
    pub struct PushResult {
        tag: String,
        digest: String,
        size: i64,
    }
}
