//! The files of a container that the engine writes and mounts: hosts, hostname, resolv.conf.
//!
//! Invariants: they are written anew at each start, readable by everybody inside; while the container runs they are
//! changed in place, because they are mounted, and what it wrote itself stays. A container may write anything into
//! them, of any length, but cannot put anything else in their place: their folder is not its.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use havre_net::dns::ADDRESS;
use havre_net::networks::Endpoint;
use havre_oci::Digest;
use havre_sys::durable::{Durability, replace_with};
use rustix::fs::OFlags;

use crate::EngineError;
use crate::links::Linked;
use crate::plan::EtcFiles;
use crate::record::Fixed;
use crate::settings::DnsDefaults;
use crate::spec::{ContainerSpec, NetworkMode};

/// The host's servers.
pub(crate) const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// What `host-gateway` stands for is known when the container starts.
pub const HOST_GATEWAY: &str = "host-gateway";
/// A file that a container has made longer is its own.
const LONGEST: u64 = 1 << 20;
/// Before the number that tells whether the container has changed the file.
const SEAL: &str = "# Unchanged: ";

/// What the files say besides what the container asked for.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// How it resolves names.
    pub(crate) dns: DnsDefaults,
    pub(crate) places: &'a [Endpoint],
    /// Whether it has a name server of its own.
    pub(crate) served: bool,
    /// What [`HOST_GATEWAY`] stands for.
    pub(crate) gateways: &'a [IpAddr],
    pub(crate) links: &'a [Linked],
}

/// Whether the host's own address is asked for.
pub(crate) fn wants_gateway(spec: &ContainerSpec) -> bool {
    spec.extra_hosts.iter().any(|(_, address)| address == HOST_GATEWAY)
}

/// Where they are.
pub(crate) fn files(dir: &Path) -> EtcFiles {
    EtcFiles {
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
    }
}

/// Writes the files below `dir`.
pub(crate) fn write(dir: &Path, fixed: &Fixed, around: &Surroundings<'_>) -> Result<EtcFiles, EngineError> {
    let files = files(dir);
    let put = |path: &Path, text: &str| {
        replace_with(path, text.as_bytes(), 0o644, Durability::Process)
            .map_err(EngineError::io("write", path))
    };
    put(&files.hosts, &hosts(fixed, around, &host_file("/etc/hosts"))?)?;
    put(&files.hostname, &format!("{}\n", fixed.hostname))?;
    put(&files.resolv_conf, &resolv_conf(fixed, &around.dns, around.served))?;
    Ok(files)
}

/// The container runs, and is in other networks than before. `served` is whether it has a name server of its own now.
/// What cannot be changed is told in the log, and the container goes on without it.
pub(crate) fn changed(
    dir: &Path,
    fixed: &Fixed,
    dns: &DnsDefaults,
    [before, after]: [&[Endpoint]; 2],
    served: bool,
) {
    let files = files(dir);
    let lines =
        |places: &[Endpoint]| places.iter().flat_map(|place| own_lines(fixed, place)).collect::<Vec<_>>();
    let (old, new) = (lines(before), lines(after));
    revise(&files.hosts, |text| {
        let gone = |line: &str| old.iter().any(|one| one == line) && !new.iter().any(|one| one == line);
        let come = new.iter().filter(|line| !old.contains(line));
        with_lines(text, &gone, come.cloned())
    });
    revise(&files.resolv_conf, |text| {
        let new = resolv_conf(fixed, dns, served);
        (is_sealed(text) && new.as_bytes() != text).then(|| new.into_bytes())
    });
}

