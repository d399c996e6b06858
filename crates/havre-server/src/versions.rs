//! What older API versions show and take differently.
//!
//! Handlers speak the current version only. An answer to an older client is changed here on its way
//! out, a request of an older client on its way in; both are lists of "before version X", newest first,
//! so that everything a version changed stands in one place. Source: the version history of the Engine
//! API.

mod requests;

use havre_api::ApiVersion;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::body::{self, Answer};

pub(crate) use requests::create_request;

/// The documents whose shape changed between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `GET /containers/json`.
    ContainerList,
    /// `GET /containers/{id}/json`.
    Container,
    /// `GET /images/json`.
    ImageList,
    /// `GET /images/{name}/json`.
    Image,
    /// `GET /info`.
    Info,
    /// `GET /networks`.
    NetworkList,
    /// `GET /networks/{id}`.
    Network,
}

/// The first version whose documents are as the handlers make them.
const NEWEST_CHANGE: ApiVersion = before(53);

const fn before(minor: u16) -> ApiVersion {
    ApiVersion::new(1, minor)
}

/// A JSON answer in the shape of the client's version.
pub(crate) fn json(version: ApiVersion, shape: Shape, value: &impl Serialize) -> Answer {
    if version >= NEWEST_CHANGE {
        return body::json(value);
    }
    match serde_json::to_value(value) {
        Ok(mut document) => {
            change(version, shape, &mut document);
            body::json(&document)
        }
        // Only maps with keys that are no text fail; there are none.
        Err(_) => body::json(value),
    }
}

/// The same as a part of another document.
pub(crate) fn value(version: ApiVersion, shape: Shape, value: &impl Serialize) -> Value {
    let mut document = serde_json::to_value(value).unwrap_or_default();
    change(version, shape, &mut document);
    document
}

fn change(version: ApiVersion, shape: Shape, document: &mut Value) {
    if let Value::Array(list) = document {
        for entry in list {
            change(version, shape, entry);
        }
        return;
    }
    let Some(object) = document.as_object_mut() else { return };
    match shape {
        Shape::ContainerList => container_summary(version, object),
        Shape::Container => container(version, object),
        Shape::ImageList => image_summary(version, object),
        Shape::Image => image(version, object),
        Shape::Info => info(version, object),
        Shape::NetworkList => network_summary(version, object),
        Shape::Network => {
            if version < before(52) {
                object.remove("Status");
            }
        }
    }
}

/// Sets a field that is absent.
fn fill(object: &mut Map<String, Value>, name: &str, value: Value) {
    object.entry(name).or_insert(value);
}

fn fill_all(object: &mut Map<String, Value>, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        fill(object, name, value.clone());
    }
}

fn part<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

fn container_summary(version: ApiVersion, object: &mut Map<String, Value>) {
    if version < before(52) {
        object.remove("Health");
    }
    if version < before(48) {
        object.remove("ImageManifestDescriptor");
    }
    if version < before(46)
        && let Some(host) = part(object, "HostConfig")
    {
        host.remove("Annotations");
    }
    if version < before(25) && object.get("State") == Some(&json!("removing")) {
        object.insert("State".into(), json!("exited"));
    }
}

/// The network settings of a container before networks had names: those of the default network.
fn default_network(settings: &mut Map<String, Value>) {
    fill_all(
        settings,
        &[
            ("Bridge", json!("")),
            ("HairpinMode", json!(false)),
            ("LinkLocalIPv6Address", json!("")),
            ("LinkLocalIPv6PrefixLen", json!(0)),
            ("SecondaryIPAddresses", Value::Null),
            ("SecondaryIPv6Addresses", Value::Null),
        ],
    );
    let bridge = settings.get("Networks").and_then(|networks| networks.get("bridge")).cloned();
    for (name, empty) in [
        ("EndpointID", json!("")),
        ("Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
        ("IPAddress", json!("")),
        ("IPPrefixLen", json!(0)),
        ("IPv6Gateway", json!("")),
        ("MacAddress", json!("")),
    ] {
        let value = bridge.as_ref().and_then(|bridge| bridge.get(name)).cloned();
        fill(settings, name, value.unwrap_or(empty));
    }
    in_order(
        settings,
        &[
            "Bridge",
            "SandboxID",
            "SandboxKey",
            "Ports",
            "HairpinMode",
            "LinkLocalIPv6Address",
            "LinkLocalIPv6PrefixLen",
            "SecondaryIPAddresses",
            "SecondaryIPv6Addresses",
            "EndpointID",
            "Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "MacAddress",
            "Networks",
        ],
    );
}

/// Moves the named fields behind all others, in this order: documents are shown as they are sent.
fn in_order(object: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = object.shift_remove(*name) {
            object.insert((*name).into(), value);
        }
    }
}

