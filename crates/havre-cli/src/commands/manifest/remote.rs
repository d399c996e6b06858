//! Manifests at registries, asked for and stored by this process itself: who may is the user, not the engine.

use std::collections::BTreeSet;

use havre_api::registry::AuthConfig;
use havre_oci::image::{Document, MAX_DOCUMENT, Manifest, media};
use havre_oci::{Digest, Reference};
use havre_registry::{
    Access, Credentials, Fetched, Insecure, Proxies, Registries, RegistryError, Repository, Settings,
    TokenServer,
};
use serde::Deserialize;

use super::list::{Described, Entry, Runs};
use crate::App;
use crate::config::environment;
use crate::credentials;
use crate::failure::Failure;
use crate::output;

/// Manifests of one list that are asked for: a list is a document of at most 4 MiB, which has room for thousands.
const MAX_ENTRIES: usize = 1_000;

/// Token servers of other owners than their registry's: `registry=host,...`. The engine has them in its configuration.
const TOKEN_SERVERS: &str = "HAVRE_REGISTRY_TOKEN_SERVERS";

/// One manifest, or those of a list.
pub(super) enum Found {
    One(Box<Entry>),
    Many(Vec<Entry>),
}

/// A registry, and who asks.
pub(super) struct Remote {
    registries: Registries,
    access: Access,
    credentials: Credentials,
    insecure: bool,
}

fn credentials_of(auth: AuthConfig) -> Credentials {
    if !auth.registrytoken.is_empty() {
        Credentials::Registry(auth.registrytoken)
    } else if !auth.identitytoken.is_empty() {
        Credentials::Identity(auth.identitytoken)
    } else if auth.username.is_empty() && auth.password.is_empty() {
        Credentials::Anonymous
    } else {
        Credentials::Password { user: auth.username, password: auth.password }
    }
}

impl Remote {
    /// The registry of a name, for one thing. `insecure`: also without TLS, and whatever its certificate is.
    pub(super) fn new(app: &App, name: &Reference, access: Access, insecure: bool) -> Result<Self, Failure> {
        let [http, https, none] = ["http_proxy", "https_proxy", "no_proxy"].map(|name| {
            environment(&name.to_ascii_uppercase()).or_else(|| environment(name)).unwrap_or_default()
        });
        let proxies =
            Proxies::parse(&http, &https, &none).map_err(|error| Failure::plain(error.to_string()))?;
        let allowed = environment(TOKEN_SERVERS).unwrap_or_default();
        let token_servers = allowed.split(',').filter(|text| !text.is_empty()).map(TokenServer::parse);
        let settings = Settings {
            token_servers: token_servers
                .collect::<Result<_, _>>()
                .map_err(|error| Failure::plain(format!("{TOKEN_SERVERS}: {error}")))?,
            insecure: if insecure { vec![Insecure::Host(name.domain().to_owned())] } else { Vec::new() },
            // Pulls and pushes of the engine need no word for it; this one always did.
            plain_loopback: insecure || access == Access::Push,
            proxies,
            ..Settings::default()
        };
        let auth = credentials::get(app, &credentials::key_of(name))?;
        Ok(Self {
            registries: Registries::new(settings),
            access,
            credentials: credentials_of(auth),
            insecure,
        })
    }

    /// What a name leads to, with all that a list needs to know of it.
    pub(super) async fn fetch(&self, name: &Reference) -> Result<Found, Failure> {
        let repository = self.registries.repository(name, self.access, self.credentials.clone()).await;
        self.look(name, &repository).await.map_err(|error| self.explained(name, &error))
    }

    async fn look(&self, name: &Reference, repository: &Repository<'_>) -> Result<Found, Problem> {
        let wanted = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        let top = repository.manifest(&wanted).await?;
        match parsed(&top)? {
            Document::Manifest(manifest) => {
                Ok(Found::One(Box::new(entry(name.clone(), &top, &manifest, repository).await?)))
            }
            Document::Index(index) => {
                if index.manifests.len() > MAX_ENTRIES {
                    return Err(Problem::Other(format!(
                        "{name} lists {} manifests, more than {MAX_ENTRIES}",
                        index.manifests.len()
                    )));
                }
                let named: Listed = serde_json::from_slice(&top.bytes)
                    .map_err(|error| Problem::Other(format!("{}: {error}", top.digest)))?;
                let mut entries = Vec::new();
                for (listed, platform) in index.manifests.iter().zip(named.manifests) {
                    let one = repository.manifest(&listed.digest.to_string()).await?;
                    let Document::Manifest(manifest) = parsed(&one)? else {
                        return Err(Problem::Other(format!("unsupported manifest type: {}", one.media_type)));
                    };
                    let named = at(name, &listed.digest);
                    let mut entry = entry(named, &one, &manifest, repository).await?;
                    // The list's word counts, not the image's.
                    entry.descriptor.platform = Some(platform.platform.unwrap_or_default());
                    entries.push(entry);
                }
                Ok(Found::Many(entries))
            }
        }
    }

