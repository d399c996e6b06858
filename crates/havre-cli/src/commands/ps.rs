//! `ps`.

use havre_api::container::{ContainerSummary, PortSummary};

use crate::App;
use crate::config;
use crate::failure::Failure;
use crate::format::table::{ellipsis, harmless, short_id};
use crate::format::template::{Fields, Format, text as value};
use crate::format::units::{human_duration, human_size};
use crate::output;
use crate::spec::{Args, Arity, Command, filter, int, switch, text};

pub(super) const PS: Command = Command {
    names: &["container ls", "container list", "container ps", "ps"],
    arguments: "",
    about: "List containers",
    flags: &[&[
        switch("all", "Show stopped containers too (default shows just running)").short('a'),
        filter("Only containers that match (name=web, status=exited, label=a=b, ...)").short('f'),
        text("format", super::FORMAT_HELP),
        int("last", "Show the last n created containers, stopped ones too (default -1)").short('n'),
        switch("latest", "Show the container created last").short('l'),
        switch("no-trunc", "Do not shorten the output"),
        switch("quiet", "Only print ids").short('q'),
        switch("size", "Show sizes").short('s'),
    ]],
    arity: Arity::None,
    trailing: false,
    examples: &["ps -a --filter status=exited", "ps --format '{{.Names}}: {{.Status}}'"],
    run: ps,
};

const TABLE: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

const HEADINGS: [(&str, &str); 15] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

fn ps(app: &App, args: &Args) -> Result<u8, Failure> {
    let configured = if args.given("format") { String::new() } else { config::file(&app.global)?.ps_format };
    let mut format = args.text("format").to_owned();
    if format.is_empty() && !args.on("quiet") {
        format = configured;
    }
    let size = args.on("size") || format.contains(".Size") || format.contains("json .}}");
    if args.on("quiet") && args.given("format") {
        output::complain("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    let source = match format.as_str() {
        "raw" if args.on("quiet") => "container_id: {{.ID}}".to_owned(),
        _ if args.on("quiet") => "{{.ID}}".to_owned(),
        "" | "table" if size => format!("{TABLE}\t{{{{.Size}}}}"),
        "" | "table" => TABLE.to_owned(),
        "raw" => "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{.State}}\nstatus: {{.Status}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n".to_owned(),
        _ => format,
    };
    let words = |failure: Failure| Failure {
        message: failure.message.replace("template parsing error", "failed to parse template"),
        ..failure
    };
    let format = Format::parse(&source).map_err(words)?;
    // What no container could answer is said also when there is none.
    format.render(&format.empty(&HEADINGS)).map_err(|failure| match failure.code {
        64 => Failure { code: 1, ..words(failure) },
        _ => Failure::plain(failure.message.replace("template parsing error", "failed to execute template")),
    })?;
    let last = args.number("last").and_then(|n| usize::try_from(n).ok());
    let limit = last.unwrap_or(usize::from(args.on("latest")));
    let containers = app.block(async {
        let client = app.client().await?;
        Ok::<_, Failure>(client.list(args.on("all"), limit, size, &args.filters()).await?)
    })?;
    let now = crate::now();
    let full = args.on("no-trunc");
    let rows = containers.iter().map(|container| fields(container, full, now)).collect();
    output::print(&format.rows(&HEADINGS, rows)?)?;
    Ok(0)
}

pub(super) fn fields(container: &ContainerSummary, full: bool, now: i64) -> Fields {
    let id = if full { container.id.as_str() } else { short_id(&container.id) };
    let names: Vec<&str> = container
        .names
        .iter()
        .map(|name| name.trim_start_matches('/'))
        .filter(|name| full || !name.contains('/'))
        .collect();
    let image = match container.image.as_str() {
        "" => "<no image>",
        // An image that lost its name is shown by its id.
        image if !full && image == container.image_id => short_id(image),
        image => image,
    };
    let command = if full { container.command.clone() } else { ellipsis(&container.command, 20) };
    let all = container.labels.clone();
    let label = move |args: &[gotmpl::Value]| {
        let name = args.first().map(ToString::to_string).unwrap_or_default();
        Ok(value(harmless(all.get(&name).map_or("", String::as_str))))
    };
    let labels: Vec<String> =
        container.labels.iter().map(|(name, label)| format!("{name}={label}")).collect();
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            let name = if mount.name.is_empty() { &mount.source } else { &mount.name };
            if full { name.clone() } else { ellipsis(name, 15) }
        })
        .collect();
    let volumes = container.mounts.iter().filter(|mount| mount.driver == "local").count();
    let networks: Vec<&str> = container.network_settings.networks.keys().map(String::as_str).collect();
    let written = human_size(container.size_rw.unwrap_or(0));
    let size = match container.size_root_fs.unwrap_or(0) {
        0 => written,
        total => format!("{written} (virtual {})", human_size(total)),
    };
    let safe = |text: &str| value(harmless(text));
    Fields::from([
        ("ID", safe(id)),
        ("Image", safe(image)),
        ("Command", safe(&format!("\"{command}\""))),
        ("CreatedAt", value(created_at(container.created))),
        ("RunningFor", value(format!("{} ago", human_duration(now - container.created)))),
        ("Status", safe(&container.status)),
        ("State", safe(&container.state)),
        ("Ports", safe(&ports(&container.ports))),
        ("Size", value(size)),
        ("Names", safe(&names.join(","))),
        ("Labels", safe(&labels.join(","))),
        ("Label", gotmpl::Value::Function(std::sync::Arc::new(label))),
        ("Mounts", safe(&mounts.join(","))),
        ("LocalVolumes", value(volumes.to_string())),
        ("Networks", safe(&networks.join(","))),
        ("Platform", gotmpl::Value::Nil),
    ])
}