fn container(version: ApiVersion, object: &mut Map<String, Value>) {
    let short: String =
        object.get("Id").and_then(Value::as_str).unwrap_or_default().chars().take(12).collect();
    if version < before(52) {
        if let Some(settings) = part(object, "NetworkSettings") {
            default_network(settings);
        }
        let driver = object.get("Driver").cloned().unwrap_or_default();
        fill(object, "GraphDriver", json!({"Data": {}, "Name": driver}));
        in_order(
            object,
            &["SizeRw", "SizeRootFs", "Mounts", "Config", "NetworkSettings", "ImageManifestDescriptor"],
        );
        if let Some(config) = part(object, "Config") {
            fill(config, "OnBuild", Value::Null);
            in_order(config, &["Labels", "StopSignal", "StopTimeout", "Shell"]);
        }
    }
    if version < before(48) {
        object.remove("ImageManifestDescriptor");
    }
    if version < before(45)
        && let Some(networks) =
            part(object, "NetworkSettings").and_then(|settings| part(settings, "Networks"))
    {
        for endpoint in networks.values_mut() {
            if let Some(Value::Array(aliases)) = endpoint.get_mut("Aliases") {
                aliases.push(json!(short));
            }
        }
    }
    if version < before(42)
        && let Some(host) = part(object, "HostConfig")
    {
        fill_all(host, &[("KernelMemory", json!(0)), ("KernelMemoryTCP", json!(0))]);
    }
    if version < before(25)
        && let Some(state) = part(object, "State")
        && state.get("Status") == Some(&json!("removing"))
    {
        state.insert("Status".into(), json!("exited"));
    }
}

fn network_summary(version: ApiVersion, object: &mut Map<String, Value>) {
    if version < before(52) {
        fill(object, "Containers", json!({}));
        in_order(object, &["Containers", "Options", "Labels"]);
    }
}

fn image_summary(version: ApiVersion, object: &mut Map<String, Value>) {
    if version < before(51) {
        object.insert("Containers".into(), json!(-1));
    }
    if version < before(48) {
        object.remove("Descriptor");
    }
    if version < before(47) {
        object.remove("Manifests");
    }
    if version < before(44) {
        let size = object.get("Size").cloned().unwrap_or_default();
        fill(object, "VirtualSize", size);
    }
    if version < before(43) {
        let empty = |object: &Map<String, Value>, name: &str| {
            object.get(name).and_then(Value::as_array).is_none_or(Vec::is_empty)
        };
        if empty(object, "RepoTags") && empty(object, "RepoDigests") {
            object.insert("RepoTags".into(), json!(["<none>:<none>"]));
            object.insert("RepoDigests".into(), json!(["<none>@<none>"]));
        }
    }
}

