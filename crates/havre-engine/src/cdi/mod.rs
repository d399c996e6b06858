//! Devices that their makers describe in files: the Container Device Interface, and the answer to device
//! requests in general.
//!
//! Invariants: the folders are read anew at each start, so a description that was just installed works; a file
//! that cannot be read hides its own devices only, and is named in the log; of two folders the later one decides,
//! and a device that two files of one folder describe is nobody's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use havre_oci::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::EngineError;

mod document;
mod edits;

use document::{Document, Edits};

/// The folders unless the daemon is told others: what the host's software brings, and what this boot made.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Devices that a driver is to provide.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The driver; empty lets the capabilities decide.
    pub driver: String,
    /// How many; -1 is all.
    pub count: i64,
    /// Which.
    pub ids: Vec<String>,
    /// Alternatives, each a list of what one device must have.
    pub capabilities: Vec<Vec<String>>,
    /// For the driver.
    pub options: BTreeMap<String, String>,
}

/// Puts the devices of all requests into a specification. Returns supplementary groups they need.
pub(crate) fn apply(
    spec: &mut Spec,
    requests: &[DeviceRequest],
    folders: Option<&[PathBuf]>,
) -> Result<Vec<u32>, EngineError> {
    let mut groups = Vec::new();
    for request in requests {
        match folders {
            Some(folders) if request.driver == "cdi" => groups.extend(inject(spec, request, folders)?),
            _ => {
                return Err(EngineError::Invalid(format!(
                    "could not select device driver {:?} with capabilities: {}",
                    request.driver,
                    go_lists(&request.capabilities)
                )));
            }
        }
    }
    Ok(groups)
}

/// `[[gpu utility] [x]]`, as Go prints lists of lists.
fn go_lists(lists: &[Vec<String>]) -> String {
    let each: Vec<String> = lists.iter().map(|list| format!("[{}]", list.join(" "))).collect();
    format!("[{}]", each.join(" "))
}

fn inject(spec: &mut Spec, request: &DeviceRequest, folders: &[PathBuf]) -> Result<Vec<u32>, EngineError> {
    if request.count != 0 {
        return Err(EngineError::Invalid("unexpected count in CDI device request".into()));
    }
    if !request.options.is_empty() {
        return Err(EngineError::Invalid("unexpected options in CDI device request".into()));
    }
    let known = Devices::read(folders);
    let unknown: Vec<&str> =
        request.ids.iter().map(String::as_str).filter(|id| !known.by_name.contains_key(*id)).collect();
    if !unknown.is_empty() {
        return Err(EngineError::Invalid(format!(
            "CDI device injection failed: unresolvable CDI devices {}",
            unknown.join(", ")
        )));
    }
    let mut groups = Vec::new();
    let mut common: Vec<usize> = Vec::new();
    for id in &request.ids {
        let Some(found) = known.by_name.get(id) else { continue };
        // What a file says for all of its devices applies once.
        if !common.contains(&found.file) {
            common.push(found.file);
            groups.extend(edits::apply(spec, &known.common[found.file], id)?);
        }
        groups.extend(edits::apply(spec, &found.edits, id)?);
    }
    Ok(groups)
}

/// The names of all devices that the folders describe.
#[must_use]
pub fn discovered(folders: &[PathBuf]) -> Vec<String> {
    Devices::read(folders).by_name.into_keys().collect()
}

/// One device.
struct Found {
    edits: Edits,
    /// Of which file, as an index into [`Devices::common`].
    file: usize,
    /// Of which folder; a later one decides.
    folder: usize,
}

/// All that the folders describe.
#[derive(Default)]
struct Devices {
    by_name: BTreeMap<String, Found>,
    /// What each file says for all of its devices.
    common: Vec<Edits>,
}

impl Devices {
    fn read(folders: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for (index, folder) in folders.iter().enumerate() {
            devices.read_folder(index, folder);
        }
        devices
    }

