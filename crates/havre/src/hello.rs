//! The program of the embedded image `hello`: it runs inside the container and says what it finds
//! there, so that the first container explains itself.
//!
//! Invariants: every figure is read from the kernel or handed over by the engine, none is invented;
//! what cannot be read is left out.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

/// Docker's names for the kernel's capabilities would be a table; the count says enough here.
const ALL_CAPABILITIES: u32 = 41;

/// Prints the story.
pub(crate) fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let text = story(&Style(out.is_terminal()));
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Colours, on a terminal only.
struct Style(bool);

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn heading(&self, text: &str) -> String {
        self.paint("1;36", text)
    }
    fn figure(&self, text: &str) -> String {
        self.paint("1", text)
    }
    fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn story(style: &Style) -> String {
    let mut out = String::new();
    let status = read("/proc/self/status").unwrap_or_default();
    writeln!(out, "\n{}\n", style.heading("Hello from Havre: this program runs inside a container.")).ok();
    let id = read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".into());
    let id = style.figure(&id);
    writeln!(
        out,
        "The command line asked the engine for a container of the image 'hello', which lies inside the"
    )
    .ok();
    writeln!(out, "havre binary itself. The engine made container {id} and started this program in it.\n")
        .ok();
    // The engine's and the supervisor's steps, then the runtime's.
    let traces = ["HAVRE_TRACE_ENGINE", "HAVRE_TRACE"].map(|name| std::env::var(name).unwrap_or_default());
    if let Some(steps) = timings(&traces.join(","), style) {
        writeln!(out, "{}", style.heading("How long each step took")).ok();
        writeln!(out, "{steps}").ok();
    }
    writeln!(out, "{}", style.heading("What separates it from the host")).ok();
    let mut row = |name: &str, text: String| {
        writeln!(out, "  {name:15} {text}").ok();
    };
    let pid = std::process::id();
    let first = if pid == 1 { ", the first of its own process tree" } else { "" };
    row("process", format!("{}{first}", style.figure(&pid.to_string())));
    row("namespaces", namespaces(style));
    if let Some(root) = read("/proc/self/mountinfo").and_then(|mounts| root_mount(&mounts)) {
        row("root", root);
    }
    if let Some(text) = capabilities(&status, style) {
        row("capabilities", text);
    }
    if let Some(text) = filters(&status) {
        row("system calls", text);
    }
    row("limits", limits());
    write!(
        out,
        "\n{}\n  havre run --rm -it hello               the same with colours\n  havre load -i image.tar                bring an image (docker save, OCI layout)\n  havre run --rm -it IMAGE sh            a shell in it\n  havre run --rm -m 64m --cpus 0.5 hello with limits: the line above changes\n  havre ps -a                            what runs and what ran\n  havre --help                           everything else\n",
        style.heading("What to try next")
    )
    .ok();
    writeln!(
        out,
        "\n{}",
        style.faint("The docker command works as well: DOCKER_HOST=unix:///run/havre/havre.sock docker ps")
    )
    .ok();
    out
}

/// `step=nanos,step=nanos` as a list with a sum.
fn timings(trace: &str, style: &Style) -> Option<String> {
    let steps: Vec<(&str, u64)> = trace
        .split(',')
        .filter_map(|step| step.split_once('='))
        .filter_map(|(name, nanos)| Some((name, nanos.parse().ok()?)))
        .collect();
    if steps.is_empty() {
        return None;
    }
    let width = steps.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(15);
    let mut out = String::new();
    for (name, nanos) in &steps {
        writeln!(out, "  {:width$} {:>9}", name.replace('_', " "), duration(*nanos)).ok();
    }
    let sum = steps.iter().map(|(_, nanos)| nanos).sum();
    let pad = format!("{:>9}", duration(sum));
    writeln!(out, "  {:width$} {}", "together", style.figure(&pad)).ok();
    Some(out)
}

/// Microseconds below a millisecond, else milliseconds with two digits.
fn duration(nanos: u64) -> String {
    let micros = nanos / 1_000;
    if micros < 1_000 {
        format!("{micros} µs")
    } else {
        format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10)
    }
}

/// The kinds of namespaces with the kernel's number of each.
fn namespaces(style: &Style) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for kind in ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user", "time"] {
        let Ok(link) = fs::read_link(format!("/proc/self/ns/{kind}")) else { continue };
        let link = link.to_string_lossy().into_owned();
        let number = link.split(['[', ']']).nth(1).unwrap_or_default();
        kinds.push(format!("{kind} {}", style.faint(number)));
    }
    kinds.join(", ")
}