fn image(version: ApiVersion, object: &mut Map<String, Value>) {
    if version < before(52) {
        fill_all(
            object,
            &[
                ("Parent", json!("")),
                ("Comment", json!("")),
                ("DockerVersion", json!("")),
                ("Author", json!("")),
            ],
        );
        if let Some(config) = part(object, "Config") {
            fill_all(
                config,
                &[
                    ("Cmd", Value::Null),
                    ("Entrypoint", Value::Null),
                    ("Env", Value::Null),
                    ("Labels", Value::Null),
                    ("OnBuild", Value::Null),
                    ("User", json!("")),
                    ("Volumes", Value::Null),
                    ("WorkingDir", json!("")),
                ],
            );
        }
    }
    if version < before(50)
        && let Some(config) = part(object, "Config")
    {
        fill_all(config, &RUN_FIELDS.map(|(name, kind)| (name, kind.empty())));
    }
    if version < before(48) {
        object.remove("Descriptor");
        object.remove("Manifests");
    }
    if version < before(45) {
        let mut config = Map::new();
        fill_all(&mut config, &RUN_FIELDS.map(|(name, kind)| (name, kind.empty())));
        for name in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
            config.insert(name.into(), Value::Null);
        }
        fill_all(&mut config, &[("User", json!("")), ("WorkingDir", json!(""))]);
        fill_all(object, &[("Container", json!("")), ("ContainerConfig", Value::Object(config))]);
    }
    if version < before(44) {
        let size = object.get("Size").cloned().unwrap_or_default();
        fill(object, "VirtualSize", size);
        fill(object, "Created", json!("0001-01-01T00:00:00Z"));
    }
}

/// What an absent field once looked like.
#[derive(Debug, Clone, Copy)]
enum Empty {
    Text,
    No,
}

impl Empty {
    fn empty(self) -> Value {
        match self {
            Self::Text => json!(""),
            Self::No => json!(false),
        }
    }
}

/// Fields of containers that an image's configuration showed although images never had them.
const RUN_FIELDS: [(&str, Empty); 9] = [
    ("Hostname", Empty::Text),
    ("Domainname", Empty::Text),
    ("AttachStdin", Empty::No),
    ("AttachStdout", Empty::No),
    ("AttachStderr", Empty::No),
    ("Tty", Empty::No),
    ("OpenStdin", Empty::No),
    ("StdinOnce", Empty::No),
    ("Image", Empty::Text),
];