/// `2026-01-02 15:04:05 +0000 UTC`.
pub(super) fn created_at(seconds: i64) -> String {
    let time = havre_base::Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000)).to_string();
    time.replace('T', " ").replace('Z', " +0000 UTC")
}

/// `0.0.0.0:8000-8001->80-81/tcp, 443/tcp`: neighbours are joined.
fn ports(list: &[PortSummary]) -> String {
    let mut sorted: Vec<&PortSummary> = list.iter().collect();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.kind).cmp(&(b.private_port, &b.ip, b.public_port, &b.kind))
    });
    // Groups of the same address and protocol whose ports follow each other on both sides.
    let mut groups: Vec<(&str, &str, u16, u16, u16)> = Vec::new();
    for port in sorted {
        let shift = |by: u16| if port.public_port == 0 { 0 } else { port.public_port.saturating_sub(by) };
        let joins = groups.iter_mut().find(|(ip, kind, first, last, public)| {
            *ip == port.ip
                && *kind == port.kind
                && port.private_port == *last + 1
                && *public == shift(port.private_port - *first)
        });
        match joins {
            Some(group) => group.3 = port.private_port,
            None => {
                groups.push((&port.ip, &port.kind, port.private_port, port.private_port, port.public_port))
            }
        }
    }
    let range =
        |first: u16, last: u16| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let texts: Vec<String> = groups
        .into_iter()
        .map(|(ip, kind, first, last, public)| {
            let inside = format!("{}/{kind}", range(first, last));
            if public == 0 {
                return inside;
            }
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            format!("{ip}:{}->{inside}", range(public, public + (last - first)))
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ports_are_joined() {
        let port = |ip: &str, private_port, public_port| PortSummary {
            ip: ip.into(),
            private_port,
            public_port,
            kind: "tcp".into(),
        };
        let list =
            [port("0.0.0.0", 80, 8000), port("0.0.0.0", 81, 8001), port("", 443, 0), port("::", 80, 8000)];
        assert_eq!(ports(&list), "0.0.0.0:8000-8001->80-81/tcp, [::]:8000->80/tcp, 443/tcp");
    }

    #[test]
    fn a_hostile_name_does_not_reach_the_terminal() {
        let container = ContainerSummary {
            command: "sh -c \x1b]0;owned\x07".into(),
            names: vec!["/web".into()],
            image: "busybox".into(),
            ..ContainerSummary::default()
        };
        let rows = vec![fields(&container, true, 0)];
        let out = Format::parse("table {{.Command}}\t{{.Names}}").unwrap().rows(&HEADINGS, rows).unwrap();
        assert!(!out.contains('\x1b') && out.contains("\\u{1b}]0;owned"), "{out}");
    }
}
