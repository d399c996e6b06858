//! `network ...`.

mod create;
mod explain;

use havre_api::network::{
    ConnectRequest, DisconnectRequest, EndpointIpamConfig, EndpointSettings, NetworkSummary,
};

use super::lifecycle::confirmed;
use crate::App;
use crate::config;
use crate::failure::{Failure, describe};
use crate::format::table::{harmless, short_id};
use crate::format::template::{Fields, Format, text as value};
use crate::output;
use crate::spec::{Args, Arity, Command, filter, int, list, strings, switch, text};

pub(super) use create::CREATE;
pub(super) use explain::EXPLAIN;

pub(super) const CONNECT: Command = Command {
    names: &["network connect"],
    arguments: "NETWORK CONTAINER",
    about: "Connect a container to a network",
    flags: &[&[
        strings("alias", "Further names of the container in this network"),
        strings("driver-opt", "Options of the network's driver (name=value)"),
        int("gw-priority", "The network with the highest one has the default gateway; may be negative"),
        text("ip", "IPv4 address (172.30.100.104)"),
        text("ip6", "IPv6 address (2001:db8::33)"),
        list("link", "Link to another container"),
        strings("link-local-ip", "Link-local addresses"),
    ]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &["network connect --alias db --ip 172.30.0.5 front web"],
    run: connect,
};

pub(super) const DISCONNECT: Command = Command {
    names: &["network disconnect"],
    arguments: "NETWORK CONTAINER",
    about: "Disconnect a container from a network",
    flags: &[&[switch("force", "Disconnect even what is not known to be connected").short('f')]],
    arity: Arity::Exactly(2),
    trailing: false,
    examples: &[],
    run: disconnect,
};

pub(super) const LS: Command = Command {
    names: &["network ls", "network list"],
    arguments: "",
    about: "List networks",
    flags: &[&[
        filter("Only networks that match (driver=bridge, name=web, label=a=b, dangling=true, ...)")
            .short('f'),
        text("format", super::FORMAT_HELP),
        switch("no-trunc", "Do not shorten the output"),
        switch("quiet", "Only print ids").short('q'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &["network ls --filter driver=bridge", "network ls --format '{{.Name}}: {{.Driver}}'"],
    run: ls,
};

pub(super) const RM: Command = Command {
    names: &["network rm", "network remove"],
    arguments: "NETWORK [NETWORK...]",
    about: "Remove one or more networks",
    flags: &[&[switch("force", "It is no error if a network is not there").short('f')]],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &[],
    run: rm,
};

pub(super) const PRUNE: Command = Command {
    names: &["network prune"],
    arguments: "",
    about: "Remove all unused networks",
    flags: &[&[
        filter("Only networks that match (until=10m, label=name)"),
        switch("force", "Do not ask").short('f'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &[],
    run: prune,
};

const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";

const HEADINGS: [(&str, &str); 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn ls(app: &App, args: &Args) -> Result<u8, Failure> {
    let mut format = args.text("format").to_owned();
    let quiet = args.on("quiet");
    if format.is_empty() && !quiet {
        format = config::file(&app.global)?.networks_format;
    }
    let networks = app.block(async {
        let client = app.client().await?;
        Ok::<_, Failure>(client.networks(&args.filters()).await?)
    })?;
    let source = match format.as_str() {
        "raw" if quiet => "network_id: {{.ID}}",
        "" | "table" if quiet => "{{.ID}}",
        "" | "table" => TABLE,
        "raw" => "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
        other => other,
    };
    let format = Format::parse(source)?;
    let mut sorted: Vec<&NetworkSummary> = networks.iter().collect();
    sorted.sort_by_key(|network| natural(&network.name));
    let full = args.on("no-trunc");
    let rows = sorted.into_iter().map(|network| fields(network, full)).collect();
    output::print(&format.rows(&HEADINGS, rows)?)?;
    Ok(0)
}

/// Numbers in a name count as numbers: `net9` is before `net10`.
fn natural(name: &str) -> Vec<(bool, u128, String)> {
    let mut parts: Vec<(bool, u128, String)> = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        parts.push((!digits, if digits { part.parse().unwrap_or(u128::MAX) } else { 0 }, part.to_owned()));
        rest = behind;
    }
    parts
}

fn fields(network: &NetworkSummary, full: bool) -> Fields {
    let id = if full { network.id.as_str() } else { short_id(&network.id) };
    let all = network.labels.clone().unwrap_or_default();
    let labels: Vec<String> = all.iter().map(|(name, label)| format!("{name}={label}")).collect();
    let label = move |args: &[gotmpl::Value]| {
        let name = args.first().map(ToString::to_string).unwrap_or_default();
        Ok(value(harmless(all.get(&name).map_or("", String::as_str))))
    };
    let safe = |text: &str| value(harmless(text));
    Fields::from([
        ("ID", safe(id)),
        ("Name", safe(&network.name)),
        ("Driver", safe(&network.driver)),
        ("Scope", safe(&network.scope)),
        ("IPv4", value(network.enable_ipv4.to_string())),
        ("IPv6", value(network.enable_ipv6.to_string())),
        ("Internal", value(network.internal.to_string())),
        ("Labels", safe(&labels.join(","))),
        ("Label", gotmpl::Value::Function(std::sync::Arc::new(label))),
        ("CreatedAt", safe(&network.created.replace('T', " ").replace('Z', " +0000 UTC"))),
    ])
}

fn rm(app: &App, args: &Args) -> Result<u8, Failure> {
    let force = args.on("force");
    app.block(async {
        let client = app.client().await?;
        let mut failed = false;
        for name in &args.rest {
            if let Err(failure) = named("network", name) {
                output::complain(&failure.message);
                failed = true;
                continue;
            }
            match client.remove_network(name).await {
                Ok(()) => output::line(name)?,
                Err(error) if force && error.status() == Some(404) => {}
                Err(error) => {
                    output::complain(&describe(&error));
                    failed = true;
                }
            }
        }
        if failed { Err(Failure::plain("exit status 1")) } else { Ok(0) }
    })
}

fn prune(app: &App, args: &Args) -> Result<u8, Failure> {
    if !confirmed(args, "This will remove all custom networks not used by at least one container.")? {
        return Ok(0);
    }
    let pruned =
        app.block(async { Ok::<_, Failure>(app.client().await?.prune_networks(&args.filters()).await?) })?;
    let deleted = pruned.networks_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        let names: Vec<String> = deleted.iter().map(|name| harmless(name)).collect();
        output::line(&format!("Deleted Networks:\n{}\n", names.join("\n")))?;
    }
    Ok(0)
}

/// Refuses names that name nothing, before the engine is asked.
fn named(kind: &str, name: &str) -> Result<(), Failure> {
    if name.trim().is_empty() {
        return Err(Failure::plain(format!("invalid {kind} name or ID: value is empty")));
    }
    Ok(())
}

fn connect(app: &App, args: &Args) -> Result<u8, Failure> {
    let [network, container] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    let mut options = std::collections::BTreeMap::new();
    for text in args.list("driver-opt") {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::plain("invalid key/value pair format in driver options"))?;
        options.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    named("network", network)?;
    named("container", container)?;
    let request = ConnectRequest {
        container: container.clone(),
        endpoint_config: Some(EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: args.text("ip").into(),
                ipv6_address: args.text("ip6").into(),
                link_local_ips: args.some_list("link-local-ip"),
            }),
            links: args.some_list("link"),
            aliases: Some(args.list("alias").to_vec()),
            driver_opts: Some(options),
            gw_priority: args.number("gw-priority").unwrap_or(0),
            ..EndpointSettings::default()
        }),
    };
    app.block(async { Ok::<_, Failure>(app.client().await?.connect_network(network, &request).await?) })?;
    Ok(0)
}

fn disconnect(app: &App, args: &Args) -> Result<u8, Failure> {
    let [network, container] = args.rest.as_slice() else { return Err(Failure::quiet(1)) };
    named("network", network)?;
    named("container", container)?;
    let request = DisconnectRequest { container: container.clone(), force: args.on("force") };
    app.block(async { Ok::<_, Failure>(app.client().await?.disconnect_network(network, &request).await?) })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_that_people_expect() {
        let mut names = ["net10", "bridge", "net9", "net", "9", "host"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["9", "bridge", "host", "net", "net9", "net10"]);
    }

    #[test]
    fn a_hostile_name_does_not_reach_the_terminal() {
        let network = NetworkSummary { name: "a\x1b[2J".into(), ..NetworkSummary::default() };
        let out = Format::parse(TABLE).unwrap().rows(&HEADINGS, vec![fields(&network, true)]).unwrap();
        assert!(!out.contains('\x1b'), "{out}");
    }
}
