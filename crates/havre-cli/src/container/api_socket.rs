//! `--use-api-socket`: the engine's own socket inside a container, and the keys to registries that the user has.
//!
//! Invariant: the keys go where the container's own processes find them and nowhere else: into a file that only
//! its owner reads, in the container's own layer.

use havre_api::host::{BindOptions, HostConfig, Mount};
use havre_archive::tar::{Entry, Kind, TarWriter};
use havre_client::{Client, Endpoint, RequestBody};

use crate::config::ConfigFile;
use crate::container::Creation;

/// Where Docker's clients look unless they are told otherwise.
const SOCKET: &str = "/var/run/docker.sock";
/// The folder that `DOCKER_CONFIG` names inside.
const CONFIG: &str = "/run/secrets/docker";

/// Adds the mount and the variable. Returns the archive with the keys, to be sent once the container is there.
pub(crate) fn prepare(
    creation: &mut Creation,
    endpoint: &Endpoint,
    file: &ConfigFile,
) -> Result<Option<Vec<u8>>, String> {
    // The daemon's socket as its own machine sees it; of another machine only the usual place is known.
    let source = match endpoint {
        Endpoint::Unix(path) => path.to_string_lossy().into_owned(),
        Endpoint::Tcp(_) | Endpoint::Ssh(_) => SOCKET.to_owned(),
    };
    let host = creation.request.host_config.get_or_insert_with(HostConfig::default);
    host.mounts.get_or_insert_default().push(Mount {
        kind: "bind".into(),
        source,
        target: SOCKET.into(),
        bind_options: Some(BindOptions::default()),
        ..Mount::default()
    });
    let env = creation.request.config.env.get_or_insert_default();
    // Who names a folder knows what is in it.
    if env.iter().any(|entry| entry.starts_with("DOCKER_CONFIG=")) {
        return Ok(None);
    }
    if file.keeps_keys_elsewhere() {
        return Err(
            "not yet supported: --use-api-socket with credential helpers (set DOCKER_CONFIG with -e to go without keys)"
                .into(),
        );
    }
    if file.auths.is_empty() {
        return Ok(None);
    }
    env.push(format!("DOCKER_CONFIG={CONFIG}"));
    let text = serde_json::json!({ "auths": file.auths }).to_string();
    archive(text.as_bytes()).map(Some).map_err(|error| format!("resolving credentials failed: {error}"))
}

fn archive(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = TarWriter::new(Vec::new());
    let path = format!("{}/config.json", CONFIG.trim_start_matches('/'));
    tar.entry(Entry { path: path.into_bytes(), kind: Kind::File, mode: 0o600, ..Entry::default() }, text)?;
    tar.finish()
}

/// Sends the keys into a container that was just made.
pub(crate) async fn send(
    client: &Client,
    id: &str,
    archive: Vec<u8>,
) -> Result<(), havre_client::ClientError> {
    let (out, body): (_, RequestBody) = tokio::sync::mpsc::channel(1);
    // Room for one is there, so this neither waits nor fails while the body lives.
    out.try_send(Ok(archive.into())).unwrap_or_default();
    drop(out);
    client.put_archive(id, "/", false, body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(json: &str) -> (Creation, Result<Option<Vec<u8>>, String>) {
        let file: ConfigFile = serde_json::from_str(json).unwrap();
        let mut creation =
            Creation { name: String::new(), platform: String::new(), request: Default::default() };
        let archive = prepare(&mut creation, &Endpoint::Unix("/run/x.sock".into()), &file);
        (creation, archive)
    }

    #[test]
    fn the_socket_is_mounted_and_keys_travel_in_a_file_of_their_own() {
        let (creation, archive) = with(r#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#);
        let mounts = creation.request.host_config.unwrap().mounts.unwrap();
        assert_eq!((mounts[0].source.as_str(), mounts[0].target.as_str()), ("/run/x.sock", SOCKET));
        assert_eq!(creation.request.config.env.unwrap(), ["DOCKER_CONFIG=/run/secrets/docker"]);
        let archive = archive.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&archive).contains("c2VjcmV0"));
        let (creation, archive) = with("{}");
        assert!(creation.request.config.env.unwrap().is_empty() && archive.unwrap().is_none());
        assert!(with(r#"{"credsStore":"pass"}"#).1.is_err());
    }
}