/// The file system at `/` of a mountinfo text: the last mount there is the visible one.
fn root_mount(mountinfo: &str) -> Option<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"))?;
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    let options = before.split(' ').nth(5).unwrap_or_default();
    let super_options = after.split(' ').nth(2).unwrap_or_default();
    // One `lowerdir=a:b`, or since Linux 6.8 a `lowerdir+=a` for each.
    let layers: usize = super_options
        .split(',')
        .filter_map(|option| option.strip_prefix("lowerdir=").or_else(|| option.strip_prefix("lowerdir+=")))
        .map(|layers| layers.split(':').filter(|layer| !layer.is_empty()).count())
        .sum();
    let access = if options.split(',').any(|option| option == "ro") { "read-only" } else { "writable" };
    let layers = match layers {
        0 => String::new(),
        1 => ", 1 image layer below a layer of its own".to_owned(),
        count => format!(", {count} image layers below a layer of its own"),
    };
    Some(format!("{kind}, {access}{layers}"))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn capabilities(status: &str, style: &Style) -> Option<String> {
    let effective = u64::from_str_radix(field(status, "CapEff")?, 16).ok()?.count_ones();
    let bounding = u64::from_str_radix(field(status, "CapBnd")?, 16).ok()?.count_ones();
    let figure = style.figure(&effective.to_string());
    Some(format!("{figure} of {ALL_CAPABILITIES}, and never more than {bounding}"))
}

fn filters(status: &str) -> Option<String> {
    let seccomp = match field(status, "Seccomp")? {
        "2" => {
            let filters = field(status, "Seccomp_filters").unwrap_or("1");
            format!("filtered by seccomp ({filters} filter{})", if filters == "1" { "" } else { "s" })
        }
        "1" => "strict seccomp".to_owned(),
        _ => "not filtered".to_owned(),
    };
    let privileges = match field(status, "NoNewPrivs") {
        Some("1") => "; no program can gain privileges",
        _ => "",
    };
    Some(format!("{seccomp}{privileges}"))
}

/// The cgroup limits that can be read from inside, in both versions of the interface.
fn limits() -> String {
    let mut limits = Vec::new();
    let memory =
        read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    // Version 1 says "no limit" with a number near 2^63.
    match memory.and_then(|text| text.parse::<u64>().ok()).filter(|bytes| *bytes < 1 << 60) {
        Some(bytes) => limits.push(format!("memory {} MiB", bytes >> 20)),
        None => limits.push("memory unlimited".into()),
    }
    let cpu = read("/sys/fs/cgroup/cpu.max").or_else(|| {
        let quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?;
        Some(format!("{quota} {}", read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?))
    });
    let share = cpu.and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        let (quota, period): (u64, u64) =
            (quota.parse().ok()?, period.parse().ok().filter(|period| *period > 0)?);
        Some(format!("{}.{:02} CPUs", quota / period, quota % period * 100 / period))
    });
    limits.push(share.unwrap_or_else(|| "all CPUs".into()));
    let pids = read("/sys/fs/cgroup/pids.max").or_else(|| read("/sys/fs/cgroup/pids/pids.max"));
    match pids.and_then(|text| text.parse::<u64>().ok()) {
        Some(count) => limits.push(format!("{count} processes")),
        None => limits.push("any number of processes".into()),
    }
    limits.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_told_without_colours_and_without_lies() {
        let text = story(&Style(false));
        assert!(!text.contains('\x1b') && text.contains(&std::process::id().to_string()), "{text}");
    }

    #[test]
    fn steps_are_listed_with_their_sum() {
        let text = timings("clone=750000,pivot_root=1250000,junk", &Style(false)).unwrap();
        assert!(text.contains("750 µs") && text.contains("pivot root") && text.contains("2.00 ms"), "{text}");
        assert_eq!(timings("", &Style(false)), None);
    }

    #[test]
    fn the_root_is_the_last_mount_there() {
        let info = "1 0 0:1 / / rw - rootfs rootfs rw\n\
                    2 1 0:2 / / ro,relatime - overlay overlay ro,lowerdir=/a:/b,upperdir=/c,workdir=/d\n\
                    3 2 0:3 / /proc rw - proc proc rw";
        assert_eq!(
            root_mount(info).as_deref(),
            Some("overlay, read-only, 2 image layers below a layer of its own")
        );
    }

    #[test]
    fn privileges_are_read_from_the_status() {
        let status = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(capabilities(status, &Style(false)).as_deref(), Some("14 of 41, and never more than 14"));
        assert_eq!(
            filters(status).as_deref(),
            Some("filtered by seccomp (1 filter); no program can gain privileges")
        );
    }
}