/// A container that this one is linked to has another address.
pub(crate) fn relinked(dir: &Path, link: &Linked) {
    let (names, first) = (link.names(), link.first_names());
    let lines: Vec<String> = link.addresses.iter().map(|address| format!("{address}\t{names}")).collect();
    revise(&files(dir).hosts, |text| {
        let old = |line: &str| {
            let rest = line.split_once('\t').and_then(|(_, rest)| rest.strip_prefix(&first));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        with_lines(text, &old, lines.iter().cloned())
    });
}

/// Changes a file of a running container in place.
fn revise(path: &Path, with: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
    let done = (|| {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let flags = i32::try_from(flags.bits()).map_err(std::io::Error::other)?;
        let file = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        let length = file.metadata()?;
        if !length.is_file() || length.len() > LONGEST {
            return Err(std::io::Error::other("the container has made something else of it"));
        }
        let mut text = Vec::new();
        (&file).take(LONGEST).read_to_end(&mut text)?;
        let Some(new) = with(&text) else { return Ok(()) };
        // Whoever reads meanwhile sees the old end behind the new beginning at worst.
        file.write_all_at(&new, 0)?;
        file.set_len(u64::try_from(new.len()).map_err(std::io::Error::other)?)
    })();
    if let Err(error) = done {
        let path = path.display();
        tracing::warn!(%path, %error, "cannot change a file of a running container: its networks are not in it");
    }
}

/// The text without some lines and with others at its end; none if that is the same.
fn with_lines(
    text: &[u8],
    gone: &dyn Fn(&str) -> bool,
    come: impl Iterator<Item = String>,
) -> Option<Vec<u8>> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let is_gone = |line: &[u8]| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        std::str::from_utf8(line).is_ok_and(gone)
    };
    let mut new: Vec<u8> = lines.filter(|line| !is_gone(line)).flatten().copied().collect();
    for line in come {
        if new.last().is_some_and(|last| *last != b'\n') {
            new.push(b'\n');
        }
        new.extend(line.as_bytes());
        new.push(b'\n');
    }
    (new != text).then_some(new)
}

/// A host without the file has an empty one.
fn host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A container's own name leads to itself in each of its networks.
fn own_lines(fixed: &Fixed, place: &Endpoint) -> Vec<String> {
    let mut names = fixed.hostname.clone();
    if !fixed.spec.domainname.is_empty() {
        names = format!("{names}.{}", fixed.spec.domainname);
    }
    if let Some((short, _)) = names.clone().split_once('.') {
        names = format!("{names} {short}");
    }
    place.ips().map(|address| format!("{address}\t{names}")).collect()
}

fn hosts(fixed: &Fixed, around: &Surroundings<'_>, host: &str) -> Result<String, EngineError> {
    let mut text = if fixed.spec.network == NetworkMode::Host {
        let mut text = host.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned()
    };
    for (name, address) in &fixed.spec.extra_hosts {
        if address != HOST_GATEWAY {
            text.push_str(&format!("{address}\t{name}\n"));
        } else if around.gateways.is_empty() {
            return Err(EngineError::Invalid("unable to derive the IP value for host-gateway".into()));
        } else {
            around.gateways.iter().for_each(|gateway| text.push_str(&format!("{gateway}\t{name}\n")));
        }
    }
    for link in around.links {
        let names = link.names();
        link.addresses.iter().for_each(|address| text.push_str(&format!("{address}\t{names}\n")));
    }
    for line in around.places.iter().flat_map(|place| own_lines(fixed, place)) {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// The values of the host's lines of one kind.
fn values(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(word)).then(|| words.map(str::to_owned).collect::<Vec<_>>())
    });
    lines.flatten().collect()
}

/// The options of a container's resolver: its own, or the host's.
pub(crate) fn options(dns: &DnsDefaults) -> Vec<String> {
    if dns.options.is_empty() { values(&host_file(HOST_RESOLV_CONF), "options") } else { dns.options.clone() }
}

/// Whether a server would be asked on the container's own loopback.
fn is_local(server: &str) -> bool {
    server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn resolv_conf(fixed: &Fixed, dns: &DnsDefaults, served: bool) -> String {
    let host = host_file(HOST_RESOLV_CONF);
    let mut path = HOST_RESOLV_CONF;
    let mut servers = values(&host, "nameserver");
    // Those on the host's loopback are nobody's that has one of its own; a resolver that listens there keeps the servers
    // it asks in a file of its own.
    if fixed.spec.network == NetworkMode::Networks && !served && servers.iter().any(|server| is_local(server))
    {
        if servers.iter().any(|server| server == "127.0.0.53") {
            path = "/run/systemd/resolve/resolv.conf";
            servers = values(&host_file(path), "nameserver");
        }
        servers.retain(|server| !is_local(server));
    }
    let mut overrides = Vec::new();
    let mut own = |name: &'static str, own: &[String], other: Vec<String>| {
        if own.is_empty() {
            return other;
        }
        overrides.push(name);
        own.to_vec()
    };
    let servers = own("nameservers", &dns.servers, servers);
    let mut search = own("search", &dns.search, values(&host, "search"));
    // A single dot means: no search domain at all.
    search.retain(|domain| domain != ".");
    let mut options = own("options", &dns.options, values(&host, "options"));
    let shown = ADDRESS.to_string();
    let mut asked = servers.as_slice();
    let (mut ndots, mut internal) = (None, Vec::new());
    if served {
        asked = std::slice::from_ref(&shown);
        // Unless it was asked for, names without a dot are asked as they are first: they are those of containers.
        ndots = Some("internal");
        if options.iter().any(|option| option.starts_with("ndots:")) {
            ndots = Some(if dns.options.is_empty() { "host" } else { "override" });
        } else {
            options.push("ndots:0".into());
        }
        internal = match dns.servers.is_empty() {
            true => servers.iter().map(|server| format!("host({server})")).collect(),
            false => servers.clone(),
        };
    }
    let mut text =
        "# Written by havre at the start. Once it is changed in the container, it is not written again meanwhile.\n\n"
            .to_owned();
    asked.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    for (word, list) in [("search", &search), ("options", &options)] {
        if !list.is_empty() {
            text.push_str(&format!("{word} {}\n", list.join(" ")));
        }
    }
    let kind = if served { "internal resolver" } else { "legacy" };
    text.push_str(&format!("\n# Based on host file: '{path}' ({kind})\n"));
    if served {
        text.push_str(&format!("# ExtServers: [{}]\n", internal.join(" ")));
    }
    text.push_str(&format!("# Overrides: [{}]\n", overrides.join(" ")));
    if let Some(from) = ndots {
        text.push_str(&format!("# Option ndots from: {from}\n"));
    }
    seal(text)
}