    /// Stores a list, and before it what it names that is in other repositories.
    pub(super) async fn push(
        &self,
        list: &Reference,
        entries: &[Entry],
        media_type: &str,
        text: String,
    ) -> Result<Digest, Failure> {
        let repository = self.registries.repository(list, self.access, self.credentials.clone()).await;
        let elsewhere: Vec<&Entry> =
            entries.iter().filter(|entry| entry.reference.path() != list.path()).collect();
        let mut mounted = BTreeSet::new();
        for entry in &elsewhere {
            let Ok(Document::Manifest(manifest)) = Document::parse(&entry.bytes()?) else {
                return Err(Failure::plain(format!("{} is not a manifest", entry.reference)));
            };
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if !mounted.insert(blob.digest.clone()) {
                    continue;
                }
                let place = format!("{}@{}", entry.reference.path(), blob.digest);
                let done = repository.mount(&blob.digest, &entry.reference).await.map_err(|error| {
                    let error = self.explained(list, &error.into()).message;
                    Failure::plain(format!("failed to mount blob {place} to {list}: {error}"))
                })?;
                // Layers of Windows may be where only Microsoft has them.
                let windows =
                    entry.descriptor.platform.as_ref().is_some_and(|platform| platform.os == "windows");
                if !done && !windows {
                    return Err(Failure::plain(format!("error mounting {place} to {list}")));
                }
            }
        }
        let failed = |name: &Reference, error: RegistryError| {
            let error = self.explained(list, &error.into()).message;
            Failure::plain(format!("failed to put manifest {name}: {error}"))
        };
        for entry in &elsewhere {
            let (by, described) = (entry.descriptor.digest.to_string(), &entry.descriptor);
            let name = list.at_digest(described.digest.clone());
            let put = repository.put_manifest(&by, &described.media_type, entry.bytes()?.into()).await;
            let digest = put.map_err(|error| failed(&name, error))?;
            output::line(&format!("Pushed ref {name} with digest: {digest}"))?;
        }
        let digest = Digest::of_bytes(text.as_bytes()).to_string();
        let put = repository.put_manifest(list.tag().unwrap_or(&digest), media_type, text.into());
        put.await.map_err(|error| failed(list, error))
    }

    /// What went wrong, in the words of Docker's client; what it does not tell is a second line.
    fn explained(&self, name: &Reference, problem: &Problem) -> Failure {
        let absent = |why: &str| {
            Failure::plain(format!("no such manifest: {name}{}{why}", if why.is_empty() { "" } else { "\n" }))
        };
        let error = match problem {
            Problem::Other(why) => return Failure::plain(why.clone()),
            Problem::Registry(error) => error,
        };
        match error {
            RegistryError::Refused { code, .. } if code == "MANIFEST_UNKNOWN" || code == "NAME_UNKNOWN" => {
                absent("")
            }
            RegistryError::Refused { code, message, .. } if code.is_empty() || code == "UNAUTHORIZED" => {
                absent(&format!("The registry says: {message}"))
            }
            RegistryError::Unauthorized(message) => absent(&format!("The registry says: {message}")),
            RegistryError::Unreachable { reason, .. }
                if !self.insecure && reason.ends_with("server gave HTTP response to HTTPS client") =>
            {
                absent("The registry does not speak TLS: --insecure talks to it nevertheless")
            }
            RegistryError::Unreachable { url, reason, .. } => {
                let host = url.split("/v2/").next().unwrap_or(url).split("://").last().unwrap_or_default();
                Failure::plain(format!(
                    "failed to configure transport: error pinging v2 registry: Get \"https://{host}/v2/\": {reason}"
                ))
            }
            RegistryError::Stranger { registry, server } => Failure::plain(format!(
                "refused to send the credentials for {registry} to {server}, a token server of somebody else: if it is the right one, set {TOKEN_SERVERS}={registry}={server}"
            )),
            other => Failure::plain(other.to_string()),
        }
    }
}

/// What stops a command.
enum Problem {
    Registry(RegistryError),
    Other(String),
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

fn parsed(fetched: &Fetched) -> Result<Document, Problem> {
    Document::parse(&fetched.bytes).map_err(|error| Problem::Other(format!("{}: {error}", fetched.digest)))
}

/// A manifest of a list by its digest, as Docker's client names it: with the list's tag.
fn at(list: &Reference, digest: &Digest) -> Reference {
    let tagged = list.tag().and_then(|tag| Reference::parse(&format!("{}:{tag}@{digest}", list.name())).ok());
    tagged.unwrap_or_else(|| list.at_digest(digest.clone()))
}

/// What a list says that its manifests are for, with all that Docker's client keeps of it.
#[derive(Deserialize)]
struct Listed {
    manifests: Vec<ListedOne>,
}

#[derive(Deserialize)]
struct ListedOne {
    #[serde(default)]
    platform: Option<Runs>,
}

async fn entry(
    name: Reference,
    fetched: &Fetched,
    manifest: &Manifest,
    repository: &Repository<'_>,
) -> Result<Entry, Problem> {
    let config = repository.small_blob(&manifest.config.digest, manifest.config.size, MAX_DOCUMENT).await?;
    let platform: Runs = serde_json::from_slice(&config).map_err(|error| {
        Problem::Other(format!("invalid configuration {} of {name}: {error}", manifest.config.digest))
    })?;
    let media_type = match fetched.media_type.as_str() {
        known @ (media::MANIFEST | media::DOCKER_MANIFEST) => known.to_owned(),
        _ => manifest.media_type.clone().unwrap_or_else(|| media::MANIFEST.to_owned()),
    };
    let size = u64::try_from(fetched.bytes.len()).unwrap_or(0);
    let descriptor = Described { media_type, digest: fetched.digest.clone(), size, platform: Some(platform) };
    Entry::new(name, descriptor, &fetched.bytes).map_err(|failure| Problem::Other(failure.message))
}
