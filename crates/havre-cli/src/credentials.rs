//! The user's keys to registries: in `config.json`, or with a credential helper.
//!
//! Invariants: what is kept here is kept as Docker's client keeps it, so that either finds what the other stored; a helper
//! gets secrets on its standard input only, never among its arguments.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use havre_api::registry::AuthConfig;
use havre_oci::Reference;
use serde_json::{Map, Value, json};

use crate::App;
use crate::config::{self, ConfigFile};
use crate::failure::Failure;
use crate::output;

/// Under which name the keys to Docker Hub are kept.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// The name by which helpers tell a token from a password.
const TOKEN: &str = "<token>";

/// Under which name the keys for an image's registry are kept.
pub(crate) fn key_of(reference: &Reference) -> String {
    match reference.domain() {
        "docker.io" => HUB.to_owned(),
        domain => domain.to_owned(),
    }
}

/// Under which name the keys for a server are kept, as a user names it.
pub(crate) fn key_of_server(server: &str) -> String {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = rest.split('/').next().unwrap_or(rest);
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// What is kept for a registry; empty when there is nothing.
pub(crate) fn get(app: &App, key: &str) -> Result<AuthConfig, Failure> {
    let file = config::file(&app.global)?;
    let mut auth = match file.helper(key) {
        Some(helper) => from_helper(&helper, key)?,
        None => from_file(&file, key),
    };
    auth.serveraddress = key.to_owned();
    Ok(auth)
}

fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

fn from_file(file: &ConfigFile, key: &str) -> AuthConfig {
    let same_host =
        || file.auths.iter().find(|(name, _)| host_of(name) == host_of(key)).map(|(_, value)| value);
    let Some(value) = file.auths.get(key).or_else(same_host) else { return AuthConfig::default() };
    let mut auth: AuthConfig = serde_json::from_value(value.clone()).unwrap_or_default();
    let text =
        BASE64.decode(std::mem::take(&mut auth.auth)).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, password)) = text.as_deref().and_then(|text| text.split_once(':')) {
        user.clone_into(&mut auth.username);
        password.trim_end_matches('\0').clone_into(&mut auth.password);
    }
    if !auth.identitytoken.is_empty() {
        auth.password.clear();
    }
    auth
}

/// Runs a helper (docker-credential-helpers): an action, and what it reads.
fn helper(name: &str, action: &str, input: &str) -> Result<Result<Vec<u8>, String>, Failure> {
    if name.contains('/') {
        return Err(Failure::plain(format!("invalid credential helper {name:?} in config.json")));
    }
    let program = format!("docker-credential-{name}");
    let missing = |error: std::io::Error| {
        Failure::plain(format!(
            "error getting credentials - err: exec: \"{program}\": {error}: install it, or remove it from credsStore and credHelpers in config.json"
        ))
    };
    let mut command = Command::new(&program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says so with its exit code.
        stdin.write_all(input.as_bytes()).unwrap_or(());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(Ok(output.stdout));
    }
    Ok(Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn from_helper(name: &str, key: &str) -> Result<AuthConfig, Failure> {
    match helper(name, "get", key)? {
        Ok(text) => {
            let value: Value = serde_json::from_slice(&text)
                .map_err(|error| Failure::plain(format!("docker-credential-{name}: {error}")))?;
            let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (username, secret) = (field("Username"), field("Secret"));
            Ok(if username == TOKEN {
                AuthConfig { identitytoken: secret, ..AuthConfig::default() }
            } else {
                AuthConfig { username, password: secret, ..AuthConfig::default() }
            })
        }
        Err(said) if said.contains("credentials not found") => Ok(AuthConfig::default()),
        Err(said) => Err(Failure::plain(format!("error getting credentials - err: {said}"))),
    }
}

/// Keeps the keys for a registry.
pub(crate) fn store(app: &App, key: &str, auth: &AuthConfig) -> Result<(), Failure> {
    let file = config::file(&app.global)?;
    if let Some(name) = file.helper(key) {
        let (user, secret) = if auth.identitytoken.is_empty() {
            (auth.username.as_str(), &auth.password)
        } else {
            (TOKEN, &auth.identitytoken)
        };
        let document = json!({ "ServerURL": key, "Username": user, "Secret": secret }).to_string();
        return match helper(&name, "store", &document)? {
            Ok(_) => Ok(()),
            Err(said) => Err(Failure::plain(format!("error storing credentials - err: {said}"))),
        };
    }
    // As Docker's client: the token instead of the password, beside the name.
    let secret = if auth.identitytoken.is_empty() { auth.password.as_str() } else { "" };
    let mut entry = Map::new();
    entry.insert("auth".into(), BASE64.encode(format!("{}:{secret}", auth.username)).into());
    if !auth.identitytoken.is_empty() {
        entry.insert("identitytoken".into(), auth.identitytoken.as_str().into());
    }
    let path = config::change(&app.global, |all| {
        let auths = all.entry("auths").or_insert_with(|| json!({}));
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key.to_owned(), Value::Object(entry));
        }
    })?;
    output::complain(&format!(
        "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
        path.display()
    ));
    Ok(())
}

/// Forgets the keys for a registry; whether there were any.
pub(crate) fn erase(app: &App, key: &str) -> Result<bool, Failure> {
    let file = config::file(&app.global)?;
    if let Some(name) = file.helper(key) {
        let known = !from_helper(&name, key)?.eq(&AuthConfig::default());
        if let Err(said) = helper(&name, "erase", key)?
            && known
        {
            return Err(Failure::plain(format!("error erasing credentials - err: {said}")));
        }
        return Ok(known);
    }
    let names: Vec<String> =
        file.auths.keys().filter(|name| host_of(name) == host_of(key)).cloned().collect();
    if names.is_empty() {
        return Ok(false);
    }
    config::change(&app.global, |all| {
        if let Some(auths) = all.get_mut("auths").and_then(Value::as_object_mut) {
            for name in &names {
                auths.remove(name);
            }
        }
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_host() {
        let text =
            r#"{"auths":{"https://reg.test/v1/":{"auth":"dTpw"},"x":{"auth":"dTo=","identitytoken":"t"}}}"#;
        let file: ConfigFile = serde_json::from_str(text).unwrap();
        let auth = from_file(&file, "reg.test");
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
        assert_eq!(from_file(&file, "x").identitytoken, "t");
        assert_eq!(from_file(&file, "y"), AuthConfig::default());
        assert_eq!(key_of_server("https://reg.test:5000/v2/"), "reg.test:5000");
        assert_eq!(key_of_server("docker.io"), HUB);
        assert_eq!(key_of(&Reference::parse("busybox").unwrap()), HUB);
    }
}