/// A number over all that comes before it.
fn seal(mut text: String) -> String {
    let digest = Digest::of_bytes(text.as_bytes()).hex();
    text.push_str(&format!("{SEAL}{}\n", digest.get(..16).unwrap_or_default()));
    text
}

fn is_sealed(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    text.rfind(SEAL)
        .and_then(|at| text.split_at_checked(at))
        .is_some_and(|(before, _)| seal(before.to_owned()) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_and_go_and_those_of_the_container_stay() {
        let edit = |text: &str, gone: &[&str], come: &[&str]| {
            let come = come.iter().map(|line| (*line).to_owned());
            let new = with_lines(text.as_bytes(), &|line| gone.contains(&line), come);
            new.map(|new| String::from_utf8(new).unwrap())
        };
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tme\n10.0.0.2\tme too\nmine";
        assert_eq!(
            edit(text, &["10.0.0.2\tme"], &["10.0.1.2\tme"]).unwrap(),
            "127.0.0.1\tlocalhost\n10.0.0.2\tme too\nmine\n10.0.1.2\tme\n"
        );
        assert_eq!(edit(text, &["10.0.0.3\tme"], &[]), None);
        assert_eq!(edit("", &[], &["a"]).unwrap(), "a\n");
        // Whatever bytes it wrote.
        let bytes = with_lines(b"\xff\xfe\nold\n", &|line| line == "old", std::iter::empty()).unwrap();
        assert_eq!(bytes, b"\xff\xfe\n");
    }

    #[test]
    fn a_file_is_written_again_only_while_its_number_is_right() {
        let sealed = seal("nameserver 127.0.0.11\n".into());
        assert!(is_sealed(sealed.as_bytes()));
        for changed in [
            format!("{sealed}nameserver 10.0.0.1\n"),
            sealed.replace("127", "128"),
            sealed.replace(SEAL, "# "),
            sealed.trim_end().to_owned(),
            String::new(),
        ] {
            assert!(!is_sealed(changed.as_bytes()), "{changed:?}");
        }
        assert!(!is_sealed(b"\xff# Unchanged: 0\n"));
    }

    #[test]
    fn a_linked_containers_line_is_found_whatever_it_is_called_now() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let said = || std::fs::read_to_string(&hosts).unwrap();
        let write = |text: &str| replace_with(&hosts, text.as_bytes(), 0o644, Durability::Process).unwrap();
        write("10.0.0.2\tstore 0123456789ab old-name\n10.0.0.2\tstores 0123456789ab\n");
        relinked(folder.path(), &crate::links::tests::linked("store", "10.0.0.7"));
        assert_eq!(said(), "10.0.0.2\tstores 0123456789ab\n10.0.0.7\tstore 0123456789ab db\n");
        // A link in its place is never followed, whoever put it there.
        let victim = folder.path().join("victim");
        rustix::fs::rename(&hosts, &victim).unwrap();
        std::os::unix::fs::symlink(&victim, &hosts).unwrap();
        relinked(folder.path(), &crate::links::tests::linked("store", "10.0.0.8"));
        assert!(!std::fs::read_to_string(&victim).unwrap().contains("10.0.0.8"));
    }

    #[test]
    fn values_of_the_hosts_file_are_joined() {
        let text = "# options a\noptions a b\n options\tc\nsearch x\noptionsx d\n";
        assert_eq!(values(text, "options"), ["a", "b", "c"]);
    }
}