    fn read_folder(&mut self, index: usize, folder: &Path) {
        // A folder that is not there describes nothing.
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut twice = Vec::new();
        for path in paths {
            let document = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => Document::read(&path),
                Some("yaml" | "yml") => {
                    Err("descriptions in YAML are not yet supported; write it as JSON".into())
                }
                _ => continue,
            };
            match document {
                Err(error) => tracing::warn!("CDI description {}: {error}", path.display()),
                Ok(document) => self.add(index, document, &mut twice),
            }
        }
        for name in twice {
            tracing::warn!("CDI device {name} is described twice in {}", folder.display());
            self.by_name.remove(&name);
        }
    }

    fn add(&mut self, folder: usize, document: Document, twice: &mut Vec<String>) {
        let file = self.common.len();
        self.common.push(document.container_edits);
        for device in document.devices {
            let name = format!("{}={}", document.kind, device.name);
            let found = Found { edits: device.container_edits, file, folder };
            if self.by_name.insert(name.clone(), found).is_some_and(|old| old.folder == folder) {
                twice.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use havre_oci::runtime::{Linux, LinuxResources, Process};

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).unwrap();
    }

    const NULL: &str = r#"{"cdiVersion":"0.6.0","kind":"havre.test/null",
        "containerEdits":{"env":["COMMON=1"]},
        "devices":[
          {"name":"a","containerEdits":{"env":["A=1","COMMON=2"],
             "deviceNodes":[{"path":"/dev/mine","hostPath":"/dev/null","permissions":"r"}],
             "mounts":[{"hostPath":"/etc","containerPath":"/x","options":["ro","bind"]}],
             "additionalGids":[7,0]}},
          {"name":"b","containerEdits":{"env":["B=1"]}}]}"#;

    fn request(ids: &[&str]) -> DeviceRequest {
        DeviceRequest {
            driver: "cdi".into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..DeviceRequest::default()
        }
    }

    fn spec() -> Spec {
        Spec {
            process: Some(Process { env: vec!["COMMON=0".into(), "PATH=/bin".into()], ..Process::default() }),
            linux: Some(Linux { resources: Some(LinuxResources::default()), ..Linux::default() }),
            ..Spec::default()
        }
    }

    #[test]
    fn edits_of_the_file_come_once_and_those_of_devices_after_them() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "null.json", NULL);
        let mut spec = spec();
        let folders = [folder.path().to_owned()];
        let asked = [request(&["havre.test/null=a", "havre.test/null=b"])];
        assert_eq!(apply(&mut spec, &asked, Some(&folders)).unwrap(), [7]);
        assert_eq!(spec.process.unwrap().env, ["PATH=/bin", "A=1", "COMMON=2", "B=1"].map(String::from));
        let linux = spec.linux.unwrap();
        let node = &linux.devices[0];
        assert_eq!((node.path.as_str(), node.major, node.minor), ("/dev/mine", 1, 3));
        let rules = linux.resources.unwrap().devices;
        assert_eq!(rules.last().unwrap().access.as_deref(), Some("r"));
        assert_eq!(spec.mounts[0].destination, "/x");
        assert_eq!(discovered(&folders), ["havre.test/null=a", "havre.test/null=b"]);
    }

    #[test]
    fn what_cannot_be_resolved_is_named_in_dockers_words() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let error = |requests: &[DeviceRequest], folders: Option<&[PathBuf]>| {
            apply(&mut spec(), requests, folders).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[request(&["a.b/c=d", "a.b/c=e"])], Some(&folders)),
            "CDI device injection failed: unresolvable CDI devices a.b/c=d, a.b/c=e"
        );
        assert_eq!(
            error(&[request(&["a.b/c=d"])], None),
            "could not select device driver \"cdi\" with capabilities: []"
        );
        let gpu = DeviceRequest {
            count: -1,
            capabilities: vec![vec!["gpu".into(), "utility".into()]],
            ..DeviceRequest::default()
        };
        assert_eq!(
            error(&[gpu], Some(&folders)),
            "could not select device driver \"\" with capabilities: [[gpu utility]]"
        );
        let counted = DeviceRequest { count: 1, ..request(&[]) };
        assert_eq!(error(&[counted], Some(&folders)), "unexpected count in CDI device request");
    }

    #[test]
    fn later_folders_decide_and_conflicts_within_one_are_nobodys() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let device = |value: &str| {
            format!(
                r#"{{"cdiVersion":"0.5.0","kind":"a.b/c","devices":[{{"name":"d","containerEdits":{{"env":["V={value}"]}}}}]}}"#
            )
        };
        write(first.path(), "x.json", &device("1"));
        write(second.path(), "x.json", &device("2"));
        write(second.path(), "broken.json", "{");
        write(second.path(), "y.yaml", "kind: a.b/c");
        let folders = [first.path().to_owned(), second.path().to_owned()];
        let mut changed = spec();
        apply(&mut changed, &[request(&["a.b/c=d"])], Some(&folders)).unwrap();
        assert!(changed.process.unwrap().env.contains(&"V=2".to_owned()));
        write(second.path(), "z.json", &device("3"));
        assert!(discovered(&folders).is_empty());
    }
}
