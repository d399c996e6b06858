//! OCI runtimes of others: those of the configuration, and those that the machine has in the usual places.
//!
//! Invariant: a name leads to an absolute path; the name of our own runtime leads nowhere else.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use havre_engine::{ExternalRuntime, OWN_RUNTIME};

use crate::DaemonError;

/// Runtimes that are there without being configured.
const KNOWN: &[&str] = &["runc", "crun"];
/// Where programs of the system are, as the environment of a daemon may not say.
const PLACES: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// A runtime in `daemon.json`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    path: String,
    #[serde(default)]
    runtime_args: Vec<String>,
}

/// The runtimes by name: what the machine has, then the configuration's `name=path` or `name={...}`.
pub(crate) fn all(asked: &[String]) -> Result<BTreeMap<String, ExternalRuntime>, DaemonError> {
    let mut runtimes = BTreeMap::new();
    for name in KNOWN {
        if let Some(path) = find(name) {
            runtimes.insert((*name).to_owned(), ExternalRuntime { path, args: Vec::new() });
        }
    }
    for text in asked {
        let refuse = |why: &str| DaemonError::Config(format!("invalid runtime {text:?}: {why}"));
        let (name, value) = text.split_once('=').ok_or_else(|| refuse("want name=path"))?;
        if name.is_empty() || name == OWN_RUNTIME {
            return Err(refuse("the name is empty or our own runtime's"));
        }
        let entry = if value.starts_with('{') {
            serde_json::from_str(value).map_err(|error| refuse(&error.to_string()))?
        } else {
            Entry { path: value.to_owned(), runtime_args: Vec::new() }
        };
        let path = if entry.path.starts_with('/') {
            PathBuf::from(entry.path)
        } else {
            find(&entry.path).ok_or_else(|| refuse("want an absolute path or a program of the system"))?
        };
        runtimes.insert(name.to_owned(), ExternalRuntime { path, args: entry.runtime_args });
    }
    Ok(runtimes)
}

/// The runtime of containers that name none.
pub(crate) fn default(
    asked: Option<String>,
    runtimes: &BTreeMap<String, ExternalRuntime>,
) -> Result<String, DaemonError> {
    let name = asked.unwrap_or_else(|| OWN_RUNTIME.to_owned());
    if name == OWN_RUNTIME || runtimes.contains_key(&name) {
        Ok(name)
    } else {
        Err(DaemonError::Config(format!("specified default runtime '{name}' does not exist")))
    }
}

fn find(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    PLACES.iter().map(|place| Path::new(place).join(name)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse_file;

    fn given(texts: &[&str]) -> Result<BTreeMap<String, ExternalRuntime>, DaemonError> {
        all(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_the_file_name_runtimes() {
        let runtimes = given(&["mine=/opt/mine"]).unwrap();
        assert_eq!(runtimes["mine"], ExternalRuntime { path: "/opt/mine".into(), args: Vec::new() });
        let file = r#"{"runtimes":{"other":{"path":"/opt/other","runtimeArgs":["--debug"]}}}"#;
        let values = parse_file("d.json", file).unwrap();
        let runtimes = all(&values["add-runtime"]).unwrap();
        assert_eq!(runtimes["other"].args, ["--debug"]);
        assert_eq!(default(Some("other".into()), &runtimes).unwrap(), "other");
        assert_eq!(default(None, &runtimes).unwrap(), "havre");
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for bad in ["x", "=/x", "havre=/x", "x=no-such-program-here", r#"x={"runtimeType":"io.x"}"#, "x={"] {
            assert!(given(&[bad]).is_err(), "{bad}");
        }
        let error = default(Some("x".into()), &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(error, "specified default runtime 'x' does not exist");
    }
}