fn info(version: ApiVersion, object: &mut Map<String, Value>) {
    if version < before(53) {
        object.remove("NRI");
    }
    if version < before(52) {
        let v1 = object.get("CgroupVersion") == Some(&json!("1"));
        fill(object, "KernelMemoryTCP", json!(v1));
        let names: Vec<String> = object.keys().cloned().collect();
        let behind = names.iter().skip_while(|name| *name != "SwapLimit").skip(1);
        let behind: Vec<&str> =
            behind.map(String::as_str).filter(|name| *name != "KernelMemoryTCP").collect();
        in_order(object, &behind);
    }
    if version < before(50) {
        object.remove("DiscoveredDevices");
        fill_all(object, &[("BridgeNfIptables", json!(false)), ("BridgeNfIp6tables", json!(false))]);
    }
    if version < before(49) {
        object.remove("FirewallBackend");
        for name in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            if let Some(commit) = part(object, name) {
                let id = commit.get("ID").cloned().unwrap_or_default();
                fill(commit, "Expected", id);
            }
        }
        if let Some(registries) = part(object, "RegistryConfig") {
            fill_all(
                registries,
                &[
                    ("AllowNondistributableArtifactsCIDRs", Value::Null),
                    ("AllowNondistributableArtifactsHostnames", Value::Null),
                ],
            );
        }
    }
    if version < before(50) {
        object.remove("DiscoveredDevices");
    }
    if version < before(46) {
        object.remove("Containerd");
    }
    if version < before(44) {
        object.remove("CDISpecDirs");
        for runtime in part(object, "Runtimes").into_iter().flat_map(Map::values_mut) {
            if let Some(runtime) = runtime.as_object_mut() {
                runtime.remove("status");
            }
        }
    }
    if version < before(39) {
        object.remove("Warnings");
        for name in ["KernelVersion", "OperatingSystem"] {
            if object.get(name) == Some(&json!("")) {
                object.insert(name.into(), json!("<unknown>"));
            }
        }
    }
    if version < before(25)
        && let Some(Value::Array(options)) = object.get_mut("SecurityOptions")
    {
        let kinds = ["apparmor", "seccomp", "selinux"];
        let plain = |option: &Value| {
            let name = option.as_str()?.split(',').next()?.strip_prefix("name=")?;
            kinds.contains(&name).then(|| json!(name))
        };
        *options = options.iter().filter_map(plain).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(minor: u16, shape: Shape, mut document: Value) -> Value {
        change(ApiVersion::new(1, minor), shape, &mut document);
        document
    }

    #[test]
    fn images_of_old_versions_have_the_fields_that_were_dropped_since() {
        let document = || json!({"Id": "x", "Size": 7, "Config": {"Cmd": ["a"]}, "Descriptor": {}});
        let newest = changed(52, Shape::Image, document());
        assert_eq!(newest, document());
        let old = changed(51, Shape::Image, document());
        assert_eq!((&old["Parent"], &old["Config"]["Env"]), (&json!(""), &Value::Null));
        assert_eq!(old["Config"]["Cmd"], json!(["a"]));
        assert!(old["Config"].get("Hostname").is_none());
        let old = changed(49, Shape::Image, document());
        assert_eq!(old["Config"]["Tty"], json!(false));
        assert!(old.get("VirtualSize").is_none() && old.get("ContainerConfig").is_none());
        let old = changed(43, Shape::Image, document());
        assert_eq!((&old["VirtualSize"], &old["ContainerConfig"]["Image"]), (&json!(7), &json!("")));
        assert!(old.get("Descriptor").is_none());
    }

    #[test]
    fn image_lists_of_old_versions_name_the_nameless() {
        let document = || json!([{"Id": "x", "Size": 7, "RepoTags": [], "RepoDigests": [], "Containers": 2}]);
        let old = changed(42, Shape::ImageList, document());
        assert_eq!(old[0]["RepoTags"], json!(["<none>:<none>"]));
        assert_eq!((&old[0]["VirtualSize"], &old[0]["Containers"]), (&json!(7), &json!(-1)));
        let new = changed(51, Shape::ImageList, document());
        assert_eq!((&new[0]["RepoTags"], &new[0]["Containers"]), (&json!([]), &json!(2)));
    }

    #[test]
    fn containers_of_old_versions_show_their_default_network_beside_the_networks() {
        let document = json!({"Id": "0123456789abcdef", "State": {"Status": "removing"}, "HostConfig": {},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2", "Aliases": ["a"]}}}});
        let new = changed(52, Shape::Container, document.clone());
        assert!(new["NetworkSettings"].get("IPAddress").is_none());
        let old = changed(24, Shape::Container, document);
        let settings = &old["NetworkSettings"];
        assert_eq!(settings["IPAddress"], json!("172.17.0.2"));
        assert_eq!(settings["SecondaryIPAddresses"], Value::Null);
        assert_eq!(settings["Networks"]["bridge"]["Aliases"], json!(["a", "0123456789ab"]));
        assert_eq!(
            (&old["State"]["Status"], &old["HostConfig"]["KernelMemory"]),
            (&json!("exited"), &json!(0))
        );
    }

    #[test]
    fn lists_of_networks_once_had_a_place_for_containers() {
        let document = || json!([{"Name": "n", "Options": {}, "Labels": {}}]);
        assert_eq!(changed(52, Shape::NetworkList, document()), document());
        let old = changed(51, Shape::NetworkList, document());
        assert_eq!(old.to_string(), r#"[{"Name":"n","Containers":{},"Options":{},"Labels":{}}]"#);
        let one = changed(51, Shape::Network, json!({"Containers": {}, "Status": {}}));
        assert_eq!(one, json!({"Containers": {}}));
    }

    #[test]
    fn the_engine_describes_itself_as_it_did_then() {
        let document = || {
            json!({"SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"], "Warnings": ["w"],
            "CgroupVersion": "1", "RuncCommit": {"ID": "r"}, "Runtimes": {"x": {"path": "p", "status": {}}}})
        };
        let old = changed(24, Shape::Info, document());
        assert_eq!(old["SecurityOptions"], json!(["seccomp"]));
        assert!(old.get("Warnings").is_none());
        assert_eq!(old["RuncCommit"]["Expected"], json!("r"));
        assert_eq!(old["Runtimes"], json!({"x": {"path": "p"}}));
        assert_eq!(old["BridgeNfIptables"], json!(false));
        assert_eq!(changed(53, Shape::Info, document()), document());
    }
}
